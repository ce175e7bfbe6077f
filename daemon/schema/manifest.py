"""The manifest: written last. A result is complete exactly when its manifest exists; later only outputs are added to it.

docs/manifest.schema.json is generated from this module.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from daemon.schema.transcript import Models, Seconds, TranscriptWarning

MANIFEST_NAME = "manifest.json"

# Far more than a job gets. Bounds what repeated messages can add.
MAX_RENDERINGS = 32


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
    words_of: str | None = None  # the job whose words were kept


class StoredOutput(_Model):
    format: str
    key: str
    content_type: str
    size_bytes: int
    sha256: str
    rendered_with: str | None = Field(
        None, description="digest of the rendering options that shape this format; null if none does"
    )


class Rendering(_Model):
    """Outputs that were added after the job had finished, rendered from the stored transcript."""

    message_id: str = Field(
        description="ID of the SQS message that asked for them, or a random ID of `transcriptd render`"
    )
    at: str = Field(description="UTC, as in 2026-11-22T13:24:05+00:00")
    formats: list[str]
    subtitles: dict[str, JsonValue]


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
    tenant: str | None = Field(None, description="MessageGroupId of that message; null if it has none")
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
    renderings: list[Rendering] = Field(
        [], description=f"outputs that were added later, oldest first; the last {MAX_RENDERINGS}"
    )
    metadata: dict[str, JsonValue]

    def output(self, name: str) -> StoredOutput | None:
        """Return the output in this format, if there is one."""
        return next((output for output in self.outputs if output.format == name), None)

    def honors(self, message_id: str) -> bool:
        """Return whether this message made the result, or asked for outputs that were added to it."""
        return message_id in (self.message_id, *(each.message_id for each in self.renderings))

    def with_outputs(self, added: Sequence[StoredOutput], rendering: Rendering) -> "Manifest":
        """Return the manifest with outputs that take the place of those in the same formats."""
        outputs = {output.format: output for output in (*self.outputs, *added)}
        output_bytes = sum(output.size_bytes for output in outputs.values())
        return self.model_copy(
            update={
                "outputs": list(outputs.values()),
                "renderings": [*self.renderings, rendering][-MAX_RENDERINGS:],
                "usage": self.usage and self.usage.model_copy(update={"output_bytes": output_bytes}),
            }
        )
