"""The estimate of what is left: from a job's own speed, from similar jobs, or none."""

import pytest

from daemon.pace import MAX_FINISHED, Course, Pace

KIND = ("large-v3", True)
USUAL = {"download": 9.0, "vad": 6.0, "asr": 60.0, "align": 18.0, "diarize": 36.0, "publish": 1.0}  # of 600 s


def course_at(*reports: tuple[str, float, float], audio_seconds: float | None = 600.0) -> Course:
    """A course after the reports: stage, fraction, and when."""
    course = Course(audio_seconds=audio_seconds)
    for stage, fraction, now in reports:
        course.report(stage, fraction, now)
    return course


@pytest.fixture
def pace() -> Pace:
    pace = Pace()
    pace.learn(KIND, 600.0, USUAL)
    return pace


def test_without_similar_jobs_only_the_last_stage_can_tell() -> None:
    course = course_at(("vad", 1.0, 1), ("asr", 0.0, 1), ("asr", 0.5, 11))
    assert Pace().left_seconds(KIND, course, 11) is None
    course = course_at(("asr", 1.0, 11), ("align", 1.0, 12), ("diarize", 0.0, 12), ("diarize", 0.25, 22))
    assert Pace().left_seconds(KIND, course, 22) == pytest.approx(30)


def test_a_stage_counts_at_its_own_speed_and_later_ones_at_that_of_similar_jobs(pace: Pace) -> None:
    course = course_at(("vad", 0.0, 0), ("vad", 1.0, 3), ("asr", 0.0, 3), ("asr", 0.5, 23))
    assert pace.left_seconds(KIND, course, 23) == pytest.approx(20 + 18 + 36)


def test_before_a_stage_has_shown_its_speed_similar_jobs_stand_in(pace: Pace) -> None:
    course = course_at(("vad", 1.0, 0), ("asr", 0.0, 0), ("asr", 0.01, 1))
    assert pace.left_seconds(KIND, course, 1) == pytest.approx(60 * 0.99 + 18 + 36)


def test_a_longer_recording_takes_longer_and_a_much_longer_one_is_not_compared(pace: Pace) -> None:
    reports = ("vad", 1.0, 0), ("asr", 0.0, 0)
    assert pace.left_seconds(KIND, course_at(*reports, audio_seconds=1200), 0) == pytest.approx(2 * (60 + 18 + 36))
    assert pace.left_seconds(KIND, course_at(*reports, audio_seconds=3600), 0) is None
    assert pace.left_seconds("another kind", course_at(*reports), 0) is None


def test_time_that_passes_without_a_report_counts_and_an_estimate_that_ran_out_is_none(pace: Pace) -> None:
    course = course_at(("vad", 1.0, 0), ("asr", 0.0, 0))
    assert pace.left_seconds(KIND, course, 14) == pytest.approx(100)
    assert pace.left_seconds(KIND, course, 114) is None


def test_what_a_checkpoint_brought_says_nothing_of_the_speed() -> None:
    course = course_at(("asr", 1.0, 0), ("align", 1.0, 0), ("diarize", 0.8, 5), ("diarize", 0.9, 15))
    assert Pace().left_seconds(KIND, course, 15) == pytest.approx(10)


def test_channels_come_back_to_a_stage(pace: Pace) -> None:
    """Two channels, one after the other: each stage stops half-way and goes on."""
    course = course_at(
        *(("vad", 0.0, 0), ("vad", 0.5, 3), ("asr", 0.0, 3), ("asr", 0.5, 33), ("align", 0.5, 40)),
        *(("diarize", 0.5, 50), ("vad", 0.6, 52), ("asr", 0.5, 52), ("asr", 0.75, 67)),
    )
    # vad 6 s × 0.4 at its own speed, asr 15 s; align and diarize were not seen long enough.
    assert pace.left_seconds(KIND, course, 67) == pytest.approx(6 * 0.4 + 15 + 18 / 2 + 36 / 2)


@pytest.mark.parametrize("stage", ["check", "download", "decode", "wait", "publish", "settle"])
def test_outside_the_runner_there_is_none(pace: Pace, stage: str) -> None:
    course = course_at(("vad", 0.5, 1))
    course.enter(stage)
    assert pace.left_seconds(KIND, course, 1) is None


@pytest.mark.parametrize("audio_seconds", [None, 0.0])
def test_without_a_length_there_is_none(pace: Pace, audio_seconds: float | None) -> None:
    assert pace.left_seconds(KIND, course_at(("asr", 0.0, 0), audio_seconds=audio_seconds), 0) is None


def test_the_last_jobs_count_and_no_more_are_kept(pace: Pace) -> None:
    for _ in range(MAX_FINISHED):
        pace.learn(KIND, 600.0, {"asr": 30.0})
    course = course_at(("asr", 0.0, 0))
    assert pace.left_seconds(KIND, course, 0) == pytest.approx(30)
    assert len(pace._finished) == MAX_FINISHED


def test_a_stage_the_runner_invents_is_shown_and_not_estimated(pace: Pace) -> None:
    course = course_at(("asr", 0.5, 0), ("dreaming", 0.5, 1))
    assert (course.stage, course.fraction) == ("dreaming", None)
    assert pace.left_seconds(KIND, course, 1) is None
