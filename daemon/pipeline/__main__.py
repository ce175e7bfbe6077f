"""The runner process: `python -m daemon.pipeline FD`. Reads messages from the poller, runs the pipeline, answers.

Each job has a thread of its own; the main thread reads, so that a Cancel is heard while jobs run. How many are in hand at
once is the poller's decision.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from daemon.errors import DeviceFault, Interrupted, SetupFailed, TranscriptdError
from daemon.logs import configure, log_context, take_stdout
from daemon.memory import resident_bytes
from daemon.options import JobOptions
from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.settings import RunnerSettings
from daemon.protocol import (
    Batch,
    Cancel,
    Checkpoint,
    Done,
    Failed,
    Fatal,
    Heard,
    Memory,
    Message,
    Progress,
    Run,
    Shutdown,
    StageDone,
    decode,
    encode,
)

log = logging.getLogger("transcriptd.pipeline")

EXIT_OK = 0
EXIT_FATAL = 70  # EX_SOFTWARE: set-up failed or the device faulted; a Fatal message says which

PR_SET_PDEATHSIG = 1
PROGRESS_PERIOD_SECONDS = 0.2
ALIVE_PERIOD_SECONDS = 1.0  # of a job that waits for others
MAX_TRACEBACK_CHARS = 16_000


class Channel:
    """The runner's end of the socket pair. Sending is safe from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._lock = threading.Lock()
        self._file = connection.makefile("rwb")

    def send(self, message: Message) -> None:
        with self._lock:
            self._file.write(encode(message))
            self._file.flush()

    def receive_line(self) -> bytes:
        """The next line; empty at the end of the stream, which means that the poller is gone."""
        return self._file.readline()


class JobReporter:
    """What a pipeline reports of one job: goes to the poller as messages. `cancel` gives the job up."""

    def __init__(self, job_id: str, channel: Channel) -> None:
        self._job_id = job_id
        self._channel = channel
        self._cancelled = False
        self._last: Progress | None = None
        self._sent_at = 0.0

    def progress(self, stage: str, fraction: float) -> None:
        self._last = Progress(self._job_id, stage, min(1.0, max(0.0, fraction)))
        if fraction >= 1 or time.monotonic() - self._sent_at >= PROGRESS_PERIOD_SECONDS:
            self._send(self._last)

    def alive(self) -> None:
        # Nothing, as long as the job has not begun: the poller may take it elsewhere then.
        if self._last is not None and time.monotonic() - self._sent_at >= ALIVE_PERIOD_SECONDS:
            self._send(self._last)

    def _send(self, progress: Progress) -> None:
        self._sent_at = time.monotonic()
        self._channel.send(progress)

    def stage_done(self, stage: str, seconds: float) -> None:
        self._channel.send(StageDone(self._job_id, stage, seconds))

    def batch(self, chunks: int, room: int) -> None:
        self._channel.send(Batch(self._job_id, chunks, room))

    def heard(self, chunks: int, gated: int, dismissed: int) -> None:
        self._channel.send(Heard(self._job_id, chunks, gated, dismissed))

    def cancel(self) -> None:
        self._cancelled = True

    def check_cancelled(self) -> None:
        if self._cancelled:
            raise Interrupted(f"job {self._job_id} was cancelled")


class Desk:
    """The jobs in hand, each in a thread of its own."""

    def __init__(self, channel: Channel, pipeline: Any) -> None:
        self._channel = channel
        self._pipeline = pipeline
        self._answering = threading.Lock()
        self._reporters: dict[str, JobReporter] = {}
        self._closing = False

    def begin(self, run: Run) -> None:
        reporter = JobReporter(run.job_id, self._channel)
        # A daemon thread: the end of the stream ends the process, whatever its jobs do.
        thread = threading.Thread(target=self._work, args=(run, reporter), name=f"job {run.job_id}", daemon=True)
        with self._answering:
            self._reporters[run.job_id] = reporter
        thread.start()

    def cancel(self, job_id: str) -> None:
        if reporter := self._reporters.get(job_id):
            reporter.cancel()

    def close(self) -> None:
        """End the process once no job is in hand."""
        with self._answering:
            self._closing = True
            if not self._reporters:
                _exit(EXIT_OK)

    def _work(self, run: Run, reporter: JobReporter) -> None:
        with log_context(**run.log_fields):
            answer = _serve(run, self._pipeline, self._channel, reporter)
        with self._answering:
            del self._reporters[run.job_id]
            # Before the answer: the poller may retire this process, and must not send another job.
            self._channel.send(_memory(idle=not self._reporters))
            self._channel.send(answer)
            if isinstance(answer, Fatal):
                _exit(EXIT_FATAL)
            if self._closing and not self._reporters:
                _exit(EXIT_OK)


def main(arguments: list[str]) -> int:
    faulthandler.enable()
    # The parent alone decides when this process ends; a terminal's Ctrl-C must not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the poller's; `systemctl kill` may send it to all
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    setup = json.loads(channel.receive_line())
    _die_with_parent(setup["parent"])
    hf_token = setup["settings"].get("hf_token")
    configure(setup["log_level"], "runner", hidden=[hf_token] if hf_token else [], stream=take_stdout())
    try:
        pipeline = _load_class(setup["pipeline"])(RunnerSettings.from_json(json.dumps(setup["settings"])))
        channel.send(pipeline.load())
        channel.send(_memory(idle=True))
    except TranscriptdError as error:
        channel.send(Fatal(error.code, error.message, _traceback()))
        return EXIT_FATAL
    except Exception as error:  # noqa: BLE001  # whatever a library raises at set-up must reach the operator in words
        channel.send(Fatal(SetupFailed.code, f"{type(error).__name__}: {error}", _traceback()))
        return EXIT_FATAL
    desk = Desk(channel, pipeline)
    while line := channel.receive_line():
        match decode(line):
            case Run() as run:
                desk.begin(run)
            case Cancel(job_id):
                desk.cancel(job_id)
            case Shutdown():
                desk.close()
            case unexpected:
                raise ValueError(f"the poller sent {type(unexpected).__name__}")
    return EXIT_OK  # the poller is gone: nobody wants the results, and a CUDA call may not return for a while


def _serve(run: Run, pipeline: Any, channel: Channel, reporter: JobReporter) -> Done | Failed | Fatal:
    """Do one job; the answer. A Fatal means that this process must not be used again."""
    import numpy as np  # here, so that a set-up failure is reported before anything heavy is imported

    try:
        reporter.check_cancelled()
        audio = [np.memmap(path, dtype="<f4", mode="r") for path in run.audio_paths]
        transcript = pipeline.run(
            run.job_id,
            audio,
            JobOptions.model_validate(run.options),
            reporter,
            Checkpoints(Path(run.checkpoint_dir), lambda name: channel.send(Checkpoint(run.job_id, name))),
        )
        Path(run.result_path).write_bytes(transcript.model_dump_json().encode())
    except DeviceFault as error:
        log.warning("device fault", exc_info=True)
        return Fatal(error.code, error.message, _traceback())
    except TranscriptdError as error:
        return Failed(run.job_id, error.code, error.message, _traceback())
    except Exception as error:  # a job's failure is a message, whatever its cause; the process lives on
        log.exception("job failed unexpectedly")
        return Failed(run.job_id, TranscriptdError.code, f"{type(error).__name__}: {error}", _traceback())
    return Done(run.job_id)


def _traceback() -> str:
    return traceback.format_exc()[-MAX_TRACEBACK_CHARS:]


def _memory(idle: bool) -> Memory:
    torch = sys.modules.get("torch")  # never imported for this: a pipeline without it has no device
    device_bytes = 0
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        device_bytes = total - free
    return Memory(resident_bytes(os.getpid()) or 0, device_bytes, idle)


def _load_class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _die_with_parent(parent: int) -> None:
    """Be killed when the poller dies, however it dies. Linux only; elsewhere the end of the stream does it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_OK)  # it died before the call above


def _exit(status: int) -> None:
    sys.stdout.flush()
    os._exit(status)  # no interpreter teardown: CUDA and thread pools are known to hang in it


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
