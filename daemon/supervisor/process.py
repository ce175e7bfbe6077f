"""One runner process: start it, send messages, kill it with its process group, and report how it ended."""

import asyncio
import collections
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Self

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.environment import credential_paths
from daemon.errors import RunnerCrashed, RunnerStalled, SetupFailed, TranscriptdError
from daemon.protocol.messages import MAX_LINE_BYTES, Memory, RunnerMessage, Setup, encode
from daemon.protocol.runner_settings import RunnerSettings
from daemon.supervisor.devices import Device

log = logging.getLogger("transcriptd.runner")

# Time for the process to exit, and again after SIGTERM.
TERMINATE_GRACE_SECONDS = 5.0
STDERR_TAIL_LINES = 30
GROWTHS = 8  # number of jobs over which the memory growth of a never-idle process is measured

# The runner needs none of these and handles data from untrusted media, so it must not be able to leak them. Also,
# pyannote.audio has its own OpenTelemetry exporter, which would send the headers for our collector to its vendor.
WITHHELD_PREFIXES = ("AWS_", "TRANSCRIPTD_", "WEBHOOK_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OTEL_")

# glibc returns every large block to the kernel when it is freed, and the models' layers allocate the same blocks again and
# again: three million page faults for 24 short recordings, a quarter of the CPU time (measured: docs/performance.md). With
# one arena that keeps its memory in huge pages, there are a thousand. See malloc(3) and "Memory Allocation Tunables" in the
# GNU C Library manual; other C libraries ignore these variables.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(256 * 1024**2),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 1024**2),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def runner_settings(settings: Settings, device: Device) -> RunnerSettings:
    """Return the settings for the process of this device."""
    return RunnerSettings(
        model=settings.model,
        models=settings.models,
        max_loaded_models=settings.max_loaded_models,
        device=device.kind,
        compute_type=settings.compute_type,
        batch_size=settings.batch_size,
        unpadded_models=settings.unpadded_models,
        cpu_threads=device.cpu_threads,
        diarization_model=settings.diarization_model,
        alignment_models=settings.alignment_models,
        hf_token=settings.hf_token.get_secret_value() if settings.hf_token else None,
        weights_manifest=str(settings.weights_manifest) if settings.weights_manifest else None,
        require_pinned_weights=settings.require_pinned_weights,
    )


@dataclass
class RunnerProcess:
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stderr_tail: collections.deque[str]
    stderr_task: asyncio.Task[None]
    last_message_at: float  # monotonic
    reason: str | None = None  # why the daemon ended it, if it did
    blamed: frozenset[str] = frozenset()  # the jobs that caused this
    jobs: int = 0
    in_hand: list[str] = field(default_factory=list)  # its job IDs when it ended
    first_memory: Memory | None = None
    growths: collections.deque[int] = field(
        default_factory=lambda: collections.deque(maxlen=GROWTHS)
    )  # since then, in bytes

    @classmethod
    async def start(cls, settings: Settings, device: Device, clock: Clock = SYSTEM_CLOCK) -> Self:
        """Start a new interpreter in its own process group, and send it the settings over the socket pair."""
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
        setup = Setup(
            settings.pipeline,
            runner_settings(settings, device),
            settings.logging_level,
            os.getpid(),
            [str(path.absolute()) for path in credential_paths()],
            settings.allow_weak_sandbox,
        )
        writer.write(encode(setup))
        log.info("runner starting", extra={"runner_pid": process.pid})
        return cls(process, reader, writer, tail, stderr_task, clock.monotonic())

    def send(self, message: RunnerMessage) -> None:
        self.writer.write(encode(message))

    def kill(self, reason: str, blamed: Collection[str] = ()) -> None:
        """Kill the process group. Only the first call sets the reason, and the jobs to blame if they are known."""
        if self.reason is None:
            self.reason, self.blamed = reason, frozenset(blamed)
        self._signal_group(signal.SIGKILL)

    async def reap(self) -> None:
        """Wait for the process to exit. If it does not, send SIGTERM, then SIGKILL, to its whole group."""
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
        """Return the error for the jobs of the ended process, which says how it ended."""
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
    """Keep the last lines on standard error: after a crash in a native library, they are the only explanation."""
    while chunk := await stream.read(4096):
        for line in chunk.decode(errors="replace").splitlines():
            tail.append(line[:500])
            log.debug("runner printed", extra={"line": line[:500]})
