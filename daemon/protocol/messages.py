"""The messages between the poller process and the runner process, their only means of communication.

Each message is a line with one JSON object, sent over a socket pair. The runner handles untrusted media, so its messages
are validated data, never pickles. Messages are small; audio and transcripts are files in the job's scratch directory.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from daemon.protocol.events import PipelineEvent
from daemon.protocol.priority import Priority
from daemon.protocol.runner_settings import RunnerSettings

MAX_LINE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Setup:
    """▶ Load the pipeline. Sent once, as the first message; the reply is Ready or Fatal."""

    pipeline: str  # module:Class
    settings: RunnerSettings
    log_level: str
    parent_pid: int  # the runner exits when this process ends
    hidden_paths: list[str]  # files and folders with credentials, which the runner must not be able to read
    allow_weak_sandbox: bool


@dataclass(frozen=True, slots=True)
class Run:
    """▶ Transcribe the audio (raw little-endian float32, 16 kHz) and write a Transcript to `result_path`."""

    job_id: str
    audio_paths: list[str]  # one for each split channel, all of the same length; otherwise one
    result_path: str
    checkpoint_dir: str  # has the checkpoints of earlier deliveries; new ones are added
    options: dict[str, Any]  # job.JobOptions
    log_fields: dict[str, Any]  # for every log line about the job: logs.log_fields()
    priority: Priority  # over the other jobs in the process
    words_path: str | None = None  # a Transcript whose words to keep: only the speakers are found again


@dataclass(frozen=True, slots=True)
class Cancel:
    """▶ Cancel the job at the next safe point; the reply is Failed(code="interrupted")."""

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
    fingerprint: str  # digest of everything in the pipeline that can change a transcript; checkpoints must match it


@dataclass(frozen=True, slots=True)
class JobEvent:
    """◀ An event of the job, as the pipeline emitted it."""

    job_id: str
    event: PipelineEvent


@dataclass(frozen=True, slots=True)
class Done:
    """◀ The transcript is at the Run's `result_path`."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Memory:
    """◀ Memory use of the process, after set-up and after each job. Growth indicates a leak."""

    host_bytes: int
    device_bytes: int  # used on the device by all processes; 0 on a CPU
    idle: bool  # no job is running, so this memory is not released later


@dataclass(frozen=True, slots=True)
class Failed:
    """◀ The job failed; the process continues unless a Fatal follows. `code` is an errors.py code."""

    job_id: str
    code: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Fatal:
    """◀ The process cannot run jobs (set-up failed, CUDA fault) and exits after this message."""

    code: str
    message: str
    traceback: str


RunnerMessage = Setup | Run | Cancel | Shutdown | Ready | JobEvent | Done | Memory | Failed | Fatal

_MESSAGES: dict[str, type] = {cls.__name__: cls for cls in get_args(RunnerMessage)}
_EVENTS: dict[str, type] = {cls.__name__: cls for cls in get_args(PipelineEvent)}


def encode(message: RunnerMessage) -> bytes:
    """Encode a message as a line. Never log the line: a Setup contains the Hugging Face token."""
    data = {"type": type(message).__name__, **asdict(message)}
    if isinstance(message, JobEvent):
        data["event"]["type"] = type(message.event).__name__
    return json.dumps(data).encode() + b"\n"


def decode(line: bytes) -> RunnerMessage:
    """Decode the message on a line.

    Raises ValueError if it is invalid. Both processes run the same release, so this means a corrupted stream.
    """
    data = json.loads(line)
    kind = _message_type(data, _MESSAGES)
    if kind is JobEvent and "event" in data:
        data["event"] = _build(_message_type(data["event"], _EVENTS), data["event"])
    if kind is Run and "priority" in data:
        data["priority"] = _build(Priority, data["priority"])
    if kind is Setup and "settings" in data:
        data["settings"] = RunnerSettings.from_data(data["settings"])
    message: RunnerMessage = _build(kind, data)
    return message


def _message_type(data: Any, types: dict[str, type]) -> type:
    """Remove `type` from the object and return the class it names."""
    name = data.pop("type", None) if isinstance(data, dict) else None
    if not isinstance(name, str) or name not in types:
        raise ValueError(f"not a protocol message: type {str(name)[:80]!r}")
    return types[name]


def _build(cls: type, data: dict[str, Any]) -> Any:
    if set(data) != {field.name for field in fields(cls)}:
        raise ValueError(f"{cls.__name__} message with fields {sorted(data)}")
    return cls(**data)
