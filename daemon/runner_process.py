"""One life of the GPU process: start it, talk to it, kill it with all that belongs to it, say how it died."""

import asyncio
import collections
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from daemon.config import Settings
from daemon.devices import Device
from daemon.errors import RunnerCrashed, RunnerStalled, SetupFailed, TranscriptdError
from daemon.pipeline.settings import RunnerSettings
from daemon.protocol import MAX_LINE_BYTES, Memory, Message, encode

log = logging.getLogger("transcriptd.runner")

# Time for the process to leave by itself, and once more after SIGTERM.
TERMINATE_GRACE_SECONDS = 5.0
STDERR_TAIL_LINES = 30
GROWTHS = 8  # jobs after which the memory of a process that is never idle is judged

# The runner needs none of these, and untrusted media comes near it: what it does not have it cannot leak. pyannote.audio
# has an OpenTelemetry exporter of its own, which would send the headers meant for our collector to its makers.
WITHHELD_PREFIXES = ("AWS_", "TRANSCRIPTD_", "WEBHOOK_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OTEL_")

# glibc gives every large block back to the kernel when it is freed, and the models' layers ask for the same ones over and
# over: three million page faults for 24 short recordings, a quarter of the processor time (measured: docs/performance.md).
# With one arena that keeps its memory, in huge pages, there are a thousand. malloc(3), and "Memory Allocation Tunables" in
# the manual of the GNU C Library; other libraries read none of these.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 1024**2),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@dataclass
class RunnerProcess:
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stderr_tail: collections.deque[str]
    stderr_task: asyncio.Task[None]
    last_message_at: float = field(default_factory=time.monotonic)
    reason: str | None = None  # why we ended it, when we did
    blamed: frozenset[str] = frozenset()  # the jobs for which we ended it
    jobs: int = 0
    in_hand: list[str] = field(default_factory=list)  # job ids, when it ended
    first_memory: Memory | None = None
    growths: collections.deque[int] = field(
        default_factory=lambda: collections.deque(maxlen=GROWTHS)
    )  # since then, in bytes

    @classmethod
    async def start(cls, settings: Settings, device: Device) -> Self:
        """A fresh interpreter in a process group of its own, told its settings over the socket pair."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(WITHHELD_PREFIXES)}
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "daemon.pipeline", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                process_group=0,  # so that the whole group can be killed, and a terminal's Ctrl-C does not reach it
                env=ALLOCATOR | environment | dict(device.environment),
            )
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=MAX_LINE_BYTES)
        tail: collections.deque[str] = collections.deque(maxlen=STDERR_TAIL_LINES)
        if process.stderr is None:
            raise SetupFailed("the runner process has no standard error")
        stderr_task = asyncio.create_task(_drain_stderr(process.stderr, tail), name="runner stderr")
        setup = {
            "pipeline": settings.pipeline,
            "settings": json.loads(RunnerSettings.from_settings(settings, device).to_json()),
            "log_level": settings.logging_level,
            "parent": os.getpid(),
        }
        writer.write(json.dumps(setup).encode() + b"\n")
        log.info("runner starting", extra={"runner_pid": process.pid})
        return cls(process, reader, writer, tail, stderr_task)

    def send(self, message: Message) -> None:
        self.writer.write(encode(message))

    def kill(self, reason: str, blamed: Collection[str] = ()) -> None:
        """End it at once; the first reason given is the one that counts, with the jobs to blame where they are known."""
        if self.reason is None:
            self.reason, self.blamed = reason, frozenset(blamed)
        self._signal_group(signal.SIGKILL)

    async def reap(self) -> None:
        """Wait for the process to be gone, with everything in its group: TERM first, then KILL."""
        try:
            for number in (None, signal.SIGTERM):
                if number is not None:
                    self._signal_group(number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TERMINATE_GRACE_SECONDS):
                        await self.process.wait()
                        return
        finally:
            self._signal_group(signal.SIGKILL)
            await self.process.wait()
            self.writer.close()
            await asyncio.wait((self.stderr_task,), timeout=1)

    def post_mortem(self, stall_seconds: float) -> TranscriptdError:
        """How it died, as the error of the jobs it had in hand."""
        detail = "\n".join(self.stderr_tail)
        if self.reason == "stalled":
            return RunnerStalled(f"the runner made no progress for {stall_seconds:g} s and was replaced", detail=detail)
        status = self.process.returncode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        hint = "; it might have run out of memory" if status == -signal.SIGKILL and self.reason is None else ""
        return RunnerCrashed(f"the runner process {how}{hint}", detail=detail)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


async def _drain_stderr(stream: asyncio.StreamReader, tail: collections.deque[str]) -> None:
    """Keep the end of what native libraries print: it is all there is to explain a crash."""
    while chunk := await stream.read(4096):
        for line in chunk.decode(errors="replace").splitlines():
            tail.append(line[:500])
            log.debug("runner printed", extra={"line": line[:500]})
