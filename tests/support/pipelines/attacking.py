"""A pipeline whose code was taken over: it tries what a runner must not be able to do."""

import ctypes
import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.scripted_pipeline import ScriptedPipeline
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.runtime.reporter import Reporter
from daemon.protocol.messages import Ready
from daemon.protocol.runner_settings import RunnerSettings
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_PEEKDATA = 16, 2
PROCESS_VM_READV, PIDFD_GETFD, IO_URING_SETUP, PIDFD_SEND_SIGNAL = 310, 438, 425, 424
METADATA = ("169.254.169.254", 80)


class AttackingPipeline(ScriptedPipeline):
    """`alignment_models` names the port, the local socket and the credential that the attacker looks for."""

    def __init__(self, settings: RunnerSettings) -> None:
        super().__init__(settings)
        self._port, self._path, self._secret = settings.alignment_models
        self.found: dict[str, str] = {}
        self._loaded = threading.Event()
        self._early = threading.Thread(target=self._attack_later, daemon=True)  # exists before the last filter

    def load(self) -> Ready:
        self._attack("load")
        self._early.start()
        return super().load()

    def run(
        self,
        job_id: str,
        audio: Sequence[np.ndarray],
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> Transcript:
        self._attack("run")
        thread = threading.Thread(target=self._attack, args=("thread",))
        thread.start()
        thread.join()
        self._loaded.set()
        self._early.join()
        self.found["connect to a local socket"] = _outcome(lambda: _connect(socket.AF_UNIX, self._path))
        self.found["listen"] = _outcome(lambda: _listen(f"{self._path}.new"))
        transcript = super().run(job_id, audio, options, reporter, checkpoints)
        return transcript.model_copy(
            update={"segments": [transcript.segments[0].model_copy(update={"text": json.dumps(self.found)})]}
        )

    def _attack_later(self) -> None:
        self._loaded.wait()
        self.found["connect to a local socket (early thread)"] = _outcome(lambda: _connect(socket.AF_UNIX, self._path))

    def _attack(self, when: str) -> None:
        parent = os.getppid()
        acts: dict[str, Callable[[], object]] = {
            "connect over IPv4": lambda: _connect(socket.AF_INET, ("127.0.0.1", int(self._port))),
            "connect over IPv6": lambda: _connect(socket.AF_INET6, ("::1", int(self._port))),
            "send to the instance metadata": lambda: _send(METADATA),
            "send raw packets": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
            "talk to the hypervisor": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close(),
            "read the credentials": lambda: Path(self._secret).read_bytes(),
            "read them by another path": lambda: Path(f"/proc/self/root{self._secret}").read_bytes(),
            "move them": lambda: os.link(self._secret, f"{self._path}.copy"),
            "trace the daemon": lambda: _call(101, PTRACE_ATTACH, parent, 0, 0),
            "read its memory": lambda: _call(PROCESS_VM_READV, parent, 0, 0, 0, 0, 0),
            "open its memory": lambda: Path(f"/proc/{parent}/mem").open("rb").close(),
            "read its environment": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
            "take its files": lambda: _call(PIDFD_GETFD, 0, 0, 0),
            "signal it": lambda: os.kill(parent, signal.SIGCONT),
            "signal it by its file": lambda: _call(PIDFD_SEND_SIGNAL, 0, 0, 0, 0),
            "go around the filter": lambda: _call(IO_URING_SETUP, 0, 0),
        }
        for name, act in acts.items():
            self.found[f"{name} ({when})"] = _outcome(act)


def _outcome(act: Callable[[], object]) -> str:
    """Return "possible", or the error's name."""
    try:
        act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "possible"


def _connect(family: int, address: str | tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(address)


def _send(address: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", address)


def _listen(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()


def _call(number: int, *arguments: int) -> None:
    if LIBC.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
