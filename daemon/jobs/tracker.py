"""Jobs for the status page: current ones and recent outcomes. In memory, bounded, without transcript text."""

import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from daemon.errors import TranscriptdError
from daemon.jobs.delivery import DeliveryResult, LiveDelivery
from daemon.jobs.progress import DurationEstimator, ProgressView, planned_stages
from daemon.jobs.validation import peek_job_id
from daemon.protocol.events import STAGES
from daemon.telemetry.redaction import redact_message

MAX_OUTCOMES = 50
MAX_WARNINGS = 10


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A delivery in progress."""

    job_id: str | None  # None until the message is validated
    message_id: str
    queue: str
    attempt: int
    receive_count: int
    stage: str
    fraction: float | None  # of the stage
    overall_fraction: float  # of the job
    elapsed_seconds: float
    audio_seconds: float | None
    remaining_seconds: float | None  # an estimate
    lease_margin_seconds: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended. `outcome` and `reason` are the labels of the metric `deliveries_total`."""

    at: float  # Unix time
    job_id: str | None
    message_id: str
    queue: str
    attempt: int
    outcome: str
    reason: str
    message: str | None
    settled: bool  # False: the outcome could not be carried out, and SQS delivers the message again
    duration_seconds: float
    audio_seconds: float | None
    warnings: tuple[str, ...]  # codes


class JobTracker:
    """Written by the processor, read by the status page."""

    def __init__(self) -> None:
        self._held: dict[int, LiveDelivery] = {}
        self._outcomes: deque[Outcome] = deque(maxlen=MAX_OUTCOMES)
        self._estimator = DurationEstimator()

    @contextmanager
    def track(self, delivery: LiveDelivery) -> Iterator[None]:
        """List the delivery as a current job."""
        self._held[id(delivery)] = delivery
        try:
            yield
        finally:
            del self._held[id(delivery)]

    def ended(self, ended: DeliveryResult) -> None:
        if ended.outcome == "ignored":  # notifications about results would displace the jobs
            return
        delivery, manifest, progress = ended.delivery, ended.manifest, ended.delivery.progress
        job = delivery.reached.job
        if job and ended.reason == "published" and progress.audio_seconds and not delivery.resumed:
            self._estimator.record(_kind(delivery), progress.audio_seconds, delivery.timings_seconds)
        codes = tuple(dict.fromkeys(warning.code[:64] for warning in manifest.warnings)) if manifest else ()
        self._outcomes.appendleft(
            Outcome(
                at=time.time(),
                job_id=job.job_id if job else peek_job_id(delivery.message.body),
                message_id=delivery.message.message_id,
                queue=delivery.message.queue,
                attempt=delivery.reached.attempt,
                outcome=ended.outcome,
                reason=ended.reason,
                message=_redacted(ended.reason, ended.error.message) if ended.error else None,
                settled=ended.settled,
                duration_seconds=ended.duration_seconds,
                audio_seconds=manifest.duration_seconds if manifest else progress.audio_seconds,
                warnings=codes[:MAX_WARNINGS],
            )
        )

    @property
    def outcomes(self) -> list[Outcome]:
        """Recent outcomes, newest first."""
        return list(self._outcomes)

    @property
    def jobs(self) -> list[ActiveJob]:
        """Current jobs, longest held first."""
        return [self._active(each) for each in self._held.values()]

    def progress_of(self, delivery: LiveDelivery) -> ProgressView:
        """Return the progress of a delivery as every observer of the job sees it."""
        job = delivery.reached.job
        planned = planned_stages(job.options) if job else STAGES
        return self._estimator.view(_kind(delivery), delivery.progress, planned, time.monotonic())

    def _active(self, each: LiveDelivery) -> ActiveJob:
        view = self.progress_of(each)
        return ActiveJob(
            job_id=each.reached.job.job_id if each.reached.job else None,
            message_id=each.message.message_id,
            queue=each.message.queue,
            attempt=each.reached.attempt,
            receive_count=each.message.receive_count,
            stage=view.stage,
            fraction=view.fraction,
            overall_fraction=view.overall_fraction,
            elapsed_seconds=each.elapsed_seconds,
            audio_seconds=each.progress.audio_seconds,
            remaining_seconds=view.remaining_seconds,
            lease_margin_seconds=max(0.0, each.claim.lease.remaining_seconds),
        )


def _kind(delivery: LiveDelivery) -> Hashable:
    """Return the options that affect duration; only jobs that share them are comparable."""
    if delivery.reached.job is None:
        return None
    options = delivery.reached.job.options
    again = options.words_of is not None
    return options.model, options.task, options.align, options.diarize, options.channels, again


def _redacted(reason: str, message: str) -> str:
    hint = "; the delivery record or the dead letter has the rest" if reason == TranscriptdError.code else ""
    return redact_message(reason, message) + hint
