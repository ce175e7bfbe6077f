"""Run a stage of a job in its own thread, in parallel with the other stages."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Generic, TypeVar

from daemon.errors import Interrupted
from daemon.pipeline.runtime.batcher import LOOK_SECONDS
from daemon.pipeline.runtime.reporter import Reporter
from daemon.pipeline.runtime.work import StageTimer
from daemon.protocol.events import BackgroundProgress, JobWaiting, PipelineEvent, Progress, StageDone
from daemon.protocol.priority import Priority

T = TypeVar("T")


class _BufferedReporter:
    """Report the stage's progress as that of a background stage, and keep it for the time when the job waits for it.

    Background progress does not reset the stall deadline, so that a hang of the job's own stage is detected.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.fraction = 0.0
        self.has_moved = False  # since the last check
        self.given_up = False

    @property
    def priority(self) -> Priority:
        return self._reporter.priority

    def emit(self, event: PipelineEvent) -> None:
        match event:
            case Progress(stage, fraction):
                self.fraction, self.has_moved = fraction, True
                self._reporter.emit(BackgroundProgress(stage, fraction))
            case JobWaiting():
                self.has_moved = True
            case StageDone():
                pass  # the job emits it when it reaches the stage
            case _:
                self._reporter.emit(event)

    def check_cancelled(self) -> None:
        if self.given_up:
            raise Interrupted("stage cancelled: its result is no longer needed")
        self._reporter.check_cancelled()


class BackgroundStage(Generic[T]):
    """Run `action` in a thread. Its StageTimer stops it when the job is cancelled or no longer needs the result."""

    def __init__(self, stage: str, reporter: Reporter, action: Callable[[StageTimer], T]) -> None:
        self._stage = stage
        self._buffered = _BufferedReporter(reporter)
        self.timer = StageTimer(self._buffered)
        self._action = action
        self._outcome: Future[T] = Future()
        # Copy the job's context so that log lines carry the job's fields.
        threading.Thread(target=copy_context().run, args=(self._run,), name=stage, daemon=True).start()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._action(self.timer))
        except BaseException as error:  # noqa: BLE001  # raised again by result()
            self._outcome.set_exception(error)

    def result(self, timer: StageTimer) -> T:
        """Wait for the result and report the stage's progress. Raises the action's error, or Interrupted."""
        while not self._outcome.done():
            timer.check_cancelled()
            if self._buffered.has_moved:  # report only new progress, so that a hung stage is detected as hung
                self._buffered.has_moved = False
                timer.progress(self._stage, self._buffered.fraction)
            wait([self._outcome], LOOK_SECONDS)
        result = self._outcome.result()
        timer.took(self._stage, self.timer.seconds().get(self._stage, 0.0))
        return result

    def stop(self) -> None:
        """Cancel the stage if it is still running, and wait until its thread has finished."""
        self._buffered.given_up = True
        wait([self._outcome])
