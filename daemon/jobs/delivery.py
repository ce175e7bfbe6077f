"""The states of a delivery. Each step of processor.py takes one of these values and returns the next:

Claim → Valid → Accepted → Transcribed → Published → DeliveryResult

They are frozen. Measurements are in LiveDelivery, which the status page reads.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.aws.sqs import ReceivedMessage
from daemon.errors import TranscriptdError
from daemon.jobs.delivery_log import DeliveryLog
from daemon.jobs.lease import Lease
from daemon.jobs.progress import JobProgress
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.protocol.events import STAGES
from daemon.schema.job import Job
from daemon.schema.manifest import InputObject, Manifest
from daemon.schema.transcript import Transcript
from daemon.telemetry.spans import Span
from daemon.webhooks.lanes import EventStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """A message and its lease. The job is not known yet."""

    message: ReceivedMessage
    lease: Lease
    span: Span

    @property
    def job(self) -> None:
        return None

    @property
    def attempt(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Valid:
    """The message has a job that this deployment can run."""

    claim: Claim
    job: Job

    @property
    def attempt(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Accepted:
    """The start of the delivery has been recorded, or may have been: its end must be recorded too."""

    claim: Claim
    job: Job
    earlier: DeliveryLog  # the job's other deliveries
    finished: bool = False  # the job has a result, to which this delivery adds outputs

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1. Interruptions by the daemon do not count."""
        return 1 + self.earlier.attempts(self.claim.message.message_id)


@dataclass(frozen=True, slots=True)
class Transcribed:
    """The transcript, after redaction and masking."""

    accepted: Accepted
    recording: InputObject
    audio_seconds: float
    transcript: Transcript
    earlier: Transcript | None = None  # the one whose words were kept


@dataclass(frozen=True, slots=True)
class Published:
    """The job's manifest exists."""

    job: Job
    manifest: Manifest
    ours: bool  # this delivery wrote the manifest
    receiver_knows: bool = False  # an earlier delivery's webhook is known to have arrived
    rendered: bool = False  # this delivery added outputs to an earlier result

    @property
    def reason(self) -> str:
        return "published" if self.ours else "rendered" if self.rendered else "duplicate"


@dataclass(slots=True)
class LiveDelivery:
    """State of one delivery: the step it has reached and its measurements so far."""

    claim: Claim
    estimate: WorkEstimate = field(default_factory=WorkEstimate)
    started_at: float = field(default_factory=time.monotonic)
    received_at: float = field(default_factory=lambda: time.time())  # Unix time
    reached: Claim | Valid | Accepted = field(init=False)
    progress: JobProgress = field(default_factory=JobProgress)
    timings_seconds: dict[str, float] = field(default_factory=dict)
    runner_seconds: float | None = None  # from sending the job to the runner to its response
    status_etag: str | None = None  # of the last status.json that this delivery wrote
    input_bytes: int | None = None  # set after the download
    checkpoint_parts: list[str] = field(default_factory=list)  # uploaded, or possibly uploaded
    checkpoints: Counter[str] = field(default_factory=Counter)  # checkpoints by result: restored, kept, failed

    def __post_init__(self) -> None:
        self.reached = self.claim

    @property
    def message(self) -> ReceivedMessage:
        return self.claim.message

    @property
    def span(self) -> Span:
        return self.claim.span

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def work_seconds(self) -> float:
        """Time of the runner's stages so far, without the time in which other jobs used the models. Stages may run in
        parallel, so their sum can exceed the job's time in the runner."""
        return sum(self.timings_seconds.get(stage, 0.0) for stage in STAGES)

    @property
    def resumed(self) -> bool:
        """Whether earlier deliveries of the job were started."""
        return isinstance(self.reached, Accepted) and bool(self.reached.earlier.deliveries)

    @property
    def known_parts(self) -> list[str] | None:
        """All checkpoints of the job, or None if an earlier delivery may have left others."""
        return self.checkpoint_parts if isinstance(self.reached, Accepted) and not self.resumed else None


class Resource(StrEnum):
    """Resources of the deployment that every delivery needs. The values are metric labels."""

    STORAGE = "storage"
    OUTPUT = "output"
    QUEUE = "queue"
    DEAD_LETTER_QUEUE = "dead_letter_queue"
    OUTBOX = "outbox"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why an outcome could not be carried out, although the job itself is fine."""

    resource: Resource | None  # None: the lease ended first
    problem: str  # safe for the log
    permanent: bool = False  # the resource refused the call: repeating it cures nothing
    gone: bool = False  # SQS cannot deliver the message again: it expired or was purged


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """How a delivery ended."""

    delivery: LiveDelivery
    outcome: str  # from disposition.py, or `unsettled`
    reason: str  # an error's code, `published`, `rendered` or `duplicate`
    settled: bool  # False: the outcome could not be carried out, and SQS delivers the message again
    error: TranscriptdError | None = None
    failed_in: str | None = None  # stage
    manifest: Manifest | None = None  # of a finished job
    event_status: EventStatus = field(default_factory=EventStatus)  # of the final event (values: log_schema.py)
    obstacle: Obstacle | None = None  # why it was not settled
    duration_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "duration_seconds", self.delivery.elapsed_seconds)
