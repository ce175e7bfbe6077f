"""What every stage of one job needs at hand."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from daemon.options import JobOptions
from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.ladder import Ladder
from daemon.pipeline.pieces import SAMPLE_RATE
from daemon.pipeline.reporter import Reporter
from daemon.protocol import STAGES


class Watch:
    """Takes the time of a job's stages and keeps its reporter informed."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._seconds: dict[str, float] = {}
        self._waited = 0.0

    def seconds(self) -> dict[str, float]:
        """Stage → time spent, in the order of the stages. What earlier deliveries spent is not in it."""
        return {stage: self._seconds[stage] for stage in STAGES if stage in self._seconds}

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Count the block's time for the stage, without that in which other jobs had the models."""
        began, waited = time.monotonic(), self._waited
        try:
            yield
        finally:
            spent = time.monotonic() - began - (self._waited - waited)
            self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    @contextmanager
    def queueing(self) -> Iterator[Callable[[float], None]]:
        """The block waits for other jobs, but for the seconds that it names: its own share of the work."""
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
        """The block is the whole stage."""
        self.check_cancelled()
        with self.clock(stage):
            yield
        self.done(stage)

    def took(self, stage: str, seconds: float) -> None:
        """The stage was done elsewhere, beside others."""
        self._seconds[stage] = seconds
        self.done(stage)

    def done(self, stage: str) -> None:
        self.progress(stage, 1.0)
        self._reporter.stage_done(stage, self._seconds[stage])

    def progress(self, stage: str, fraction: float) -> None:
        self._reporter.progress(stage, fraction)

    def batch(self, chunks: int, room: int) -> None:
        self._reporter.batch(chunks, room)

    def heard(self, chunks: int, gated: int, dismissed: int) -> None:
        self._reporter.heard(chunks, gated, dismissed)

    def waiting(self, queued: bool) -> None:
        """Called while the job waits: `queued` if it is for other jobs, and not for work of its own that may hang."""
        self.check_cancelled()
        if queued:
            self._reporter.alive()

    def check_cancelled(self) -> None:
        self._reporter.check_cancelled()

    def progress_of(self, stage: str) -> Callable[[float], None]:
        """For a library to call: tells the progress, and stops the library when the job is given up."""

        def progress(fraction: float) -> None:
            self.check_cancelled()
            self.progress(stage, fraction)

        return progress


@dataclass(frozen=True, slots=True)
class Work:
    """`audio` is float32, mono, 16 kHz."""

    audio: np.ndarray
    options: JobOptions
    checkpoints: Checkpoints
    watch: Watch
    ladder: Ladder

    @property
    def duration(self) -> float:
        return len(self.audio) / SAMPLE_RATE
