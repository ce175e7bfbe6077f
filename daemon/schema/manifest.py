"""The manifest: written last and only once. A result is complete exactly when its manifest exists.

docs/manifest.schema.json is generated from this module.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from daemon.schema.transcript import Models, Seconds, TranscriptWarning

MANIFEST_NAME = "manifest.json"


class _Model(BaseModel):
    # Not extra="forbid": manifests of newer releases must be readable.
    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class InputObject(_Model):
    """The transcribed object, with enough detail to detect whether it has changed."""

    bucket: str
    key: str
    version_id: str | None
    etag: str
    size_bytes: int
    start_seconds: float | None = None  # of the part that the message named
    end_seconds: float | None = None


class StoredOutput(_Model):
    format: str
    key: str
    content_type: str
    size_bytes: int
    sha256: str


class Usage(_Model):
    """What the job used, for accounting."""

    audio_seconds: Seconds = Field(description="length of the transcribed sound; channels that are split count each")
    device_seconds: dict[str, Seconds] = Field(
        description="time that each stage had the device; without the time in which other jobs used it"
    )
    input_bytes: int
    output_bytes: int
    price: float | None = Field(
        description="price of the device seconds (operations.md); null if TRANSCRIPTD_INSTANCE_PRICE_PER_HOUR is not set"
    )


class Manifest(_Model):
    """Everything about a finished job except its text."""

    version: Literal[1] = 1
    job_id: str
    completed_at: str
    message_id: str  # of the SQS message whose delivery published the result
    queue: str | None = Field(
        None, description="name of the queue that the message came from; null in manifests of earlier releases"
    )
    worker_id: str
    attempt: int
    input: InputObject
    options: dict[str, JsonValue]  # as written by the release that processed the job
    options_digest: str
    outputs: list[StoredOutput]
    duration_seconds: float
    language: str | None
    speakers: int
    models: Models
    timings_seconds: dict[str, float]
    warnings: list[TranscriptWarning]
    redactions: dict[str, int] = {}
    usage: Usage | None = None  # null in manifests of earlier releases
    metadata: dict[str, JsonValue]
