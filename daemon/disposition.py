"""What becomes of a message: exactly one of these for every delivery. Pure; `processor.py` carries it out."""

import random
from dataclasses import dataclass

from daemon.config import Settings
from daemon.errors import Fate, TranscriptdError


@dataclass(frozen=True, slots=True)
class Delete:
    """The result is published, by this delivery (`published`) or an earlier one (`duplicate`)."""

    reason: str
    outcome = "deleted"


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
    """Nothing may be done: the message may be another's by now."""

    error: TranscriptdError
    outcome = "abandoned"


Disposition = Delete | Retry | Release | DeadLetter | Abandon


def disposition_of(error: TranscriptdError, attempt: int, receive_count: int, settings: Settings) -> Disposition:
    """The disposition of a delivery that ended in an error.

    `attempt` counts the job's own failures from 1, as if this were one (history.py). What is no failure of its own, such as
    an outage of S3, backs off with the receive count instead: at the pace of a first retry an outage of minutes would use
    up the queue's maxReceiveCount, and SQS would dead-letter healthy jobs without a reason.
    """
    match error.fate:
        case Fate.RELEASE:
            return Release(error)
        case Fate.ABANDON:
            return Abandon(error)
        case Fate.DEAD_LETTER:
            return DeadLetter(error)
        case Fate.RETRY if error.counts and attempt >= settings.max_attempts:
            return DeadLetter(error)
        case Fate.RETRY:
            return Retry(error, backoff_seconds(attempt if error.counts else receive_count, settings))


def backoff_seconds(attempt: int, settings: Settings) -> float:
    """Exponential back-off with full jitter: retries of jobs that failed together must not come back together.

    https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/
    """
    ceiling = min(settings.retry_max_seconds, settings.retry_base_seconds * 2 ** (attempt - 1))
    return random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret
