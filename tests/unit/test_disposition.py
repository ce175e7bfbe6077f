"""The outcome of a message for every error class."""

from collections.abc import Callable

import pytest

from daemon.aws.sqs import QueueLimits
from daemon.config import Settings
from daemon.errors import OnFailure, RunnerCrashed, StorageUnavailable, TranscriptdError, all_errors
from daemon.jobs.disposition import (
    MAX_AGE_SECONDS,
    MAX_RECEIVES,
    Abandon,
    Cancel,
    DeadLetter,
    Disposition,
    Release,
    Retry,
    backoff_seconds,
    choose_disposition,
    is_last_delivery,
)
from tests.support.aws.fakes import received

FIRST_ATTEMPT: dict[OnFailure, type[Disposition]] = {
    OnFailure.RETRY: Retry,
    OnFailure.RELEASE: Release,
    OnFailure.ABANDON: Abandon,
    OnFailure.DEAD_LETTER: DeadLetter,
    OnFailure.CANCEL: Cancel,
}


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.code)
def test_every_error_has_one_disposition(error: type[TranscriptdError], make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(max_attempts=3)
    assert type(choose_disposition(error("x"), 1, 1, settings)) is FIRST_ATTEMPT[error.on_failure]
    last = choose_disposition(error("x"), 3, 3, settings)
    spent = error.on_failure is OnFailure.RETRY and error.consumes_attempt
    assert type(last) is (DeadLetter if spent else FIRST_ATTEMPT[error.on_failure])


def test_backoff_doubles_with_full_jitter_up_to_a_ceiling(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(retry_base_seconds=10, retry_max_seconds=60)
    for attempt, ceiling in ((1, 10), (2, 20), (3, 40), (4, 60), (99, 60)):
        drawn = [backoff_seconds(attempt, settings) for _ in range(500)]
        assert 0 <= min(drawn) < ceiling * 0.1
        assert ceiling * 0.9 < max(drawn) <= ceiling


def test_outages_back_off_by_receive_count_and_failures_by_attempt(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(retry_base_seconds=10, retry_max_seconds=10_000)
    outage, failure = StorageUnavailable("x"), RunnerCrashed("x")

    def longest(error: TranscriptdError) -> float:
        delays = [choose_disposition(error, 1, 8, settings) for _ in range(200)]
        return max(each.delay_seconds for each in delays if isinstance(each, Retry))

    assert longest(failure) <= 10
    assert longest(outage) > 500


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.code)
def test_last_delivery_is_never_a_retry(error: type[TranscriptdError], make_settings: Callable[..., Settings]) -> None:
    chosen = choose_disposition(error("x"), 1, 1, make_settings(), last=True)
    retried = error.on_failure is OnFailure.RETRY
    assert type(chosen) is (DeadLetter if retried else FIRST_ATTEMPT[error.on_failure])


DAY = 24 * 3600


@pytest.mark.parametrize(
    ("receive_count", "age_seconds", "limits", "last"),
    [
        (9, 0, QueueLimits(max_receives=10), False),
        (10, 0, QueueLimits(max_receives=10), True),  # SQS would redrive the next receive
        (MAX_RECEIVES - 1, 0, QueueLimits(), False),
        (MAX_RECEIVES, 0, QueueLimits(), True),
        (MAX_RECEIVES, 0, QueueLimits(max_receives=1000), True),
        (4, MAX_AGE_SECONDS, QueueLimits(), False),  # it waited in a backlog
        (5, MAX_AGE_SECONDS, QueueLimits(), True),
        (5, MAX_AGE_SECONDS - 1, QueueLimits(), False),
        (2, 4 * DAY - 3600, QueueLimits(retention_seconds=4 * DAY), False),
        (2, 4 * DAY - 1000, QueueLimits(retention_seconds=4 * DAY), True),  # it would expire before a retry
        (1, 60, QueueLimits(retention_seconds=60), False),
    ],
)
def test_retries_are_bounded_by_count_and_age(
    receive_count: int, age_seconds: float, limits: QueueLimits, last: bool, make_settings: Callable[..., Settings]
) -> None:
    message = received(receive_count=receive_count)
    settings = make_settings(retry_max_seconds=900, visibility_timeout_seconds=120)
    assert is_last_delivery(message, limits, message.sent_at + age_seconds, settings) is last
