"""The payload of a webhook, and the detail on the event bus: one event of a job, in the format of https://www.standardwebhooks.com. Its size is bounded."""

import json
from datetime import UTC, datetime
from itertools import accumulate
from typing import Annotated, Any, Literal, Self, get_args
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from daemon.schema.job import Input, Job
from daemon.schema.manifest import Usage
from daemon.schema.transcript import Seconds, TranscriptWarning
from daemon.telemetry.tracecontext import TraceContext

# Standard Webhooks recommends small payloads. The daemon adds less than 12 kB. With the maximum from the message (16 KiB
# of metadata, its keys), the payload is at most 32 KiB.
MAX_TRACEBACK_BYTES = 4000
MAX_MESSAGE_BYTES = 1000
MAX_WARNINGS = 10
OMITTED_CODE = "warnings_omitted"

EventStatus = Literal["started", "progress", "completed", "failed", "cancelled", "test"]


def _clip(text: str, max_bytes: int) -> str:
    """Truncate a text to `max_bytes` in ASCII JSON."""
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
        kept += rest  # already clipped: an event that was stored and read again must not change
    elif rest:
        message = f"{len(rest)} more warnings are in the manifest"
        kept.append(TranscriptWarning(code=OMITTED_CODE, stage="webhook", message=message))
    return tuple(kept)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class EventOutput(_Model):
    """Location of the results. `manifest` is null and `files` is empty until they are published."""

    bucket: str
    prefix: str
    manifest: str | None = None
    files: dict[str, str] = Field(default_factory=dict, description="format → key")


Fraction = Annotated[float, Field(ge=0, le=1)]


class EventProgress(_Model):
    """How far the job is. The status page and status.json have the same values."""

    stage: str = Field(description="the stage that runs: vad, asr, align, diarize or publish; with two, the first")
    fraction: Fraction | None = Field(description="of the stage; null if unknown")
    overall_fraction: Fraction = Field(description="of the whole job; it never decreases during an attempt")
    remaining_seconds: float | None = Field(ge=0, description="estimate; null if unknown")


class EventError(_Model):
    """Why a job failed: a code from errors.py, and the end of the traceback, which names the cause."""

    code: str
    message: Annotated[str, AfterValidator(lambda text: _clip(text, MAX_MESSAGE_BYTES))]
    traceback: Annotated[str, AfterValidator(lambda text: _clip(text[::-1], MAX_TRACEBACK_BYTES)[::-1])] | None = None


class WebhookEvent(_Model):
    """One event of a job: the `data` of the payload. Every key is always present."""

    # Beside `data`. A re-sent event must keep its ID, which is the receiver's idempotency key. No dots, because the
    # signed text is `id.timestamp.body`.
    id: str = Field(default_factory=lambda: f"msg_{uuid4().hex}", pattern=r"^[A-Za-z0-9_-]{1,128}$", exclude=True)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC), exclude=True)
    trace: TraceContext | None = Field(None, exclude=True)  # sent as headers
    # The message was refused, or asked a finished job for more in vain: the results at `output` are not those of this event.
    refused: bool = Field(False, exclude=True)

    job_id: str | None = Field(description="null if the message has no valid job_id")
    tenant: str | None = Field(None, description="MessageGroupId of the message; null if it has none")
    status: EventStatus
    attempt: int
    input: Input | None = None
    output: EventOutput | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    durations_seconds: dict[str, Seconds] = Field(default_factory=dict)
    warnings: Annotated[tuple[TranscriptWarning, ...], AfterValidator(_clip_warnings)] = ()
    progress: EventProgress | None = None
    usage: Usage | None = Field(None, description="of a completed job")
    error: EventError | None = None

    @classmethod
    def of(cls, job: Job, status: EventStatus, *, attempt: int, **details: Any) -> Self:
        """Build an event of a valid job, with its input, output and metadata. `details` are further fields."""
        output = EventOutput(bucket=job.output_bucket, prefix=job.output_prefix)
        known = {"input": job.input, "output": output, "metadata": job.metadata}
        return cls(job_id=job.job_id, status=status, attempt=attempt, **{**known, **details})

    @property
    def lane(self) -> str:
        """Key of the event's lane. The events of a job share a lane and are delivered in order."""
        return self.job_id or self.id

    @property
    def log_fields(self) -> dict[str, str | None]:
        tenant = {"tenant": self.tenant} if self.tenant else {}
        return {"job_id": self.job_id, **tenant, **({"trace_id": self.trace.trace_id} if self.trace else {})}

    @property
    def exemplar(self) -> dict[str, str] | None:
        return self.trace.exemplar if self.trace else None

    @property
    def type(self) -> str:
        return f"job.{self.status}"

    @property
    def final(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")

    @property
    def record_place(self) -> EventOutput | None:
        """Where the result of this event is recorded, next to the job's results; None if nothing is."""
        return None if self.refused else self.output

    @property
    def weight(self) -> tuple[bool, bool, datetime]:
        """Sort key: events whose loss matters least come first."""
        return self.final, self.status == "started", self.at

    def body(self) -> str:
        """Return the payload. ASCII, so that its length is bounded for any script in metadata and messages."""
        at = self.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        payload = {"id": self.id, "type": self.type, "timestamp": at, "data": self.model_dump()}
        return json.dumps(payload, separators=(",", ":"), allow_nan=False)

    def stored(self) -> dict[str, JsonValue]:
        """Return all fields as JSON for `model_validate`, so that a stored event keeps its ID and body."""
        hidden = {"id": self.id, "at": self.at.isoformat(), "refused": self.refused}
        return {**hidden, **self.model_dump(mode="json")}


def json_schema() -> dict[str, Any]:
    """Return the schema of the payload, for docs/webhook.schema.json. It allows the keys that later releases may add."""
    data = WebhookEvent.model_json_schema(mode="serialization", ref_template="#/$defs/{model}")
    definitions = data.pop("$defs")
    given = {"type": "object"}
    rules: dict[str, dict[str, Any]] = {
        "progress": {"progress": given},
        "completed": {"output": {"properties": {"manifest": {"type": "string"}}, **given}},
        "failed": {"error": given},
        "cancelled": {"error": given},
    }
    schema = {
        "$defs": {**definitions, "Data": data},
        "description": "The body of a webhook, whose headers are those of https://www.standardwebhooks.com, and the detail of an event on the event bus.",
        "type": "object",
        "properties": {
            "id": {
                "type": "string",
                "description": "the same whenever this event is sent again; the header webhook-id",
            },
            "type": {"enum": [f"job.{status}" for status in get_args(EventStatus)]},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": {"$ref": "#/$defs/Data"},
        },
        "required": ["id", "type", "timestamp", "data"],
        "allOf": [
            {
                "if": {"properties": {"type": {"const": f"job.{status}"}}},
                "then": {
                    "properties": {"data": {"properties": {"status": {"const": status}, **rules.get(status, {})}}}
                },
            }
            for status in get_args(EventStatus)
        ],
    }
    _allow_more(schema)
    return schema


def _allow_more(schema: Any) -> None:
    """Remove the rule that forbids further keys: it is for events that the daemon itself reads from the outbox."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
        for each in schema.values():
            _allow_more(each)
    elif isinstance(schema, list):
        for each in schema:
            _allow_more(each)
