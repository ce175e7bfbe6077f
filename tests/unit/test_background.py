"""A stage that runs in the background: its progress as seen by observers of the job, how it ends, and its timing."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from daemon.errors import Interrupted
from daemon.pipeline.runtime.background import BackgroundStage
from daemon.pipeline.runtime.work import StageTimer
from daemon.telemetry.logs import log_context, log_fields
from tests.support.pipeline import Recorder
from tests.support.time.virtual import VirtualTime


class Stage:
    """A stage that runs until the test ends it."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.given_up = False

    def __call__(self, timer: StageTimer) -> str:
        with timer.stage("diarize"):
            timer.progress("diarize", 0.5)
            try:
                while not self.may_end.wait(0.01):
                    timer.check_cancelled()
            except Interrupted:
                self.given_up = True
                raise
        return f"done for {log_fields()['job_id']}"


@contextmanager
def running(recorder: Recorder) -> Iterator[tuple[Stage, BackgroundStage[str], StageTimer]]:
    stage = Stage()
    with log_context(job_id="job-1"):
        background = BackgroundStage("diarize", recorder, stage)
        try:
            yield stage, background, StageTimer(recorder)
        finally:
            background.stop()


def test_buffered_progress_is_reported_when_the_job_reaches_the_stage() -> None:
    recorder = Recorder()
    with running(recorder) as (stage, background, timer):
        timer.progress("asr", 0.1)
        wait_for(lambda: background._buffered.has_moved, "the stage is half done")
        timer.progress("asr", 1.0)
        assert [name for name, _ in recorder.fractions] == ["asr", "asr"]
        assert recorder.beside == [("diarize", 0.5)], "observers can show it meanwhile"

        def end_once_reported() -> None:
            wait_for(lambda: len(recorder.fractions) > 2, "the buffered progress is reported")
            stage.may_end.set()

        with ThreadPoolExecutor(1) as pool:
            ending = pool.submit(end_once_reported)
            assert background.result(timer) == "done for job-1"
            ending.result()
    assert recorder.fractions[2] == ("diarize", 0.5)
    assert recorder.fractions[-1] == ("diarize", 1.0)
    assert list(recorder.done) == ["diarize"]
    assert timer.seconds()["diarize"] == background.timer.seconds()["diarize"] > 0
    assert not stage.given_up


def test_hung_stage_reports_no_progress() -> None:
    recorder = Recorder()
    with running(recorder) as (stage, background, timer):
        wait_for(lambda: background._buffered.has_moved, "the stage is half done")
        waiting = threading.Thread(target=background.result, args=(timer,))
        waiting.start()
        wait_for(lambda: bool(recorder.fractions), "its progress before it hung is reported")
        waiting.join(1)
        assert recorder.fractions == [("diarize", 0.5)]
        stage.may_end.set()
        waiting.join(PATIENCE_SECONDS)


def test_stage_is_cancelled_when_its_block_fails() -> None:
    with pytest.raises(ValueError, match="Whisper failed"), running(Recorder()) as (stage, _, _):
        raise ValueError("Whisper failed")
    assert stage.given_up


def test_cancelled_job_ends_the_stage() -> None:
    with running(Recorder(cancel_at=1)) as (_, background, timer), pytest.raises(Interrupted):
        background.result(timer)


def test_failure_is_raised_where_the_result_is_awaited() -> None:
    def fail(_: StageTimer) -> None:
        raise MemoryError("no room")

    timer = StageTimer(Recorder())
    background = BackgroundStage("diarize", Recorder(), fail)
    with pytest.raises(MemoryError, match="no room"):
        background.result(timer)
    assert timer.seconds() == {}


def test_waiting_for_other_jobs_does_not_count_for_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, timer = VirtualTime(), StageTimer(Recorder())
    clock.patch(monkeypatch)
    for _ in range(2):
        with timer.clock("asr"):
            clock.now += 1
            with timer.queueing() as share:
                clock.now += 100
                share(0.25)
            with timer.queueing():
                clock.now += 1000  # given up: no work was done for it
            clock.now += 2
    assert timer.seconds() == {"asr": 2 * (1 + 0.25 + 2)}
