"""What one job at a time may use: a model that keeps state, or whose memory would not be there twice."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from daemon.pipeline.batching import LOOK_SECONDS
from daemon.pipeline.work import Watch


class Slot:
    """Jobs hold it one after the other, in the order in which they asked."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()  # its head holds the slot

    @contextmanager
    def held(self, watch: Watch) -> Iterator[None]:
        """The block has the slot. Raises Interrupted when the job is given up while it waits."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
        try:
            with watch.queueing():
                while not self._is_first(ticket):
                    watch.waiting(queued=True)
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _is_first(self, ticket: object) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._queue[0] is ticket, LOOK_SECONDS)
