"""The fork server: `python -I -m daemon.media.fork_server PARENT` loads FFmpeg once and forks a decoder per file.

Loading FFmpeg's libraries takes several times as long as decoding a short recording. This process loads them once; it
reads no media and has no job data. Each recording still gets its own process, which applies the restrictions of
`sandbox.py` after the fork and before it reads the file. AFL and Android's zygote use the same design, for speed and
memory respectively.

A socket serves as this process's stdin and stderr. Each packet on it requests a decoder and carries three sockets:

    talk   stdin and stdout of the decoder: request and reply
    log    stderr of the decoder
    life   stays here: receives the exit status when the decoder ends; if the peer closes it, the decoder is killed

When the request socket closes, the server exits after its last decoder. It dies with PARENT, and its decoders with it.

Security trade-offs compared with a new process per file:

- Memory: requests pass through `talk`, which this process does not read, so children inherit no data of other jobs. The
  child closes the sockets of the server and of other recordings.
- Address layout: decoders of one server share it, so an attacker could crash one to learn addresses and use them on the
  next. Therefore `decoder_pool.py` retires a server once one of its decoders died from a signal, and the next attempt
  meets a new layout. The remaining risk is a file that makes a decoder leak addresses without a crash. Its sender sees
  only words and times, or a short message, so this risk is accepted.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import tokenize  # noqa: F401  # a traceback may need it, and a decoder that is locked down cannot import it
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from daemon.media import decode as decoder
from daemon.media.sandbox import die_with_parent


@dataclass(frozen=True, slots=True)
class Child:
    pid: int
    process: int  # pidfd, readable once the child has ended
    life: socket.socket


class Server:
    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(requests, selectors.EVENT_READ)

    def serve(self) -> None:
        """Serve requests until the request socket has closed and all children have ended."""
        while self._waiting.get_map():
            for key, _ in self._waiting.select()[:1]:  # one at a time: handling it may invalidate the next
                child: Child | None = key.data
                if child is None:
                    self._take_request()
                elif key.fileobj is child.life:
                    self._waiting.unregister(child.life)  # still receives the exit status
                    with suppress(ProcessLookupError):  # the child may have left its process group
                        os.killpg(child.pid, signal.SIGKILL)
                    signal.pidfd_send_signal(child.process, signal.SIGKILL)
                else:
                    self._reap(child)

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
            except OSError as error:  # process limit reached: fail only this request
                log.send(str(error).encode())
                _send_status(life, 1)
                return
            if pid == 0:
                _decode(talk.fileno(), log.fileno(), server)
        os.setpgid(pid, pid)
        child = Child(pid, os.pidfd_open(pid), life)
        self._waiting.register(child.process, selectors.EVENT_READ, child)
        self._waiting.register(child.life, selectors.EVENT_READ, child)

    def _reap(self, child: Child) -> None:
        _, status = os.waitpid(child.pid, 0)
        self._waiting.unregister(child.process)
        os.close(child.process)
        if child.life in self._waiting.get_map():
            self._waiting.unregister(child.life)
        _send_status(child.life, os.waitstatus_to_exitcode(status))


def _send_status(life: socket.socket, status: int) -> None:
    with life, suppress(ConnectionError):  # the peer may have stopped waiting
        life.send(str(status).encode())


def _decode(talk: int, log: int, server: int) -> NoReturn:
    """Run the decoder in the child and exit. Never returns to the server's code."""
    status = 1
    try:
        for descriptor, standard in ((talk, 0), (talk, 1), (log, 2)):
            os.dup2(descriptor, standard)
        last = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208  # names, not paths
        os.closerange(3, last + 1)  # inherited descriptors of the server and of other recordings
        decoder.main(server)
        status = 0
    except Exception:  # noqa: BLE001  # a bug in our code ends only this child, with a traceback on its stderr
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    gc.freeze()  # keeps the garbage collector from touching, and so copying, pages shared with the children
    with socket.socket(fileno=0) as requests:
        Server(requests).serve()


if __name__ == "__main__":
    main()
