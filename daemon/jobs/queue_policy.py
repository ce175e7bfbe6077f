"""Decides which queue to receive from, and how many messages. No I/O, no tasks.

Strict priority, the default: a queue is asked only while the queues before it are empty. A queue is known to be empty
after an empty answer, or once a long poll has waited for HEAD_START_SECONDS: SQS answers at once if it has a message. Long
polls of several queues run at the same time, so a message of the first queue never waits for the end of another one's.
One place is always kept for the first queue, and its work counts as if there were no other, so that no backlog of a lower
queue stops it.

With weights, every queue is asked at any time, and has room as if it were alone. The runner divides the devices between
them (pipeline/runtime/schedule.py). One place is kept for each queue that holds no message, so none starves.

A queue that does not respond, or from which receiving is paused, holds up no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.job_queues import JobQueue
from daemon.jobs.receive_limiter import ReceiveLimiter

HEAD_START_SECONDS = 1.0


@dataclass(slots=True)
class _Receiving:
    """What is known about a queue."""

    asked: int = 0  # messages that a receive in flight may return
    asked_at: float = 0.0  # monotonic
    is_empty: bool | None = None  # as of the last answer; None before the first


class QueuePolicy:
    """Call `asking()` before and `answered()` after each receive."""

    def __init__(self, queues: Sequence[JobQueue], limiter: ReceiveLimiter, clock: Clock = SYSTEM_CLOCK) -> None:
        self._queues = queues
        self._limiter = limiter
        self._clock = clock
        self._receiving = {queue.name: _Receiving() for queue in queues}

    def capacity(self, queue: JobQueue) -> int:
        """Number of further messages of this queue that the daemon has room for."""
        elsewhere = sum(it.asked for name, it in self._receiving.items() if name != queue.name)
        room = self._limiter.free - elsewhere - self._kept_from(queue)
        return max(0, min(self._limiter.capacity(queue.priority), room))

    def request_size(self, queue: JobQueue) -> int:
        """Number of messages to request now.

        One from a queue that may be empty, if there are several: a long poll would otherwise keep more places from the
        others for up to 20 s.
        """
        capacity, is_empty = self.capacity(queue), self._receiving[queue.name].is_empty
        return capacity if is_empty is False or len(self._queues) == 1 else min(1, capacity)

    def is_held_back(self, queue: JobQueue) -> bool:
        """Return whether a queue before this one may have messages, so that this one has to wait."""
        if queue.priority.weight is not None:
            return False
        before = (other for other in self._queues if other.priority.rank < queue.priority.rank)
        return not all(self._is_empty(other) for other in before)

    def asking(self, queue: JobQueue, count: int) -> None:
        """Note a receive of up to `count` messages."""
        receiving = self._receiving[queue.name]
        receiving.asked, receiving.asked_at = count, self._clock.monotonic()

    def answered(self, queue: JobQueue, received: int) -> None:
        """Note the end of a receive; 0 if it failed. Add the messages to the limiter in the same step."""
        receiving = self._receiving[queue.name]
        receiving.asked, receiving.is_empty = 0, received == 0

    def skip(self, queue: JobQueue) -> None:
        """Note that nothing is received from the queue now, although it may have messages."""
        self._receiving[queue.name].is_empty = True

    def _is_empty(self, queue: JobQueue) -> bool:
        receiving = self._receiving[queue.name]
        waited_seconds = self._clock.monotonic() - receiving.asked_at
        return receiving.is_empty is True or (receiving.asked > 0 and waited_seconds >= HEAD_START_SECONDS)

    def _kept_from(self, queue: JobQueue) -> int:
        """Number of places that this queue must leave to others."""
        if queue.priority.weight is None:
            others = self._queues[:1] if queue.priority.rank > 0 else ()
        else:
            others = [each for each in self._queues if each != queue and not self._limiter.held(each.priority)]
        return sum(not self._receiving[other.name].asked for other in others)  # a receive in flight has its places
