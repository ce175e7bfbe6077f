"""One delivery of a message: what is known of it while it is worked on, and the events that tell of it."""

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from daemon.config import Settings
from daemon.crashpoints import crash_point
from daemon.errors import TranscriptdError
from daemon.events import Event, EventError, EventOutput, EventProgress, Status
from daemon.history import History
from daemon.intake import Load
from daemon.job import Job, peek_job_id, peek_webhook_url
from daemon.lease import Lease
from daemon.manifest import MANIFEST_NAME, Manifest
from daemon.pace import Course
from daemon.protocol import STAGES
from daemon.spans import Span
from daemon.sqs import Received


@dataclass
class Delivery:
    """Fills up as the work goes on."""

    message: Received
    span: Span = field(default_factory=Span)
    started_at: float = field(default_factory=time.monotonic)
    job: Job | None = None  # once the message was found valid
    lease: Lease | None = None  # once it is held
    noted: bool = False  # the note of its beginning was at least sent
    history: History | None = None  # of earlier deliveries, once this one was noted
    manifest: Manifest | None = None  # once the job is finished, by this delivery or another
    told: bool = False  # an earlier delivery's webhook is known to have arrived
    timings_seconds: dict[str, float] = field(default_factory=dict)
    course: Course = field(default_factory=Course)
    load: Load = field(default_factory=Load)
    runner_seconds: float | None = None  # from handing the job to the runner until its answer, once there is one
    input_bytes: int | None = None  # once the recording was downloaded
    checkpoint_parts: list[str] = field(default_factory=list)  # those that were, or may have been, stored
    checkpoints: Counter[str] = field(default_factory=Counter)  # finished parts: restored, kept, failed
    failed_in: str | None = None  # the stage
    webhook: str = "none"  # what has become of the final event: log_schema.py

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def work_seconds(self) -> float:
        """What the stages in the runner took so far, without the time in which other jobs had the models. Some are done side
        by side: together they may take longer than the job was in the runner."""
        return sum(self.timings_seconds.get(stage, 0.0) for stage in STAGES)

    @property
    def attempt(self) -> int:
        """Counts from 1; interruptions by us do not count."""
        return 1 + (self.history.attempts(self.message.message_id) if self.history else 0)

    @property
    def known_parts(self) -> list[str] | None:
        """All checkpoints that the job has, where no earlier delivery can have left others; else None."""
        return self.checkpoint_parts if self.history and not self.history.deliveries else None

    def proceed(self, step: str) -> None:
        """The publishing has come to this step, and may go on. Raises LeaseLost if it may not."""
        crash_point(step, self.job.job_id if self.job else None, self.message.receive_count)
        if self.lease:
            self.lease.require()

    def event(
        self, status: Status, *, progress: tuple[str, float] | None = None, error: TranscriptdError | None = None
    ) -> Event:
        """What a webhook says. Its id is derived from the fact, so that a fact told twice has one id."""
        job, manifest = self.job, self.manifest
        # What was published is one fact however often the message is delivered; a failure is one of the message, and
        # everything else belongs to the delivery.
        fact = [self.message.message_id, str(self.message.receive_count), status, repr(progress)]
        if job and manifest:
            fact = [job.output_bucket, job.output_prefix, status]
        elif status == "failed":
            fact = [self.message.message_id, status]
        details: dict[str, Any] = {
            "id": "msg_" + hashlib.sha256("\n".join(fact).encode()).hexdigest()[:32],
            "durations_seconds": self.timings_seconds,
            "progress": EventProgress(stage=progress[0], fraction=progress[1]) if progress else None,
            "error": EventError(code=error.code, message=error.message, traceback=error.detail) if error else None,
            "trace": self.span.context,
        }
        if job is None:
            return Event(job_id=peek_job_id(self.message.body), status=status, attempt=self.attempt, **details)
        if manifest is not None:
            details["warnings"] = tuple(manifest.warnings)
            details["durations_seconds"] = manifest.timings_seconds
            details["output"] = EventOutput(
                bucket=job.output_bucket,
                prefix=job.output_prefix,
                manifest=job.output_key(MANIFEST_NAME),
                files={output.format: output.key for output in manifest.outputs},
            )
        return Event.of(job, status, attempt=self.attempt, **details)

    def webhook_url(self, settings: Settings) -> str | None:
        return self.job.webhook_url if self.job else peek_webhook_url(self.message.body, settings)
