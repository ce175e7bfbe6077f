"""Exclusive access to a model that keeps state, or that would not fit into memory twice."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from daemon.pipeline.runtime.batcher import LOOK_SECONDS
from daemon.pipeline.runtime.work import StageTimer
from daemon.protocol.priority import Waiter, first_in, leave


class ModelLock:
    """A lock that jobs acquire by priority, then in FIFO order.

    The holder lends it to more urgent jobs where it can be interrupted, so that they do not wait for a recording of hours.
    If the queues have weights, a job is overtaken at most MAX_OVERTAKEN times.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: Waiter | None = None
        self._waiting: list[Waiter] = []

    @contextmanager
    def held(self, timer: StageTimer) -> Iterator[None]:
        """Hold the lock for the block. Raises Interrupted when the job is cancelled while it waits."""
        ticket = Waiter(timer.priority)
        with self._changed:
            self._waiting.append(ticket)
        try:
            self._acquire(ticket, timer)
            yield
        finally:
            with self._changed:
                if self._holder is ticket:
                    self._holder = None
                else:
                    self._waiting.remove(ticket)
                self._changed.notify_all()

    def lend(self, timer: StageTimer) -> None:
        """Let more urgent jobs use the model, and return when it is this job's again. Only the holder may call it.

        Call where the model keeps nothing of this job. Raises Interrupted when the job is cancelled while it waits.
        """
        with self._changed:
            ticket = self._holder
            if ticket is None:
                raise RuntimeError("the lock is not held")
            if first_in([ticket, *self._waiting]) is ticket:
                return
            self._holder = None
            self._waiting.insert(0, ticket)
            self._changed.notify_all()
        self._acquire(ticket, timer)

    def lending(self, timer: StageTimer, progress: Callable[[float], None]) -> Callable[[float], None]:
        """Return a progress callback that also lends the lock."""

        def report(fraction: float) -> None:
            progress(fraction)
            self.lend(timer)

        return report

    def _acquire(self, ticket: Waiter, timer: StageTimer) -> None:
        with timer.queueing():
            while not self._try_to_take(ticket):
                timer.waiting(queued=True)

    def _try_to_take(self, ticket: Waiter) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_next(ticket), LOOK_SECONDS):
                return False
            leave(self._waiting, ticket)
            self._holder = ticket
            return True

    def _is_next(self, ticket: Waiter) -> bool:
        return self._holder is None and first_in(self._waiting) is ticket
