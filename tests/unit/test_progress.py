"""The estimate of the remaining time: from a job's own speed, from similar jobs, or none."""

import pytest

from daemon.jobs.progress import MAX_FINISHED, DurationEstimator, JobProgress

KIND = ("large-v3", True)
USUAL = {"download": 9.0, "vad": 6.0, "asr": 60.0, "align": 18.0, "diarize": 36.0, "publish": 1.0}  # of 600 s


def progress_at(*reports: tuple[str, float, float], audio_seconds: float | None = 600.0) -> JobProgress:
    """Return the progress after the reports, given as stage, fraction and time."""
    progress = JobProgress(audio_seconds=audio_seconds)
    for stage, fraction, now in reports:
        progress.report(stage, fraction, now)
    return progress


@pytest.fixture
def estimator() -> DurationEstimator:
    estimator = DurationEstimator()
    estimator.record(KIND, 600.0, USUAL)
    return estimator


def test_without_similar_jobs_only_the_last_stage_has_an_estimate() -> None:
    progress = progress_at(("vad", 1.0, 1), ("asr", 0.0, 1), ("asr", 0.5, 11))
    assert DurationEstimator().remaining_seconds(KIND, progress, 11) is None
    progress = progress_at(("asr", 1.0, 11), ("align", 1.0, 12), ("diarize", 0.0, 12), ("diarize", 0.25, 22))
    assert DurationEstimator().remaining_seconds(KIND, progress, 22) == pytest.approx(30)


def test_current_stage_uses_its_own_speed_and_later_ones_that_of_similar_jobs(estimator: DurationEstimator) -> None:
    progress = progress_at(("vad", 0.0, 0), ("vad", 1.0, 3), ("asr", 0.0, 3), ("asr", 0.5, 23))
    assert estimator.remaining_seconds(KIND, progress, 23) == pytest.approx(20 + 18 + 36)


def test_similar_jobs_are_used_until_a_stage_shows_its_speed(estimator: DurationEstimator) -> None:
    progress = progress_at(("vad", 1.0, 0), ("asr", 0.0, 0), ("asr", 0.01, 1))
    assert estimator.remaining_seconds(KIND, progress, 1) == pytest.approx(60 * 0.99 + 18 + 36)


def test_longer_recording_takes_longer_and_a_much_longer_one_is_not_compared(estimator: DurationEstimator) -> None:
    reports = ("vad", 1.0, 0), ("asr", 0.0, 0)
    assert estimator.remaining_seconds(KIND, progress_at(*reports, audio_seconds=1200), 0) == pytest.approx(
        2 * (60 + 18 + 36)
    )
    assert estimator.remaining_seconds(KIND, progress_at(*reports, audio_seconds=3600), 0) is None
    assert estimator.remaining_seconds("another kind", progress_at(*reports), 0) is None


def test_elapsed_time_counts_and_an_exceeded_estimate_is_none(
    estimator: DurationEstimator,
) -> None:
    progress = progress_at(("vad", 1.0, 0), ("asr", 0.0, 0))
    assert estimator.remaining_seconds(KIND, progress, 14) == pytest.approx(100)
    assert estimator.remaining_seconds(KIND, progress, 114) is None


def test_resumed_progress_does_not_count_for_the_speed() -> None:
    progress = progress_at(("asr", 1.0, 0), ("align", 1.0, 0), ("diarize", 0.8, 5), ("diarize", 0.9, 15))
    assert DurationEstimator().remaining_seconds(KIND, progress, 15) == pytest.approx(10)


def test_channels_come_back_to_a_stage(estimator: DurationEstimator) -> None:
    """Two channels, one after the other: each stage stops half-way and continues."""
    progress = progress_at(
        *(("vad", 0.0, 0), ("vad", 0.5, 3), ("asr", 0.0, 3), ("asr", 0.5, 33), ("align", 0.5, 40)),
        *(("diarize", 0.5, 50), ("vad", 0.6, 52), ("asr", 0.5, 52), ("asr", 0.75, 67)),
    )
    # vad 6 s × 0.4 at its own speed, asr 15 s; align and diarize have not run long enough.
    assert estimator.remaining_seconds(KIND, progress, 67) == pytest.approx(6 * 0.4 + 15 + 18 / 2 + 36 / 2)


@pytest.mark.parametrize("stage", ["check", "download", "decode", "wait", "publish", "settle"])
def test_outside_the_runner_there_is_no_estimate(estimator: DurationEstimator, stage: str) -> None:
    progress = progress_at(("vad", 0.5, 1))
    progress.enter(stage)
    assert estimator.remaining_seconds(KIND, progress, 1) is None


@pytest.mark.parametrize("audio_seconds", [None, 0.0])
def test_without_a_length_there_is_no_estimate(estimator: DurationEstimator, audio_seconds: float | None) -> None:
    assert estimator.remaining_seconds(KIND, progress_at(("asr", 0.0, 0), audio_seconds=audio_seconds), 0) is None


def test_only_the_last_jobs_are_kept(estimator: DurationEstimator) -> None:
    for _ in range(MAX_FINISHED):
        estimator.record(KIND, 600.0, {"asr": 30.0})
    progress = progress_at(("asr", 0.0, 0))
    assert estimator.remaining_seconds(KIND, progress, 0) == pytest.approx(30)
    assert len(estimator._finished) == MAX_FINISHED


def test_unknown_stage_is_shown_without_an_estimate(estimator: DurationEstimator) -> None:
    progress = progress_at(("asr", 0.5, 0), ("dreaming", 0.5, 1))
    assert (progress.stage, progress.fraction) == ("dreaming", None)
    assert estimator.remaining_seconds(KIND, progress, 1) is None
