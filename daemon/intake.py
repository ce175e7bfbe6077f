"""How many more messages may be received: as many as the runner can use. No clock, no queue, no metrics.

Whisper decodes batches of chunks of 30 s, of all jobs in hand. Many short recordings fill a batch, or one long one; a
lease beyond that helps nobody here and keeps a message from other daemons. So messages are taken until the chunks in hand
fill two batches of each device: one that is computed and one that waits for it. Staging the next recordings takes less
time than computing a batch, so a third would only wait longer.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CHUNK_SECONDS = 30.0  # what Whisper hears at once
BATCHES_PER_DEVICE = 2  # one is computed, one waits
JOBS_PER_DEVICE = 2  # at least: one is computed, one is staged
MAX_RECENT = 10


@dataclass(eq=False, slots=True)
class Load:
    """A message in hand, as work for the runner. Its delivery tells how much that is."""

    on_change: Callable[[], None] = lambda: None
    audio_seconds: float | None = None  # all channels together; None until the recording was decoded
    left_share: float = 1.0  # of the work

    def staged(self, audio_seconds: float) -> None:
        self.audio_seconds = audio_seconds
        self.on_change()

    def progress(self, left_share: float) -> None:
        self.left_share = left_share
        self.on_change()


class Intake:
    """`take()` with each message, `end(load)` when it has its outcome; between them `room` for more."""

    def __init__(
        self,
        most: int,
        *,
        batch_size: int,
        devices: Callable[[], int] = lambda: 1,
        jobs_waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        """`most` bounds the messages in hand. `devices` says how many work now, `jobs_waiting` for how many jobs the runners
        have no memory now."""
        self._most = most
        self._devices = devices
        self._batch_size = batch_size
        self._useful = BATCHES_PER_DEVICE * batch_size  # chunks of one job: it is on one device
        self._jobs_waiting = jobs_waiting
        self._held: list[Load] = []
        self._recent: deque[int] = deque(maxlen=MAX_RECENT)  # chunks of jobs that ended

    def take(self, on_change: Callable[[], None] = lambda: None) -> Load:
        """A message is in hand from now on. `on_change` is called when more becomes known of its work."""
        load = Load(on_change)
        self._held.append(load)
        return load

    def end(self, load: Load) -> None:
        self._held.remove(load)
        if load.audio_seconds is not None:
            self._recent.append(self._chunks(load.audio_seconds))

    @property
    def room(self) -> int:
        """How many messages may be received now."""
        if self._jobs_waiting():
            return 0
        usual, devices = self._usual_chunks, self._devices()
        missing = self._useful * devices - sum(self._chunks_left(usual))
        wanted = max(math.ceil(missing / usual), JOBS_PER_DEVICE * devices - len(self._held))
        return max(0, min(wanted, self._most - len(self._held)))

    @property
    def _usual_chunks(self) -> int:
        """What a job of unknown length counts as: the mean of those that are known, or a batch."""
        known = [*self._recent, *(self._chunks(it.audio_seconds) for it in self._held if it.audio_seconds is not None)]
        return max(1, math.ceil(sum(known) / len(known))) if known else self._batch_size

    def _chunks_left(self, usual: int) -> Iterator[int]:
        for load in self._held:
            yield usual if load.audio_seconds is None else self._chunks(load.audio_seconds, load.left_share)

    def _chunks(self, audio_seconds: float, share: float = 1.0) -> int:
        """What so much audio counts as: a device can use no more of one job at a time."""
        return min(math.ceil(audio_seconds * share / CHUNK_SECONDS), self._useful)
