"""What a webhook says: one event of a job, as https://www.standardwebhooks.com shapes it. Bounded, whatever a job brings."""

import json
from datetime import UTC, datetime
from itertools import accumulate
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from daemon.job import Input, Job
from daemon.tracecontext import TraceContext
from daemon.transcript import Seconds, TranscriptWarning

# Standard Webhooks asks for small payloads. What we add stays below 12 kB; with the most that a message may bring along
# (16 KiB of metadata, its keys) that makes 32 KiB.
MAX_TRACEBACK_BYTES = 4000
MAX_MESSAGE_BYTES = 1000
MAX_WARNINGS = 10
OMITTED_CODE = "warnings_omitted"

Status = Literal["started", "progress", "completed", "failed"]


def _clip(text: str, max_bytes: int) -> str:
    """The start of a text, as much of it as takes `max_bytes` in ASCII JSON."""
    sizes = accumulate(len(json.dumps(char)) - 2 for char in text[:max_bytes])
    return text[: sum(size <= max_bytes for size in sizes)]


def _clip_warnings(warnings: tuple[TranscriptWarning, ...]) -> tuple[TranscriptWarning, ...]:
    kept = [
        TranscriptWarning(
            code=_clip(warning.code, 64), stage=_clip(warning.stage, 64), message=_clip(warning.message, 300)
        )
        for warning in warnings[:MAX_WARNINGS]
    ]
    rest = warnings[MAX_WARNINGS:]
    if [warning.code for warning in rest] == [OMITTED_CODE]:
        kept += rest  # clipped before: an event that was stored and read again says the same
    elif rest:
        message = f"{len(rest)} more warnings are in the manifest"
        kept.append(TranscriptWarning(code=OMITTED_CODE, stage="webhook", message=message))
    return tuple(kept)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventOutput(_Model):
    """Where the results are, or will be. `manifest` is null and `files` empty until they are there."""

    bucket: str
    prefix: str
    manifest: str | None = None
    files: dict[str, str] = Field(default_factory=dict, description="format → key")


class EventProgress(_Model):
    stage: str
    fraction: float


class EventError(_Model):
    """Why a job failed: an errors.py code, and the end of the traceback, where the cause is."""

    code: str
    message: Annotated[str, AfterValidator(lambda text: _clip(text, MAX_MESSAGE_BYTES))]
    traceback: Annotated[str, AfterValidator(lambda text: _clip(text[::-1], MAX_TRACEBACK_BYTES)[::-1])] | None = None


class Event(_Model):
    """One thing that happened to a job: the `data` of the payload, in which every key is always present."""

    # Outside `data`. An event that reports the same fact again should be given the id of the first report: it is the
    # receiver's idempotency key. No dots, because the signed text is `id.timestamp.body`.
    id: str = Field(default_factory=lambda: f"msg_{uuid4().hex}", pattern=r"^[A-Za-z0-9_-]{1,128}$", exclude=True)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC), exclude=True)
    trace: TraceContext | None = Field(None, exclude=True)  # sent as headers

    job_id: str | None = Field(description="null when the message was too broken to tell")
    status: Status
    attempt: int
    input: Input | None = None
    output: EventOutput | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    durations_seconds: dict[str, Seconds] = Field(default_factory=dict)
    warnings: Annotated[tuple[TranscriptWarning, ...], AfterValidator(_clip_warnings)] = ()
    progress: EventProgress | None = None
    error: EventError | None = None

    @classmethod
    def of(cls, job: Job, status: Status, *, attempt: int, **details: Any) -> Self:
        """An event of a valid job: input, output and metadata are the job's. `details` are further fields."""
        output = EventOutput(bucket=job.output_bucket, prefix=job.output_prefix)
        known = {"input": job.input, "output": output, "metadata": job.metadata}
        return cls(job_id=job.job_id, status=status, attempt=attempt, **{**known, **details})

    @property
    def lane(self) -> str:
        """Events of one lane are delivered in order: those of one job."""
        return self.job_id or self.id

    @property
    def log_fields(self) -> dict[str, str | None]:
        return {"job_id": self.job_id, **({"trace_id": self.trace.trace_id} if self.trace else {})}

    @property
    def exemplar(self) -> dict[str, str] | None:
        return self.trace.exemplar if self.trace else None

    @property
    def type(self) -> str:
        return f"job.{self.status}"

    @property
    def final(self) -> bool:
        return self.status in ("completed", "failed")

    @property
    def weight(self) -> tuple[bool, bool, datetime]:
        """Sorts events by what their loss costs."""
        return self.final, self.status == "started", self.at

    def body(self) -> str:
        """The payload. ASCII, so that its length is bounded whatever the alphabet of metadata and messages."""
        at = self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        payload = {"type": self.type, "timestamp": at, "data": self.model_dump()}
        return json.dumps(payload, separators=(",", ":"), allow_nan=False)

    def stored(self) -> dict[str, JsonValue]:
        """All of it as JSON, for `model_validate`: an event that waits elsewhere comes back with the same id and body."""
        return {"id": self.id, "at": self.at.isoformat(), **self.model_dump(mode="json")}
