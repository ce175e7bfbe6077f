"""Progress as users see it, and the estimate of the remaining time: from a job's own speed, from similar jobs, or none."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.jobs.progress import MAX_FINISHED, STEPS, DurationEstimator, JobProgress, planned_stages
from daemon.jobs.validation import parse_job
from daemon.protocol.events import STAGES
from tests.support.builders import some_settings

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
    assert estimator.remaining_seconds(KIND, progress, 23) == pytest.approx(20 + 18)  # diarization runs beside


def test_similar_jobs_are_used_until_a_stage_shows_its_speed(estimator: DurationEstimator) -> None:
    progress = progress_at(("vad", 1.0, 0), ("asr", 0.0, 0), ("asr", 0.01, 1))
    assert estimator.remaining_seconds(KIND, progress, 1) == pytest.approx(60 * 0.99 + 18)


def test_longer_recording_takes_longer_and_a_much_longer_one_is_not_compared(estimator: DurationEstimator) -> None:
    reports = ("vad", 1.0, 0), ("asr", 0.0, 0)
    assert estimator.remaining_seconds(KIND, progress_at(*reports, audio_seconds=1200), 0) == pytest.approx(
        2 * (60 + 18)
    )
    assert estimator.remaining_seconds(KIND, progress_at(*reports, audio_seconds=3600), 0) is None
    assert estimator.remaining_seconds("another kind", progress_at(*reports), 0) is None


def test_elapsed_time_counts_and_an_exceeded_estimate_is_none(
    estimator: DurationEstimator,
) -> None:
    progress = progress_at(("vad", 1.0, 0), ("asr", 0.0, 0))
    assert estimator.remaining_seconds(KIND, progress, 14) == pytest.approx(64)
    assert estimator.remaining_seconds(KIND, progress, 114) is None


def test_slow_diarization_beside_the_words_decides_when_the_job_ends(estimator: DurationEstimator) -> None:
    progress = progress_at(("vad", 1.0, 0), ("asr", 0.0, 0))
    for fraction, now in ((0.0, 0.0), (0.1, 20.0)):
        progress.report_background("diarize", fraction, now)
    progress.report("asr", 0.5, 20)
    assert estimator.remaining_seconds(KIND, progress, 20) == pytest.approx(180)
    assert estimator.remaining_seconds(KIND, progress, 20, ("vad", "asr")) == pytest.approx(20)


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
    assert estimator.remaining_seconds(KIND, progress, 67) == pytest.approx(6 * 0.4 + 15 + 18 / 2)


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


# --- what is shown ------------------------------------------------------------------------------------------------


def test_finished_stage_gives_way_to_the_one_that_runs() -> None:
    progress = progress_at(("vad", 1.0, 1))
    assert progress.visible(STAGES) == ("asr", 0.0)
    progress.report("asr", 0.5, 2)
    progress.report_background("diarize", 0.25, 2)
    assert progress.visible(STAGES) == ("asr", 0.5)
    progress.report("asr", 1.0, 3)
    assert progress.visible(STAGES) == ("align", 0.0), "its model is being loaded"
    assert progress.visible(("vad", "asr", "diarize")) == ("diarize", 0.25)
    progress.report("align", 1.0, 4)
    assert progress.visible(STAGES) == ("diarize", 0.25), "it still runs in the background"
    progress.report_background("diarize", 1.0, 5)
    assert progress.visible(STAGES) == ("publish", None)


def test_skipped_stages_count_as_nothing() -> None:
    progress, estimator = JobProgress(), DurationEstimator()
    for step in ("check", "download", "decode", "wait"):
        progress.enter(step)
    for stage in ("vad", "asr"):
        progress.report(stage, 1.0, 1)
    progress.enter("publish")
    assert estimator.view(KIND, progress, ("vad", "asr"), 1).overall_fraction == pytest.approx(1, abs=0.02)
    progress = progress_at(("vad", 1.0, 1))
    progress.enter("publish")  # no speech was found
    assert estimator.view(KIND, progress, STAGES, 1).overall_fraction == pytest.approx(1, abs=0.02)


def test_failure_does_not_look_like_the_end() -> None:
    progress, estimator = progress_at(("vad", 1.0, 1)), DurationEstimator()
    before = estimator.view(KIND, progress, STAGES, 1).overall_fraction
    progress.enter("settle")
    assert estimator.view(KIND, progress, STAGES, 1).overall_fraction == before < 0.3


def test_measured_speeds_replace_the_usual_shares() -> None:
    estimator, progress = DurationEstimator(), progress_at(("vad", 1.0, 1))
    usual = estimator.view(KIND, progress, STAGES, 1).overall_fraction
    estimator.record(KIND, 600.0, {**USUAL, "vad": 600.0})
    assert estimator.view(KIND, progress, STAGES, 1).overall_fraction > usual + 0.4
    estimator.record("another kind", 600.0, USUAL)
    assert estimator.view("another kind", progress_at(("vad", 1.0, 1)), STAGES, 1).overall_fraction < 0.2


reports = st.tuples(st.sampled_from([*STEPS, "check", "wait", "settle"]), st.floats(0, 1), st.booleans())


@given(st.lists(reports, max_size=30), st.booleans())
def test_overall_fraction_never_decreases(events: list[tuple[str, float, bool]], learns: bool) -> None:
    """In whatever order the stages report, and whatever is learned about their speeds meanwhile."""
    progress, estimator, seen = JobProgress(audio_seconds=600.0), DurationEstimator(), []
    for now, (step, fraction, background) in enumerate(events):
        if step not in STAGES:
            progress.enter(step)
        elif background:
            progress.report_background(step, fraction, now)
        else:
            progress.report(step, fraction, now)
        if learns and now == 3:
            estimator.record(KIND, 600.0, USUAL)
        view = estimator.view(KIND, progress, STAGES, now)
        seen.append(view.overall_fraction)
        assert view.fraction is None or view.fraction < 1, "a finished stage is not shown"
    assert all(0 <= earlier <= later <= 1 for earlier, later in itertools.pairwise([0.0, *seen]))


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        ({}, STAGES),
        ({"align": "off"}, ("vad", "asr", "diarize")),
        ({"channels": "split"}, ("vad", "asr", "align")),
        ({"diarize": False, "align": "off"}, ("vad", "asr")),
    ],
)
def test_options_determine_the_stages(options: dict[str, object], planned: tuple[str, ...]) -> None:
    body = json.dumps({"job_id": "j", "input": {"bucket": "media", "key": "a"}, "options": options})
    assert planned_stages(parse_job(body, some_settings()).options) == planned
