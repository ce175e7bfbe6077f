"""The fork server: `python -I -m daemon.fork_server PARENT` has FFmpeg's libraries loaded and forks a decoder for each file.

Loading them takes several times as long as decoding a short recording. So it is done once, in a process that reads no
media and knows no job, and each recording still has a process of its own, which gives up what `confine.py` says after
the fork and before it opens the file. AFL and Android's zygote do the same, the one for speed, the other for memory.

Each packet on the socket that is this process's stdin, and its stderr, asks for a decoder. It carries three sockets:

    talk   stdin and stdout of the decoder: its request, its answer
    log    its stderr
    life   kept here: told the exit status when the decoder has ended; closed by the other side, it ends the decoder

When nothing more can be asked for, the server leaves after its last decoder. It dies with PARENT, and they with it.

What a fork gives away, against a new process each time:

- Memory. Requests pass through `talk`, which this process does not read, so there is nothing of other jobs to inherit.
  The sockets of the server and of other recordings are closed in the child.
- Address layout: decoders of one server share it. Who crashes one to learn where things are would find them there the
  next time. So `media.py` asks no server again that has forked a decoder which died of a signal: each such guess meets
  a new layout. What remains is a file that makes a decoder tell of addresses without a crash. Its sender sees words
  and times, or a short message, and this is accepted.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from daemon import decoder
from daemon.confine import end_with


@dataclass(frozen=True, slots=True)
class Child:
    pid: int
    process: int  # a pidfd: readable once it has ended
    life: socket.socket


class Server:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(requests, selectors.EVENT_READ)

    def serve(self) -> None:
        """Fork what is asked for, until nothing more can be asked for and all that was forked has ended."""
        while self._waiting.get_map():
            for key, _ in self._waiting.select()[:1]:  # one at a time: it may make the next one void
                child: Child | None = key.data
                if child is None:
                    self._take_request()
                elif key.fileobj is child.life:
                    self._waiting.unregister(child.life)  # it is still told of the end
                    with suppress(ProcessLookupError):  # it may have left its group
                        os.killpg(child.pid, signal.SIGKILL)
                    signal.pidfd_send_signal(child.process, signal.SIGKILL)
                else:
                    self._bury(child)

    def _take_request(self) -> None:
        message, descriptors, *_ = socket.recv_fds(self._requests, 16, 3)
        if not message:
            self._waiting.unregister(self._requests)
            return
        talk, log, life = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        server = os.getpid()
        with talk, log:
            try:
                pid = os.fork()
            except OSError as error:  # there is no room for another process: the trouble of this request alone
                log.send(str(error).encode())
                _tell(life, 1)
                return
            if pid == 0:
                _decode(talk.fileno(), log.fileno(), server)
        os.setpgid(pid, pid)
        child = Child(pid, os.pidfd_open(pid), life)
        self._waiting.register(child.process, selectors.EVENT_READ, child)
        self._waiting.register(child.life, selectors.EVENT_READ, child)

    def _bury(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        self._waiting.unregister(child.process)
        os.close(child.process)
        if child.life in self._waiting.get_map():
            self._waiting.unregister(child.life)
        _tell(child.life, os.waitstatus_to_exitcode(status))


def _tell(life: socket.socket, status: int) -> None:
    with life, suppress(ConnectionError):  # nobody may be waiting any more
        life.send(str(status).encode())


def _decode(talk: int, log: int, server: int) -> NoReturn:
    """The rest of the child's life."""
    status = 1
    try:
        for descriptor, standard in ((talk, 0), (talk, 1), (log, 2)):
            os.dup2(descriptor, standard)
        last = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  # names, and no paths
        os.closerange(3, last + 1)  # what it has of the server, and of other recordings
        decoder.main(server)
        status = 0
    except Exception:  # noqa: BLE001  # a fault of ours is told as that, and ends this child alone
        traceback.print_exc()
    finally:
        os._exit(status)  # not into the server's code above


def main() -> None:
    end_with(int(sys.argv[1]))
    gc.freeze()  # what is here now is shared with all children, as long as nobody writes to it
    with socket.socket(fileno=0) as requests:
        Server(requests).serve()


if __name__ == "__main__":
    main()
