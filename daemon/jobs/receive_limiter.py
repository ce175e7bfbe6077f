"""Limits how many messages to receive: as many as the runners can use. No clock, no queue, no metrics.

Whisper decodes 30 s chunks of all current jobs in batches. Many short recordings fill a batch, or one long recording.
Messages beyond that would only wait here and be unavailable to other daemons. So the daemon receives messages until
their chunks fill two batches for each device: one that is being computed and one that waits. Staging the next recordings
takes less time than computing a batch, so a third batch would only wait longer.

With several queues (queue_policy.py), the work of a queue goes before that of lower ones, so it needs room as if there
were no lower ones. With shares, each queue needs room as if it were the only one.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from daemon.protocol.priority import ONLY, Priority

CHUNK_SECONDS = 30.0  # Whisper's window
BATCHES_PER_DEVICE = 2  # one computing, one waiting
JOBS_PER_DEVICE = 2  # minimum: one computing, one being staged
MAX_RECENT = 10


@dataclass(eq=False, slots=True)
class WorkEstimate:
    """The runner's work for one message. Its delivery updates the amount."""

    on_change: Callable[[], None] = lambda: None
    priority: Priority = ONLY
    audio_seconds: float | None = None  # all channels together; None until decoded
    remaining_fraction: float = 1.0  # of the work

    def staged(self, audio_seconds: float) -> None:
        self.audio_seconds = audio_seconds
        self.on_change()

    def update(self, remaining_fraction: float) -> None:
        self.remaining_fraction = remaining_fraction
        self.on_change()


class ReceiveLimiter:
    """Call `add()` for each message and `remove(estimate)` after its outcome; `capacity()` is the number to receive."""

    def __init__(
        self,
        max_jobs: int,
        *,
        batch_size: int,
        devices: Callable[[], int] = lambda: 1,
        jobs_waiting: Callable[[Priority], int] = lambda _: 0,
        jobs_at_limit: Callable[[Priority], int] = lambda _: 0,
    ) -> None:
        """`max_jobs` limits the messages held at once. `devices` returns the number of working devices, `jobs_waiting` the
        number of jobs of a queue's priority that wait for runner memory, and `jobs_at_limit` the number of its messages of
        tenants at their limit, which leave the minimum of each device to the other tenants."""
        self._max_jobs = max_jobs
        self._devices = devices
        self._batch_size = batch_size
        self._useful = BATCHES_PER_DEVICE * batch_size  # chunks of one job: it is on one device
        self._jobs_waiting = jobs_waiting
        self._jobs_at_limit = jobs_at_limit
        self._held: list[WorkEstimate] = []
        # Chunks of jobs that ended, by the rank of their queue: queues differ in the length of their recordings.
        self._recent: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=MAX_RECENT))

    def add(self, on_change: Callable[[], None] = lambda: None, priority: Priority = ONLY) -> WorkEstimate:
        """Add a received message. `on_change` is called when its estimate changes."""
        estimate = WorkEstimate(on_change, priority)
        self._held.append(estimate)
        return estimate

    def remove(self, estimate: WorkEstimate) -> None:
        self._held.remove(estimate)
        if estimate.audio_seconds is not None:
            self._recent[estimate.priority.rank].append(self._chunks(estimate.audio_seconds))

    @property
    def free(self) -> int:
        """Number of further messages that may be held."""
        return self._max_jobs - len(self._held)

    def held(self, priority: Priority) -> int:
        """Number of messages of a queue that are held."""
        return sum(estimate.priority == priority for estimate in self._held)

    def capacity(self, priority: Priority = ONLY) -> int:
        """Number of messages to receive now from the queue of this priority, as far as its work is concerned."""
        ahead = [estimate for estimate in self._held if _goes_before(estimate.priority, priority)]
        if any(self._jobs_waiting(each) for each in {priority, *(estimate.priority for estimate in ahead)}):
            return 0
        usual, devices = self._typical_chunks(priority), self._devices()
        missing = self._useful * devices - sum(self._chunks_left(estimate) for estimate in ahead)
        others = len(ahead) - sum(map(self._jobs_at_limit, {estimate.priority for estimate in ahead}))
        wanted = max(math.ceil(missing / usual), JOBS_PER_DEVICE * devices - others)
        return max(0, min(wanted, self.free))

    def _typical_chunks(self, priority: Priority) -> int:
        """Chunks assumed for a job of unknown length: the mean of known jobs of its queue, or one batch."""
        alike = [it for it in self._held if it.priority == priority]
        current = (self._chunks(it.audio_seconds) for it in alike if it.audio_seconds is not None)
        known = [*self._recent[priority.rank], *current]
        return max(1, math.ceil(sum(known) / len(known))) if known else self._batch_size

    def _chunks_left(self, estimate: WorkEstimate) -> int:
        if estimate.audio_seconds is None:
            return self._typical_chunks(estimate.priority)
        return self._chunks(estimate.audio_seconds, estimate.remaining_fraction)

    def _chunks(self, audio_seconds: float, share: float = 1.0) -> int:
        """Return the number of chunks of this audio, at most what one device can use at a time."""
        return min(math.ceil(audio_seconds * share / CHUNK_SECONDS), self._useful)


def _goes_before(other: Priority, priority: Priority) -> bool:
    """Return whether work of the other priority takes the place of work of this one."""
    return other.rank <= priority.rank if priority.weight is None else other == priority
