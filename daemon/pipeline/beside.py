"""A stage of a job that runs beside the job's others, in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Generic, TypeVar

from daemon.errors import Interrupted
from daemon.pipeline.batching import LOOK_SECONDS
from daemon.pipeline.reporter import Reporter
from daemon.pipeline.work import Watch

T = TypeVar("T")


class _Aside:
    """What the stage reports is kept until the job waits for it: a job is in one stage at a time for those who watch it."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.fraction = 0.0
        self.has_moved = False  # since somebody looked
        self.given_up = False

    def progress(self, stage: str, fraction: float) -> None:  # noqa: ARG002  # there is but one
        self.fraction, self.has_moved = fraction, True

    def stage_done(self, stage: str, seconds: float) -> None:
        """Told by the job when it comes to the stage."""

    def batch(self, chunks: int, room: int) -> None:
        self._reporter.batch(chunks, room)

    def heard(self, chunks: int, gated: int, dismissed: int) -> None:
        self._reporter.heard(chunks, gated, dismissed)

    def alive(self) -> None:
        self.has_moved = True

    def check_cancelled(self) -> None:
        if self.given_up:
            raise Interrupted("the job needs the stage no more")
        self._reporter.check_cancelled()


class Beside(Generic[T]):
    """Does `action` from now on. It gets a Watch of its own, which stops it when the job is given up or needs it no more."""

    def __init__(self, stage: str, reporter: Reporter, action: Callable[[Watch], T]) -> None:
        self._stage = stage
        self._aside = _Aside(reporter)
        self.watch = Watch(self._aside)
        self._action = action
        self._outcome: Future[T] = Future()
        # In the job's context: its log lines name the job.
        threading.Thread(target=copy_context().run, args=(self._run,), name=stage, daemon=True).start()

    def _run(self) -> None:
        try:
            self._outcome.set_result(self._action(self.watch))
        except BaseException as error:  # noqa: BLE001  # raised again where it is waited for
            self._outcome.set_exception(error)

    def result(self, watch: Watch) -> T:
        """Wait for it; its progress is the job's meanwhile. Raises what the action raised, Interrupted when the job is given up."""
        while not self._outcome.done():
            watch.check_cancelled()
            if self._aside.has_moved:  # a stage that hangs must look like it
                self._aside.has_moved = False
                watch.progress(self._stage, self._aside.fraction)
            wait([self._outcome], LOOK_SECONDS)
        result = self._outcome.result()
        watch.took(self._stage, self.watch.seconds().get(self._stage, 0.0))
        return result

    def stop(self) -> None:
        """Give it up, if it is not done, and wait until it has let go."""
        self._aside.given_up = True
        wait([self._outcome])
