"""A stage beside the others: what watchers of the job see of it, and how it ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from daemon.errors import Interrupted
from daemon.logs import log_context, log_fields
from daemon.pipeline.beside import Beside
from daemon.pipeline.work import Watch
from tests.integration.pipeline_fixture import Recorder
from tests.waiting import PATIENCE_SECONDS, wait_for


class Stage:
    """Goes from step to step as the test says."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.given_up = False

    def __call__(self, watch: Watch) -> str:
        with watch.stage("diarize"):
            watch.progress("diarize", 0.5)
            try:
                while not self.may_end.wait(0.01):
                    watch.check_cancelled()
            except Interrupted:
                self.given_up = True
                raise
        return f"done for {log_fields()['job_id']}"


@contextmanager
def running(recorder: Recorder) -> Iterator[tuple[Stage, Beside[str], Watch]]:
    stage = Stage()
    with log_context(job_id="job-1"):
        beside = Beside("diarize", recorder, stage)
        try:
            yield stage, beside, Watch(recorder)
        finally:
            beside.stop()


def test_its_progress_is_told_when_the_job_comes_to_it() -> None:
    recorder = Recorder()
    with running(recorder) as (stage, beside, watch):
        watch.progress("asr", 0.1)
        wait_for(lambda: beside._aside.has_moved, "the stage is half done")
        watch.progress("asr", 1.0)
        assert [name for name, _ in recorder.fractions] == ["asr", "asr"]
        ending = threading.Timer(0.3, stage.may_end.set)
        ending.start()
        assert beside.result(watch) == "done for job-1"
    assert recorder.fractions[2] == ("diarize", 0.5)
    assert recorder.fractions[-1] == ("diarize", 1.0)
    assert list(recorder.done) == ["diarize"]
    assert watch.seconds()["diarize"] == beside.watch.seconds()["diarize"] > 0
    assert not stage.given_up


def test_a_stage_that_hangs_gives_no_sign_of_life() -> None:
    recorder = Recorder()
    with running(recorder) as (stage, beside, watch):
        wait_for(lambda: beside._aside.has_moved, "the stage is half done")
        waiting = threading.Thread(target=beside.result, args=(watch,))
        waiting.start()
        wait_for(lambda: bool(recorder.fractions), "what it did before it hung was told")
        waiting.join(1)
        assert recorder.fractions == [("diarize", 0.5)]
        stage.may_end.set()
        waiting.join(PATIENCE_SECONDS)


def test_it_is_given_up_with_the_block_that_needs_it() -> None:
    with pytest.raises(ValueError, match="Whisper failed"), running(Recorder()) as (stage, _, _):
        raise ValueError("Whisper failed")
    assert stage.given_up


def test_a_cancelled_job_ends_it() -> None:
    with running(Recorder(cancel_at=1)) as (_, beside, watch), pytest.raises(Interrupted):
        beside.result(watch)


def test_its_failure_is_raised_where_it_is_waited_for() -> None:
    def fail(_: Watch) -> None:
        raise MemoryError("no room")

    watch = Watch(Recorder())
    beside = Beside("diarize", Recorder(), fail)
    with pytest.raises(MemoryError, match="no room"):
        beside.result(watch)
    assert watch.seconds() == {}
