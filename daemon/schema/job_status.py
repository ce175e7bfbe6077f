"""The status of a job, `<prefix><job_id>/status.json`: for people and programs that poll S3. The manifest is the result.

docs/status.schema.json is generated from this module.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

STATUS_NAME = "status.json"
CANCEL_NAME = "cancel"  # an object with this name requests the cancellation of the job

# What a user is told that the daemon does in a stage.
STAGE_NAMES = {
    "check": "checking the message",
    "download": "downloading",
    "decode": "decoding",
    "wait": "waiting for a device",
    "vad": "detecting speech",
    "asr": "recognizing speech",
    "align": "aligning words",
    "diarize": "identifying speakers",
    "publish": "publishing",
    "settle": "settling the message",
}

State = Literal["running", "waiting_for_retry", "interrupted", "completed", "failed", "cancelled"]

Fraction = Annotated[float, Field(ge=0, le=1)]
UtcTime = Annotated[str, Field(description="UTC, as in 2026-11-22T13:24:05.120Z")]


class _Model(BaseModel):
    # Not extra="forbid": a newer release may add keys.
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class StatusError(_Model):
    """Why the job failed, was retried or was cancelled: a code of errors.md, and what was wrong."""

    code: str
    message: str


class JobStatus(_Model):
    """State of a job, as of the last delivery of its message. A queued job has none yet."""

    version: Literal[1] = 1
    job_id: str
    state: State = Field(
        description="running; waiting_for_retry: an attempt failed; interrupted: a daemon stopped, and another delivery "
        "continues; completed: the manifest exists; failed: the message is in the dead-letter queue; cancelled"
    )
    attempt: int = Field(
        ge=0, description="number of the attempt, from 1; 0: the message was refused before an attempt"
    )
    stage: str | None = Field(
        description="what runs: download, decode, wait (for a device), vad, asr, align, diarize or publish; null at the end"
    )
    stage_fraction: Fraction | None = Field(description="of the stage; null if unknown")
    overall_fraction: Fraction = Field(description="of the whole job; it never decreases during an attempt")
    remaining_seconds: float | None = Field(ge=0, description="estimate; null if unknown")
    error: StatusError | None
    message_id: str = Field(description="ID of the SQS message")
    queue: str | None = Field(
        None, description="name of the queue that the message came from; null in statuses of earlier releases"
    )
    tenant: str | None = Field(None, description="MessageGroupId of that message; null if it has none")
    receive_count: int = Field(description="SQS's receive count of that message")
    worker_id: str
    started_at: UtcTime = Field(description="when the daemon received the message")
    updated_at: UtcTime


def may_replace(current: JobStatus, new: JobStatus) -> bool:
    """Return whether the new status is later than the current one. Pure; a late writer must not turn back a status.

    A completed job stays completed. A refused message (attempt 0) replaces its own status only, and any attempt replaces it.
    """
    if new.state == "completed" or current.state == "completed":
        return current.state != "completed"
    if new.attempt == 0:
        return current.attempt == 0 and current.message_id == new.message_id
    if current.attempt == 0:
        return True
    if current.message_id != new.message_id:
        return new.started_at > current.started_at
    # SQS's receive count is approximate: two deliveries may have the same.
    earlier, later = (current.receive_count, current.started_at), (new.receive_count, new.started_at)
    return later > earlier or (later == earlier and current.state == "running")
