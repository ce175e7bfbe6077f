"""Exclusive access to a model that keeps state, or that would not fit into memory twice."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from daemon.pipeline.runtime.batcher import LOOK_SECONDS
from daemon.pipeline.runtime.work import StageTimer
from daemon.protocol.priority import Priority

MAX_OVERTAKEN = 20


@dataclass(eq=False, slots=True)
class _Ticket:
    priority: Priority
    overtaken: int = 0  # times that a later job acquired the lock first

    @property
    def turn(self) -> tuple[bool, int]:
        """Sort key of the waiting tickets, which are in FIFO order."""
        has_waited_enough = self.priority.weight is not None and self.overtaken >= MAX_OVERTAKEN
        return not has_waited_enough, self.priority.rank


class ModelLock:
    """A lock that jobs acquire by priority, then in FIFO order.

    The holder lends it to more urgent jobs where it can be interrupted, so that they do not wait for a recording of hours.
    If the queues have weights, a job is overtaken at most MAX_OVERTAKEN times.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: _Ticket | None = None
        self._waiting: list[_Ticket] = []

    @contextmanager
    def held(self, timer: StageTimer) -> Iterator[None]:
        """Hold the lock for the block. Raises Interrupted when the job is cancelled while it waits."""
        ticket = _Ticket(timer.priority)
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
            if min([ticket, *self._waiting], key=lambda each: each.turn) is ticket:
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

    def _acquire(self, ticket: _Ticket, timer: StageTimer) -> None:
        with timer.queueing():
            while not self._try_to_take(ticket):
                timer.waiting(queued=True)

    def _try_to_take(self, ticket: _Ticket) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_next(ticket), LOOK_SECONDS):
                return False
            for earlier in self._waiting[: self._waiting.index(ticket)]:
                earlier.overtaken += 1
            self._waiting.remove(ticket)
            self._holder = ticket
            return True

    def _is_next(self, ticket: _Ticket) -> bool:
        return self._holder is None and min(self._waiting, key=lambda each: each.turn) is ticket
