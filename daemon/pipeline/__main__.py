"""The runner process: `python -m daemon.pipeline FD`. Read messages from the poller, run the pipeline and reply.

Each job runs in its own thread. The main thread only reads messages, so it receives a Cancel while jobs run. The poller
limits how many jobs run at once.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.confinement.runner import confine, end_connections
from daemon.environment import is_offline
from daemon.errors import DeviceFault, Interrupted, SetupFailed, TranscriptdError
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.protocol.events import BackgroundProgress, CheckpointSaved, JobWaiting, PipelineEvent, Progress
from daemon.protocol.messages import (
    Cancel,
    Done,
    Failed,
    Fatal,
    JobEvent,
    Memory,
    Run,
    RunnerMessage,
    Setup,
    Shutdown,
    decode,
    encode,
)
from daemon.protocol.priority import ONLY, Priority
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript
from daemon.telemetry.logs import configure, log_context, take_stdout
from daemon.telemetry.memory import resident_bytes
from daemon.telemetry.redaction import describe_with_type

log = logging.getLogger("transcriptd.pipeline")

EXIT_OK = 0
EXIT_FATAL = 70  # EX_SOFTWARE: setup failed or the device faulted; a Fatal message carries the cause

PR_SET_PDEATHSIG = 1
PROGRESS_PERIOD_SECONDS = 0.2
ALIVE_PERIOD_SECONDS = 1.0  # between liveness events of a job that waits for other jobs
MAX_TRACEBACK_CHARS = 16_000


class Channel:
    """The runner's end of the socket pair. `send` is thread-safe."""

    def __init__(self, connection: socket.socket) -> None:
        self._lock = threading.Lock()
        self._file = connection.makefile("rwb")

    def send(self, message: RunnerMessage) -> None:
        with self._lock:
            self._file.write(encode(message))
            self._file.flush()

    def receive_line(self) -> bytes:
        """Read the next line. An empty result is the end of the stream: the poller has exited."""
        try:
            return self._file.readline()
        except ConnectionResetError:  # it was killed before it had read everything that this process sent
            return b""


class JobReporter:
    """Forward a job's events to the poller, rate-limited. `cancel` cancels the job."""

    def __init__(self, job_id: str, channel: Channel, clock: Clock = SYSTEM_CLOCK, priority: Priority = ONLY) -> None:
        self.priority = priority
        self._clock = clock
        self._job_id = job_id
        self._channel = channel
        self._cancelled = False
        self._begun = False
        self._alive_at = -math.inf  # monotonic time of the last liveness event
        self._background_at = -math.inf  # monotonic time of the last progress of a background stage

    def emit(self, event: PipelineEvent) -> None:
        quiet_seconds = self._clock.monotonic() - self._alive_at
        match event:
            case Progress(stage, fraction):
                self._begun = True
                if fraction >= 1 or quiet_seconds >= PROGRESS_PERIOD_SECONDS:
                    self._alive_at = self._clock.monotonic()
                    self._send(Progress(stage, min(1.0, max(0.0, fraction))))
            case BackgroundProgress(stage, fraction):
                now = self._clock.monotonic()
                if fraction >= 1 or now - self._background_at >= PROGRESS_PERIOD_SECONDS:
                    self._background_at = now
                    self._send(BackgroundProgress(stage, min(1.0, max(0.0, fraction))))
            case JobWaiting():
                # Send nothing until the job has started: until then the poller may move it to another runner.
                if self._begun and quiet_seconds >= ALIVE_PERIOD_SECONDS:
                    self._alive_at = self._clock.monotonic()
                    self._send(event)
            case _:
                self._send(event)

    def _send(self, event: PipelineEvent) -> None:
        self._channel.send(JobEvent(self._job_id, event))

    def cancel(self) -> None:
        self._cancelled = True

    def check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted(f"job {self._job_id} was cancelled")


class JobThreads:
    """Run each job in its own thread."""

    def __init__(self, channel: Channel, pipeline: Any) -> None:
        self._channel = channel
        self._pipeline = pipeline
        self._answering = threading.Lock()
        self._reporters: dict[str, JobReporter] = {}
        self._closing = False

    def begin(self, run: Run) -> None:
        reporter = JobReporter(run.job_id, self._channel, priority=run.priority)
        # A daemon thread: the process must exit at the end of the stream even if jobs are still running.
        thread = threading.Thread(target=self._work, args=(run, reporter), name=f"job {run.job_id}", daemon=True)
        with self._answering:
            self._reporters[run.job_id] = reporter
        thread.start()

    def cancel(self, job_id: str) -> None:
        if reporter := self._reporters.get(job_id):
            reporter.cancel()

    def close(self) -> None:
        """Exit the process as soon as no job is running."""
        with self._answering:
            self._closing = True
            if not self._reporters:
                _exit(EXIT_OK)

    def _work(self, run: Run, reporter: JobReporter) -> None:
        with log_context(**run.log_fields):
            answer = _serve(run, self._pipeline, reporter)
        with self._answering:
            del self._reporters[run.job_id]
            # Send Memory before the reply: the poller may decide to retire this process before it sends another job.
            self._channel.send(_memory(idle=not self._reporters))
            self._channel.send(answer)
            if isinstance(answer, Fatal):
                _exit(EXIT_FATAL)
            if self._closing and not self._reporters:
                _exit(EXIT_OK)


def main(arguments: list[str]) -> int:
    faulthandler.enable()
    # Only the parent may stop this process; Ctrl-C in a terminal must not, nor the end of the terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # meant for the poller; `systemctl kill` may send it to every process
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    setup = decode(channel.receive_line())
    if not isinstance(setup, Setup):
        raise ValueError(f"the poller sent {type(setup).__name__} before Setup")
    _die_with_parent(setup.parent_pid)
    hf_token = setup.settings.hf_token
    configure(setup.log_level, "runner", hidden=[hf_token] if hf_token else [], stream=take_stdout())
    offline = is_offline()
    _load_gpu_driver(setup.settings.device)
    try:
        confine(
            hidden=[Path(path) for path in setup.hidden_paths], offline=offline, allow_weak=setup.allow_weak_sandbox
        )
        pipeline = _load_class(setup.pipeline)(setup.settings)
        ready = pipeline.load()
        if offline:
            end_connections(allow_weak=setup.allow_weak_sandbox)
        channel.send(ready)
        channel.send(_memory(idle=True))
    except TranscriptdError as error:
        channel.send(Fatal(error.code, error.message, _traceback()))
        return EXIT_FATAL
    except Exception as error:  # noqa: BLE001  # report any setup error of a library to the operator
        channel.send(Fatal(SetupFailed.code, describe_with_type(error), _traceback()))
        return EXIT_FATAL
    threads = JobThreads(channel, pipeline)
    while line := channel.receive_line():
        match decode(line):
            case Run() as run:
                threads.begin(run)
            case Cancel(job_id):
                threads.cancel(job_id)
            case Shutdown():
                threads.close()
            case unexpected:
                raise ValueError(f"the poller sent {type(unexpected).__name__}")
    return EXIT_OK  # the poller has exited, so no one reads the results; do not wait for a CUDA call to return


def _serve(run: Run, pipeline: Any, reporter: JobReporter) -> Done | Failed | Fatal:
    """Run one job and return the reply. After a Fatal, this process must not be used again."""
    import numpy as np  # imported here so that a setup failure is reported before the heavy imports

    try:
        reporter.check_cancelled()
        audio = [np.memmap(path, dtype="<f4", mode="r") for path in run.audio_paths]
        options = JobOptions.model_validate(run.options)
        checkpoints = Checkpoints(Path(run.checkpoint_dir), lambda name: reporter.emit(CheckpointSaved(name)))
        if run.words_path is None:
            transcript = pipeline.run(run.job_id, audio, options, reporter, checkpoints)
        else:
            words = Transcript.model_validate_json(Path(run.words_path).read_bytes())
            transcript = pipeline.diarize_again(run.job_id, audio, words, options, reporter, checkpoints)
        Path(run.result_path).write_bytes(transcript.model_dump_json().encode())
    except DeviceFault as error:
        log.warning("device fault", exc_info=True)
        return Fatal(error.code, error.message, _traceback())
    except TranscriptdError as error:
        return Failed(run.job_id, error.code, error.message, _traceback())
    except Exception as error:  # a failed job must not end the process
        log.exception("job failed unexpectedly")
        return Failed(run.job_id, TranscriptdError.code, describe_with_type(error), _traceback())
    return Done(run.job_id)


def _traceback() -> str:
    return traceback.format_exc()[-MAX_TRACEBACK_CHARS:]


def _memory(idle: bool) -> Memory:
    torch = sys.modules.get("torch")  # do not import torch only for this: a pipeline without it has no device
    device_bytes = 0
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        device_bytes = total - free
    return Memory(resident_bytes(os.getpid()) or 0, device_bytes, idle)


def _load_class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _load_gpu_driver(device: str) -> None:
    """Load the kernel module that CUDA's driver would load: in the sandbox, its set-user-ID helper has no effect."""
    if device != "cpu" and Path("/proc/driver/nvidia").exists() and not Path("/dev/nvidia-uvm").exists():
        with contextlib.suppress(OSError):
            subprocess.run(["nvidia-modprobe", "-u", "-c", "0"], stdin=subprocess.DEVNULL, check=False)  # noqa: S607


def _die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the poller dies. Linux only; elsewhere the end of the stream ends it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_OK)  # the parent died before the prctl call


def _exit(status: int) -> None:
    sys.stdout.flush()
    os._exit(status)  # skip interpreter teardown: CUDA and thread pools are known to hang in it


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
