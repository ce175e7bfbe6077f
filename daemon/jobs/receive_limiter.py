"""Limits how many messages to receive: as many as the runners can use. No clock, no queue, no metrics.

Whisper decodes 30 s chunks of all current jobs in batches. Many short recordings fill a batch, or one long recording.
Messages beyond that would only wait here and be unavailable to other daemons. So the daemon receives messages until
their chunks fill two batches for each device: one that is being computed and one that waits. Staging the next recordings
takes less time than computing a batch, so a third batch would only wait longer.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CHUNK_SECONDS = 30.0  # Whisper's window
BATCHES_PER_DEVICE = 2  # one computing, one waiting
JOBS_PER_DEVICE = 2  # minimum: one computing, one being staged
MAX_RECENT = 10


@dataclass(eq=False, slots=True)
class WorkEstimate:
    """The runner's work for one message. Its delivery updates the amount."""

    on_change: Callable[[], None] = lambda: None
    audio_seconds: float | None = None  # all channels together; None until decoded
    remaining_fraction: float = 1.0  # of the work

    def staged(self, audio_seconds: float) -> None:
        self.audio_seconds = audio_seconds
        self.on_change()

    def update(self, remaining_fraction: float) -> None:
        self.remaining_fraction = remaining_fraction
        self.on_change()


class ReceiveLimiter:
    """Call `add()` for each message and `remove(estimate)` after its outcome; `capacity` is the number to receive."""

    def __init__(
        self,
        max_jobs: int,
        *,
        batch_size: int,
        devices: Callable[[], int] = lambda: 1,
        jobs_waiting: Callable[[], int] = lambda: 0,
        jobs_at_limit: Callable[[], int] = lambda: 0,
    ) -> None:
        """`max_jobs` limits the messages held at once. `devices` returns the number of working devices, `jobs_waiting` the
        number of jobs waiting for runner memory, and `jobs_at_limit` the number of messages of tenants at their limit, which
        leave the minimum of each device to the other tenants."""
        self._max_jobs = max_jobs
        self._devices = devices
        self._batch_size = batch_size
        self._useful = BATCHES_PER_DEVICE * batch_size  # chunks of one job: it is on one device
        self._jobs_waiting = jobs_waiting
        self._jobs_at_limit = jobs_at_limit
        self._held: list[WorkEstimate] = []
        self._recent: deque[int] = deque(maxlen=MAX_RECENT)  # chunks of jobs that ended

    def add(self, on_change: Callable[[], None] = lambda: None) -> WorkEstimate:
        """Add a received message. `on_change` is called when its estimate changes."""
        estimate = WorkEstimate(on_change)
        self._held.append(estimate)
        return estimate

    def remove(self, estimate: WorkEstimate) -> None:
        self._held.remove(estimate)
        if estimate.audio_seconds is not None:
            self._recent.append(self._chunks(estimate.audio_seconds))

    @property
    def capacity(self) -> int:
        """Number of messages to receive now."""
        if self._jobs_waiting():
            return 0
        usual, devices = self._typical_chunks, self._devices()
        missing = self._useful * devices - sum(self._chunks_left(usual))
        others = len(self._held) - self._jobs_at_limit()
        wanted = max(math.ceil(missing / usual), JOBS_PER_DEVICE * devices - others)
        return max(0, min(wanted, self._max_jobs - len(self._held)))

    @property
    def _typical_chunks(self) -> int:
        """Chunks assumed for a job of unknown length: the mean of known jobs, or one batch."""
        known = [*self._recent, *(self._chunks(it.audio_seconds) for it in self._held if it.audio_seconds is not None)]
        return max(1, math.ceil(sum(known) / len(known))) if known else self._batch_size

    def _chunks_left(self, usual: int) -> Iterator[int]:
        for estimate in self._held:
            yield (
                usual
                if estimate.audio_seconds is None
                else self._chunks(estimate.audio_seconds, estimate.remaining_fraction)
            )

    def _chunks(self, audio_seconds: float, share: float = 1.0) -> int:
        """Return the number of chunks of this audio, at most what one device can use at a time."""
        return min(math.ceil(audio_seconds * share / CHUNK_SECONDS), self._useful)
