"""How each event that the runner reports about a job is handled."""

import logging

import pytest

from daemon.jobs.progress import JobProgress
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.jobs.runner_events import RunnerEvents
from daemon.protocol.events import (
    BackgroundProgress,
    BatchDecoded,
    CheckpointSaved,
    ChunksFiltered,
    JobWaiting,
    Progress,
    StageDone,
)
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Span
from tests.support.monitoring.samples import samples_of
from tests.support.time.virtual import VirtualTime


class RecordingSpan(Span):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, float, Exception | None]] = []

    def ended(self, name: str, seconds: float, *, error: Exception | None = None) -> None:
        self.steps.append((name, seconds, error))


class Handled:
    """A job that was sent to the runner, and the effects of its events."""

    def __init__(self) -> None:
        self.clock = VirtualTime()
        self.metrics = Metrics()
        self.span = RecordingSpan()
        self.progress = JobProgress()
        self.estimate = WorkEstimate()
        self.reported: list[tuple[str, float | None]] = []
        self.done: list[tuple[str, float]] = []
        self.checkpoints: list[str] = []
        self.handle = RunnerEvents(
            self.metrics,
            self.span,
            self.progress,
            self.estimate,
            on_progress=lambda: self.reported.append((self.progress.stage, self.progress.fraction)),
            on_stage_done=lambda *event: self.done.append(event),
            on_checkpoint=self.checkpoints.append,
            clock=self.clock,
        )

    def after(self, seconds: float, *events: Progress | BackgroundProgress | JobWaiting | StageDone) -> None:
        self.clock.now += seconds
        for event in events:
            self.handle(event)


@pytest.fixture
def job() -> Handled:
    return Handled()


def test_job_waits_until_its_first_stage_and_each_stage_is_a_step(job: Handled) -> None:
    assert job.progress.stage == "wait"
    job.after(3, Progress("vad", 0.0))
    job.after(2, Progress("vad", 1.0), StageDone("vad", 1.5))
    job.after(7, Progress("asr", 0.5))
    job.after(1, Progress("asr", 1.0), StageDone("asr", 4.0))
    assert job.span.steps == [("wait", 3, None), ("vad", 2, None), ("asr", 1, None)]
    assert job.done == [("vad", 1.5), ("asr", 4.0)]
    assert job.reported == [("vad", 0.0), ("vad", 1.0), ("asr", 0.5), ("asr", 1.0)]
    assert job.progress.stage == "asr"


def test_progress_frees_capacity_for_other_jobs(job: Handled) -> None:
    job.after(1, Progress("vad", 1.0), Progress("asr", 0.5))
    assert job.estimate.remaining_fraction == pytest.approx(1 - 1.5 / 4)


def test_waiting_for_other_jobs_counts_for_the_stage(job: Handled) -> None:
    job.after(0, Progress("asr", 0.0))
    job.after(10, Progress("asr", 0.5))
    for _ in range(10):
        job.after(1, JobWaiting())
    assert job.progress.stages["asr"].seconds == 20
    assert (job.progress.stage, job.progress.fraction, job.progress.reported_at) == ("asr", 0.5, job.clock.now)
    assert job.reported == [("asr", 0.0), ("asr", 0.5)], "no event for webhooks"


def test_background_stage_progresses_beside_the_current_one(job: Handled) -> None:
    job.after(0, Progress("asr", 0.0), BackgroundProgress("diarize", 0.0))
    job.after(10, BackgroundProgress("diarize", 0.5))
    assert (job.progress.stage, job.progress.fraction) == ("asr", 0.0)
    assert (job.progress.stages["diarize"].fraction, job.progress.stages["diarize"].seconds) == (0.5, 10)
    assert job.span.steps == [("wait", 0, None)], "its step ends with StageDone"
    assert job.estimate.remaining_fraction == pytest.approx(1 - 0.5 / 4)
    assert len(job.reported) == 3


def test_heartbeat_before_any_stage_is_ignored(job: Handled) -> None:
    job.after(1, JobWaiting())
    assert (job.progress.stage, job.progress.stages) == ("wait", {})


def test_failure_ends_the_current_stage(job: Handled) -> None:
    job.after(3, Progress("vad", 0.5))
    job.clock.now += 4
    error = ValueError("no")
    job.handle.failed(error)
    assert job.span.steps == [("wait", 3, None), ("vad", 4, error)]


def test_failure_before_any_stage_ends_the_wait(job: Handled) -> None:
    job.clock.now += 4
    error = ValueError("no")
    job.handle.failed(error)
    assert job.span.steps == [("wait", 4, error)]


def test_measurements_are_counted(job: Handled) -> None:
    job.handle(BatchDecoded(chunks=4, capacity=16))
    job.handle(ChunksFiltered(chunks=10, rejected=3, rescan_rejected=2))
    found = samples_of(job.metrics)
    assert found["transcriptd_asr_batch_fill_ratio_sum"] == 0.25
    chunks = {name: value for name, value in found.items() if name.startswith("transcriptd_asr_chunks_total")}
    assert sorted(chunks.values()) == [2, 3, 5]
    assert chunks['transcriptd_asr_chunks_total{result="kept"}'] == 5
    assert chunks['transcriptd_asr_chunks_total{result="rejected"}'] == 3


def test_checkpoints_are_passed_on_by_name(job: Handled) -> None:
    job.handle(CheckpointSaved("asr-00000.json"))
    job.handle(CheckpointSaved("diarize.json"))
    assert job.checkpoints == ["asr-00000.json", "diarize.json"]


def test_progress_is_logged_without_transcript_text(job: Handled, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "transcriptd.transcription"):
        job.after(1, Progress("asr", 0.5))
    (line,) = [vars(record) for record in caplog.records]
    assert (line["stage"], line["fraction"]) == ("asr", 0.5)
