"""Dispositions: each delivery ends with exactly one of them. Pure; settlement.py carries them out."""

import random
from dataclasses import dataclass

from daemon.aws.sqs import QueueLimits, ReceivedMessage
from daemon.config import Settings
from daemon.errors import OnFailure, TranscriptdError
from daemon.jobs.delivery import Published
from daemon.schema.notifications import Ignored


@dataclass(frozen=True, slots=True)
class Delete:
    """The result is published, by this delivery or an earlier one."""

    published: Published
    outcome = "published"


@dataclass(frozen=True, slots=True)
class Retry:
    """Visible again after the delay; the attempt counts."""

    error: TranscriptdError
    delay_seconds: float
    outcome = "retried"


@dataclass(frozen=True, slots=True)
class Release:
    """Visible again at once; the attempt does not count."""

    error: TranscriptdError
    outcome = "released"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Moved to the dead-letter queue with the error, then deleted."""

    error: TranscriptdError
    outcome = "dead_lettered"


@dataclass(frozen=True, slots=True)
class Abandon:
    """No further call: another daemon may hold the message."""

    error: TranscriptdError
    outcome = "abandoned"


@dataclass(frozen=True, slots=True)
class Cancel:
    """Deleted without a result; the attempt does not count."""

    error: TranscriptdError
    outcome = "cancelled"


@dataclass(frozen=True, slots=True)
class Ignore:
    """Deleted: the message is a notification that announces no recording."""

    reason: Ignored
    outcome = "ignored"


Disposition = Delete | Ignore | Retry | Release | DeadLetter | Abandon | Cancel


# Bounds of retries that spend no attempt, where the queue has no stricter ones.
MAX_RECEIVES = 100
MAX_AGE_SECONDS = 3 * 24 * 3600.0
MIN_RECEIVES = 5  # a message that waited longer than the age bound in a backlog still gets its retries


def is_last_delivery(message: ReceivedMessage, limits: QueueLimits, now: float, settings: Settings) -> bool:
    """Return whether a retried message might never be processed again, or has been retried for too long.

    After `maxReceiveCount` receives SQS would move it to the dead-letter queue without a reason, and after its retention
    period SQS would delete it. `now` is the Unix time.
    """
    age_seconds = now - message.sent_at
    if message.receive_count >= min(limits.max_receives or MAX_RECEIVES, MAX_RECEIVES):
        return True
    if age_seconds >= MAX_AGE_SECONDS and message.receive_count >= MIN_RECEIVES:
        return True
    if limits.retention_seconds is None:
        return False
    next_chance_seconds = settings.retry_max_seconds + settings.queue(message.queue).visibility_timeout_seconds
    # A retention period too short for a retry ends no message on its first failure.
    return message.receive_count > 1 and age_seconds + next_chance_seconds >= limits.retention_seconds


def choose_disposition(
    error: TranscriptdError, attempt: int, receive_count: int, settings: Settings, *, last: bool = False
) -> Disposition:
    """Choose the disposition of a delivery that ended in an error.

    `attempt` is the number of this attempt, from 1 (delivery_log.py). Errors that consume no attempt, such as an S3
    outage, back off by the receive count instead. Otherwise every retry would come as quickly as the first, an outage of
    minutes would use up the queue's maxReceiveCount, and SQS would dead-letter healthy jobs without a reason. On the
    `last` delivery there is no retry: the message ends with its code and its event.
    """
    match error.on_failure:
        case OnFailure.RELEASE:
            return Release(error)
        case OnFailure.ABANDON:
            return Abandon(error)
        case OnFailure.DEAD_LETTER:
            return DeadLetter(error)
        case OnFailure.CANCEL:
            return Cancel(error)
        case OnFailure.RETRY if last or (error.consumes_attempt and attempt >= settings.max_attempts):
            return DeadLetter(error)
        case OnFailure.RETRY:
            return Retry(error, backoff_seconds(attempt if error.consumes_attempt else receive_count, settings))


def backoff_seconds(attempt: int, settings: Settings) -> float:
    """Return an exponential backoff with full jitter, so that jobs that failed together are not retried together.

    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    ceiling = min(settings.retry_max_seconds, settings.retry_base_seconds * 2 ** (attempt - 1))
    return random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret
