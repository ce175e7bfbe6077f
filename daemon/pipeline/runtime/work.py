"""Shared inputs of a job's stages, and their timing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.runtime.fallback import FallbackPolicy
from daemon.pipeline.runtime.reporter import Reporter
from daemon.pipeline.types import SAMPLE_RATE
from daemon.protocol.events import STAGES, JobWaiting, PipelineEvent, Progress, StageDone
from daemon.protocol.priority import Priority
from daemon.schema.options import JobOptions


class StageTimer:
    """Measure the duration of a job's stages and report their progress."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._seconds: dict[str, float] = {}
        self._waited = 0.0

    @property
    def priority(self) -> Priority:
        return self._reporter.priority

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent per stage, in pipeline order. Time spent in earlier deliveries is not included."""
        return {stage: self._seconds[stage] for stage in STAGES if stage in self._seconds}

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the block's duration to the stage, excluding the time that other jobs used the models."""
        began, waited = time.monotonic(), self._waited
        try:
            yield
        finally:
            spent = time.monotonic() - began - (self._waited - waited)
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    @contextmanager
    def queueing(self) -> Iterator[Callable[[float], None]]:
        """Count the block as waiting for other jobs, except the seconds passed to the callback: the job's own share."""
        began = time.monotonic()
        own = 0.0

        def share(seconds: float) -> None:
            nonlocal own
            own = seconds

        try:
            yield share
        finally:
            self._waited += time.monotonic() - began - own

    @contextmanager
    def stage(self, stage: str) -> Iterator[None]:
        """Time the block as the whole stage, and report the stage done at its end."""
        self.check_cancelled()
        with self.clock(stage):
            yield
        self.done(stage)

    def took(self, stage: str, seconds: float) -> None:
        """Record a stage that ran in a background thread."""
        self._seconds[stage] = seconds
        self.done(stage)

    def done(self, stage: str) -> None:
        self.progress(stage, 1.0)
        self.emit(StageDone(stage, self._seconds[stage]))

    def progress(self, stage: str, fraction: float) -> None:
        self.emit(Progress(stage, fraction))

    def emit(self, event: PipelineEvent) -> None:
        self._reporter.emit(event)

    def waiting(self, queued: bool) -> None:
        """Report a waiting job. If `queued` is False, its own work is running and may hang: send no liveness event."""
        self.check_cancelled()
        if queued:
            self.emit(JobWaiting())

    def check_cancelled(self) -> None:
        self._reporter.check_cancelled()

    def progress_callback(self, stage: str) -> Callable[[float], None]:
        """Return a callback for a library: it reports progress and raises Interrupted when the job is cancelled."""

        def progress(fraction: float) -> None:
            self.check_cancelled()
            self.progress(stage, fraction)

        return progress


@dataclass(frozen=True, slots=True)
class JobWork:
    """Inputs and helpers of one job. `audio` is float32, mono, 16 kHz."""

    audio: np.ndarray
    options: JobOptions
    checkpoints: Checkpoints
    timer: StageTimer
    fallback: FallbackPolicy

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE
