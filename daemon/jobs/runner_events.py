"""Handles the events that the runner reports about a job. Every event is handled here."""

import logging
from collections.abc import Callable
from typing import assert_never

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.jobs.progress import JobProgress
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.protocol.events import (
    BackgroundProgress,
    BatchDecoded,
    CheckpointSaved,
    ChunksFiltered,
    JobWaiting,
    PipelineEvent,
    Progress,
    StageDone,
)
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Span

log = logging.getLogger("transcriptd.transcription")


class RunnerEvents:
    """Event handler for one job; call it with each event. The job is in `wait` until the first event of a stage."""

    def __init__(
        self,
        metrics: Metrics,
        span: Span,
        progress: JobProgress,
        estimate: WorkEstimate,
        *,
        on_progress: Callable[[], None],
        on_stage_done: Callable[[str, float], None],
        on_checkpoint: Callable[[str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._span = span
        self._progress = progress
        self._estimate = estimate
        self._on_progress = on_progress
        self._on_stage_done = on_stage_done
        self._on_checkpoint = on_checkpoint
        self._entered_at = self._clock.monotonic()  # start of the current stage
        progress.enter("wait")

    def __call__(self, event: PipelineEvent) -> None:
        match event:
            case Progress(stage, fraction):
                self._enter(stage)
                self._progress.report(stage, fraction, self._clock.monotonic())
                self._estimate.update(self._progress.remaining_fraction)
                log.debug("progress", extra={"stage": stage, "fraction": fraction})
                self._on_progress()
            case BackgroundProgress(stage, fraction):
                self._progress.report_background(stage, fraction, self._clock.monotonic())
                self._estimate.update(self._progress.remaining_fraction)
                self._on_progress()
            case JobWaiting():
                # The waiting time counts for the stage, without progress.
                self._progress.report(self._progress.stage, self._progress.fraction or 0.0, self._clock.monotonic())
            case StageDone(stage, seconds):
                self._enter(stage)
                self._progress.report(stage, 1.0, self._clock.monotonic())
                # The runner process has no tracing, so the span is created here. It includes the time in which other
                # jobs used the models; the stage's `seconds` do not.
                self._span.ended(stage, self._clock.monotonic() - self._entered_at)
                self._on_stage_done(stage, seconds)
            case BatchDecoded(chunks, capacity):
                self._metrics.asr_batch_fill_ratio.observe(chunks / capacity)
            case ChunksFiltered(chunks, rejected, rescan_rejected):
                counts = {
                    "kept": chunks - rejected - rescan_rejected,
                    "rejected": rejected,
                    "rescan_rejected": rescan_rejected,
                }
                for result, count in counts.items():
                    self._metrics.asr_chunks.labels(result).inc(count)
            case CheckpointSaved(name):
                self._on_checkpoint(name)
            case _:
                assert_never(event)

    def failed(self, error: Exception) -> None:
        """End the span of the current stage with the error."""
        self._span.ended(self._progress.stage, self._clock.monotonic() - self._entered_at, error=error)

    def _enter(self, stage: str) -> None:
        if stage == self._progress.stage:
            return
        if self._progress.stage == "wait":
            self._span.ended("wait", self._clock.monotonic() - self._entered_at)
        self._entered_at = self._clock.monotonic()
