"""What becomes of a message: exhaustive over every error there is."""

from collections.abc import Callable

import pytest

from daemon.config import Settings
from daemon.disposition import Abandon, DeadLetter, Disposition, Release, Retry, backoff_seconds, disposition_of
from daemon.errors import Fate, RunnerCrashed, StorageUnavailable, TranscriptdError, all_errors

FIRST_ATTEMPT: dict[Fate, type[Disposition]] = {
    Fate.RETRY: Retry,
    Fate.RELEASE: Release,
    Fate.ABANDON: Abandon,
    Fate.DEAD_LETTER: DeadLetter,
}


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.code)
def test_every_error_has_one_disposition(error: type[TranscriptdError], make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(max_attempts=3)
    assert type(disposition_of(error("x"), 1, 1, settings)) is FIRST_ATTEMPT[error.fate]
    last = disposition_of(error("x"), 3, 3, settings)
    spent = error.fate is Fate.RETRY and error.counts
    assert type(last) is (DeadLetter if spent else FIRST_ATTEMPT[error.fate])


def test_backoff_doubles_has_full_jitter_and_a_ceiling(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(retry_base_seconds=10, retry_max_seconds=60)
    for attempt, ceiling in ((1, 10), (2, 20), (3, 40), (4, 60), (99, 60)):
        drawn = [backoff_seconds(attempt, settings) for _ in range(500)]
        assert 0 <= min(drawn) < ceiling * 0.1
        assert ceiling * 0.9 < max(drawn) <= ceiling


def test_an_outage_backs_off_with_the_receives_a_failure_with_the_attempts(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(retry_base_seconds=10, retry_max_seconds=10_000)
    outage, failure = StorageUnavailable("x"), RunnerCrashed("x")

    def longest(error: TranscriptdError) -> float:
        delays = [disposition_of(error, 1, 8, settings) for _ in range(200)]
        return max(each.delay_seconds for each in delays if isinstance(each, Retry))

    assert longest(failure) <= 10
    assert longest(outage) > 500
