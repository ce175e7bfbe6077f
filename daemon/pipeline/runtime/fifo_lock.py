"""Exclusive access to a model that keeps state, or that would not fit into memory twice."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from daemon.pipeline.runtime.batcher import LOOK_SECONDS
from daemon.pipeline.runtime.work import StageTimer


class FifoLock:
    """A lock that jobs acquire in FIFO order."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()  # its head holds the lock

    @contextmanager
    def held(self, timer: StageTimer) -> Iterator[None]:
        """Hold the lock for the block. Raises Interrupted when the job is cancelled while it waits."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            with timer.queueing():
                while not self._is_first(ticket):
                    timer.waiting(queued=True)
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _is_first(self, ticket: object) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._queue[0] is ticket, LOOK_SECONDS)
