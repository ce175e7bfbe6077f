"""The messages between the poller process and the runner process. Nothing else crosses.

One JSON object a line over a socket pair: the runner handles untrusted media, so its messages are data to be
validated, never pickles. Messages are small; audio and transcript travel as files in the job's scratch directory.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_LINE_BYTES = 1024 * 1024

# The stages a job passes in the runner, in order. Progress and timings name them.
STAGES = ("vad", "asr", "align", "diarize")


@dataclass(frozen=True, slots=True)
class Run:
    """▶ Transcribe the audio (raw little-endian float32, 16 kHz) and write a Transcript to `result_path`."""

    job_id: str
    audio_paths: list[str]  # one for each channel, all of the same length; one alone unless channels are split
    result_path: str
    checkpoint_dir: str  # what earlier deliveries finished lies here; what this one finishes is added
    options: dict[str, Any]  # job.JobOptions
    log_fields: dict[str, Any]  # for every log line about the job: logs.log_fields()


@dataclass(frozen=True, slots=True)
class Cancel:
    """▶ Give the job up at the next safe point; answered by Failed(code="interrupted")."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Shutdown:
    """▶ Exit 0 once no job is in flight."""


@dataclass(frozen=True, slots=True)
class Ready:
    """◀ Models are loaded and a warm-up inference has run."""

    device: str
    device_name: str
    compute_type: str
    models: dict[str, str]  # stage → model name
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """◀ `fraction` (0 to 1) of the stage is done. Also the sign of life that the stall deadline waits for."""

    job_id: str
    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class StageDone:
    """◀ The stage ended after `seconds` of wall time."""

    job_id: str
    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """◀ Whisper decoded `chunks` at once where `room` fit, and the gates left `gated` of them out, and `dismissed` of the
    doubtful ones."""

    job_id: str
    chunks: int
    room: int
    gated: int
    dismissed: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """◀ The file `name` in the Run's `checkpoint_dir` is complete and worth keeping."""

    job_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Done:
    """◀ The transcript lies at the Run's `result_path`."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Memory:
    """◀ What the process holds, after set-up and after each job: growth is a leak."""

    host_bytes: int
    device_bytes: int  # used on the device by everyone; 0 on CPU


@dataclass(frozen=True, slots=True)
class Failed:
    """◀ The job failed and the process lives on, unless a Fatal follows. `code` is an errors.py code."""

    job_id: str
    code: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """◀ The process cannot serve (set-up failed, CUDA fault) and exits after this message."""

    code: str
    message: str
    traceback: str


type_names = {
    cls.__name__: cls
    for cls in (Run, Cancel, Shutdown, Ready, Progress, StageDone, Batch, Checkpoint, Done, Memory, Failed, Fatal)
}
Message = Run | Cancel | Shutdown | Ready | Progress | StageDone | Batch | Checkpoint | Done | Memory | Failed | Fatal


def encode(message: Message) -> bytes:
    return json.dumps({"type": type(message).__name__, **asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message on a line.

    Raises ValueError when it is none: the two processes are of one release, so this means a corrupted stream.
    """
    data = json.loads(line)
    if not isinstance(data, dict) or data.get("type") not in type_names:
        raise ValueError(f"not a protocol message: {line[:80]!r}")
    cls = type_names[data.pop("type")]
    if set(data) != {field.name for field in fields(cls)}:
        raise ValueError(f"{cls.__name__} message with fields {sorted(data)}")
    return cls(**data)
