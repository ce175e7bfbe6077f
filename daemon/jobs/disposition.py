"""Dispositions: each delivery ends with exactly one of them. Pure; settlement.py carries them out."""

import random
from dataclasses import dataclass

from daemon.config import Settings
from daemon.errors import OnFailure, TranscriptdError
from daemon.jobs.delivery import Published


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


Disposition = Delete | Retry | Release | DeadLetter | Abandon


def choose_disposition(error: TranscriptdError, attempt: int, receive_count: int, settings: Settings) -> Disposition:
    """Choose the disposition of a delivery that ended in an error.

    `attempt` is the number of this attempt, from 1 (delivery_log.py). Errors that consume no attempt, such as an S3
    outage, back off by the receive count instead. Otherwise every retry would come as quickly as the first, an outage of
    minutes would use up the queue's maxReceiveCount, and SQS would dead-letter healthy jobs without a reason.
    """
    match error.on_failure:
        case OnFailure.RELEASE:
            return Release(error)
        case OnFailure.ABANDON:
            return Abandon(error)
        case OnFailure.DEAD_LETTER:
            return DeadLetter(error)
        case OnFailure.RETRY if error.consumes_attempt and attempt >= settings.max_attempts:
            return DeadLetter(error)
        case OnFailure.RETRY:
            return Retry(error, backoff_seconds(attempt if error.consumes_attempt else receive_count, settings))


def backoff_seconds(attempt: int, settings: Settings) -> float:
    """Return an exponential backoff with full jitter, so that jobs that failed together are not retried together.

    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    ceiling = min(settings.retry_max_seconds, settings.retry_base_seconds * 2 ** (attempt - 1))
    return random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret
