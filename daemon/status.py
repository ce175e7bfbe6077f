"""What the status page shows of jobs: those in hand, and how the last ones ended. In memory, bounded, without their text."""

import time
from collections import deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from daemon.delivery import Delivery
from daemon.errors import TranscriptdError
from daemon.job import peek_job_id
from daemon.pace import Pace
from daemon.wording import presentable

MAX_OUTCOMES = 50
MAX_WARNINGS = 10


@dataclass(frozen=True, slots=True)
class JobInHand:
    """A delivery that is being worked on."""

    job_id: str | None  # None until the message was found valid
    message_id: str
    attempt: int
    receive_count: int
    stage: str
    fraction: float | None  # of the stage
    elapsed_seconds: float
    audio_seconds: float | None
    left_seconds: float | None  # an estimate
    lease_margin_seconds: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended: the outcomes and reasons of the metric `jobs`."""

    at: float  # Unix time
    job_id: str | None
    message_id: str
    attempt: int
    outcome: str
    reason: str
    message: str | None
    settled: bool  # False: the outcome could not be carried out, the message comes back
    duration_seconds: float
    audio_seconds: float | None
    warnings: tuple[str, ...]  # codes


class Record:
    """Written by the processor, read by the status page."""

    def __init__(self) -> None:
        self._held: dict[int, Delivery] = {}
        self._outcomes: deque[Outcome] = deque(maxlen=MAX_OUTCOMES)
        self._pace = Pace()

    @contextmanager
    def holding(self, delivery: Delivery) -> Iterator[None]:
        """The delivery is in hand inside."""
        self._held[id(delivery)] = delivery
        try:
            yield
        finally:
            del self._held[id(delivery)]

    def ended(
        self, delivery: Delivery, outcome: str, reason: str, *, message: str | None = None, settled: bool
    ) -> None:
        job, manifest, course = delivery.job, delivery.manifest, delivery.course
        resumed = delivery.history is not None and bool(delivery.history.deliveries)
        if job and reason == "published" and course.audio_seconds and not resumed:
            self._pace.learn(_kind(delivery), course.audio_seconds, delivery.timings_seconds)
        codes = tuple(dict.fromkeys(warning.code[:64] for warning in manifest.warnings)) if manifest else ()
        self._outcomes.appendleft(
            Outcome(
                at=time.time(),
                job_id=job.job_id if job else peek_job_id(delivery.message.body),
                message_id=delivery.message.message_id,
                attempt=delivery.attempt,
                outcome=outcome,
                reason=reason,
                message=None if message is None else _presentable(reason, message),
                settled=settled,
                duration_seconds=delivery.elapsed_seconds,
                audio_seconds=manifest.duration_seconds if manifest else course.audio_seconds,
                warnings=codes[:MAX_WARNINGS],
            )
        )

    @property
    def outcomes(self) -> list[Outcome]:
        """The last ones, newest first."""
        return list(self._outcomes)

    @property
    def jobs(self) -> list[JobInHand]:
        """Longest held first."""
        now = time.monotonic()
        return [
            JobInHand(
                job_id=each.job.job_id if each.job else None,
                message_id=each.message.message_id,
                attempt=each.attempt,
                receive_count=each.message.receive_count,
                stage=each.course.stage,
                fraction=each.course.fraction,
                elapsed_seconds=each.elapsed_seconds,
                audio_seconds=each.course.audio_seconds,
                left_seconds=self._pace.left_seconds(_kind(each), each.course, now),
                lease_margin_seconds=max(0.0, each.lease.remaining_seconds) if each.lease else None,
            )
            for each in self._held.values()
        ]


def _kind(delivery: Delivery) -> Hashable:
    """What jobs must have in common for the times of one to say something of another."""
    if delivery.job is None:
        return None
    options = delivery.job.options
    return options.model, options.task, options.align, options.diarize, options.channels


def _presentable(reason: str, message: str) -> str:
    hint = "; the delivery record or the dead letter has the rest" if reason == TranscriptdError.code else ""
    return presentable(reason, message) + hint
