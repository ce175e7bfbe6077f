"""The job message, contract v1. It is validated before any work starts.

docs/job.schema.json is generated from these classes.
"""

import re
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, JsonValue, StringConstraints

from daemon.schema.options import ContractModel, JobOptions, Options

# The longest message that the limits below allow, with every character escaped, is shorter than this.
MAX_BODY_CHARACTERS = 192 * 1024
MAX_FIELDS = 64  # of one JSON object, except inside metadata
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 64
MAX_KEY_BYTES = 1024  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
MAX_PREFIX_BYTES = 512
MAX_CLIP_SECONDS = 1_000_000  # 11 days

# Part of S3 keys, file names and log lines, so only these characters are allowed; never `.` or `..`.
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

PROFILE_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"

# Below a job's place: state that is removed when the job is finished. No job may have its place there.
CHECKPOINTS = "checkpoints/"

Bucket = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]


class Input(ContractModel):
    """The recording: any audio or video that FFmpeg's libraries can read."""

    bucket: Bucket
    key: str = Field(min_length=1, max_length=MAX_KEY_BYTES)
    version_id: str | None = Field(None, max_length=1024)
    start_seconds: float | None = Field(
        None, ge=0, le=MAX_CLIP_SECONDS, description="transcribe from this time of the recording; null is its start"
    )
    end_seconds: float | None = Field(
        None, gt=0, le=MAX_CLIP_SECONDS, description="transcribe up to this time of the recording; null is its end"
    )
    words_of: str | None = Field(
        None,
        pattern=f"^{JOB_ID.pattern}$",
        description="job_id of a finished job of this recording, with its results at the same output: keep its words, and only "
        "diarize or redact again",
    )


class Output(ContractModel):
    """Location of the results: `<prefix><job_id>/…`. Bucket and prefix default to the deployment's settings."""

    bucket: Bucket | None = None
    prefix: str | None = Field(
        None, max_length=MAX_PREFIX_BYTES, description="ends with `/`, which is added if missing"
    )


class Webhook(ContractModel):
    """Receiver of this job's events, instead of the deployment's WEBHOOK_URL."""

    url: str = Field(max_length=2048)


class Message(ContractModel):
    """The body of an SQS message."""

    version: Literal[1] = 1
    job_id: str = Field(pattern=f"^{JOB_ID.pattern}$")
    input: Input
    output: Output = Output()
    options: Options = Options()
    profile: str | None = Field(
        None, pattern=f"^{PROFILE_NAME}$", description="a profile of the deployment, for what the message leaves out"
    )
    webhook: Webhook | None = None
    metadata: dict[str, JsonValue] = Field(
        default_factory=dict,
        description=f"echoed in webhooks and manifest; at most {MAX_METADATA_BYTES} bytes as JSON, nested at most {MAX_METADATA_DEPTH} deep",
    )


def plain_name(name: str) -> str:
    """Reduce a file name to characters of job IDs, beginning with a letter or digit."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "recording"


class Place(NamedTuple):
    """Location of a job's results."""

    job_id: str
    bucket: str
    prefix: str  # `<prefix><job_id>/`


class Job(ContractModel):
    """A validated message with all defaults filled in."""

    job_id: str
    input: Input
    output_bucket: str
    output_prefix: str  # `<prefix><job_id>/`
    options: JobOptions
    webhook_url: str | None
    metadata: dict[str, JsonValue]

    @property
    def place(self) -> Place:
        return Place(self.job_id, self.output_bucket, self.output_prefix)

    def output_key(self, name: str) -> str:
        return self.output_prefix + name
