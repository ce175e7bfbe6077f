"""The runner process: `python -m daemon.pipeline FD`. Reads messages from the poller, runs the pipeline, answers.

The main thread runs the pipeline; a second one reads, so that a Cancel is heard while a job runs.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from daemon.errors import DeviceFault, Interrupted, SetupFailed, TranscriptdError
from daemon.logs import configure, log_context
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
    Memory,
    Message,
    Progress,
    Run,
    Shutdown,
    StageDone,
    decode,
    encode,
)

EXIT_OK = 0
EXIT_FATAL = 70  # EX_SOFTWARE: set-up failed or the device faulted; a Fatal message says which

PR_SET_PDEATHSIG = 1
PROGRESS_PERIOD_SECONDS = 0.2
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


class Inbox:
    """The jobs to do, and which of them were cancelled; filled by the reading thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._runs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()

    def read(self) -> None:
        while line := self._channel.receive_line():
            match decode(line):
                case Run() as run:
                    self._cancelled.discard(run.job_id)
                    self._runs.put(run)
                case Cancel(job_id):
                    self._cancelled.add(job_id)
                case Shutdown():
                    self._runs.put(None)
                case unexpected:
                    raise ValueError(f"the poller sent {type(unexpected).__name__}")
        os._exit(EXIT_OK)  # the poller is gone: nobody wants the result, and a CUDA call may not return for a while

    def next(self) -> Run | None:
        return self._runs.get()

    def check_cancelled(self, job_id: str) -> None:
        if job_id in self._cancelled:
            raise Interrupted(f"job {job_id} was cancelled")


class JobReporter:
    """What a pipeline reports of one job: goes to the poller as messages."""

    def __init__(self, job_id: str, channel: Channel, inbox: Inbox) -> None:
        self._job_id = job_id
        self._channel = channel
        self._inbox = inbox
        self._sent_at = 0.0

    def progress(self, stage: str, fraction: float) -> None:
        now = time.monotonic()
        if fraction >= 1 or now - self._sent_at >= PROGRESS_PERIOD_SECONDS:
            self._sent_at = now
            self._channel.send(Progress(self._job_id, stage, min(1.0, max(0.0, fraction))))

    def stage_done(self, stage: str, seconds: float) -> None:
        self._channel.send(StageDone(self._job_id, stage, seconds))

    def batch(self, chunks: int, room: int, gated: int, dismissed: int) -> None:
        self._channel.send(Batch(self._job_id, chunks, room, gated, dismissed))

    def check_cancelled(self) -> None:
        self._inbox.check_cancelled(self._job_id)


def main(arguments: list[str]) -> int:
    faulthandler.enable()
    # The parent alone decides when this process ends; a terminal's Ctrl-C must not.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    setup = json.loads(channel.receive_line())
    _die_with_parent(setup["parent"])
    configure(setup["log_level"], "runner")
    try:
        pipeline = _load_class(setup["pipeline"])(RunnerSettings.from_json(json.dumps(setup["settings"])))
        channel.send(pipeline.load())
        channel.send(_memory())
    except TranscriptdError as error:
        channel.send(Fatal(error.code, error.message, _traceback()))
        return EXIT_FATAL
    except Exception as error:  # noqa: BLE001  # whatever a library raises at set-up must reach the operator in words
        channel.send(Fatal(SetupFailed.code, f"{type(error).__name__}: {error}", _traceback()))
        return EXIT_FATAL
    inbox = Inbox(channel)
    threading.Thread(target=inbox.read, name="inbox", daemon=True).start()
    while run := inbox.next():
        with log_context(**run.log_fields):
            answer = _serve(run, pipeline, channel, inbox)
        channel.send(_memory())  # before the answer: the poller may retire this process, and must not send another job
        channel.send(answer)
        if isinstance(answer, Fatal):
            return EXIT_FATAL
    return EXIT_OK


def _serve(run: Run, pipeline: Any, channel: Channel, inbox: Inbox) -> Done | Failed | Fatal:
    """Do one job; the answer. A Fatal means that this process must not be used again."""
    import numpy as np  # here, so that a set-up failure is reported before anything heavy is imported

    try:
        inbox.check_cancelled(run.job_id)
        audio = [np.memmap(path, dtype="<f4", mode="r") for path in run.audio_paths]
        transcript = pipeline.run(
            run.job_id,
            audio,
            JobOptions.model_validate(run.options),
            JobReporter(run.job_id, channel, inbox),
            Checkpoints(Path(run.checkpoint_dir), lambda name: channel.send(Checkpoint(run.job_id, name))),
        )
        Path(run.result_path).write_bytes(transcript.model_dump_json().encode())
    except DeviceFault as error:
        return Fatal(error.code, error.message, _traceback())
    except TranscriptdError as error:
        return Failed(run.job_id, error.code, error.message, _traceback())
    except Exception as error:  # noqa: BLE001  # a job's failure is a message, whatever its cause; the process lives on
        return Failed(run.job_id, TranscriptdError.code, f"{type(error).__name__}: {error}", _traceback())
    return Done(run.job_id)


def _traceback() -> str:
    return traceback.format_exc()[-MAX_TRACEBACK_CHARS:]


def _memory() -> Memory:
    torch = sys.modules.get("torch")  # never imported for this: a pipeline without it has no device
    device_bytes = 0
    if torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        device_bytes = total - free
    return Memory(resident_bytes(os.getpid()) or 0, device_bytes)


def _load_class(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _die_with_parent(parent: int) -> None:
    """Be killed when the poller dies, however it dies. Linux only; elsewhere the end of the stream does it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_OK)  # it died before the call above


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # no interpreter teardown: CUDA and thread pools are known to hang in it
