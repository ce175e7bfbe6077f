"""Part of the decoder process: place the decoded audio on the time axis of a player.

Position 0 is the earliest start of any stream. Audio that starts later, or resumes after a gap of more than
`MIN_GAP_SECONDS`, has silence before it. Audio is never cut: if its timestamps overlap audio already placed, it is
appended.

A long forward jump of the timestamps has two readings: a gap in the audio, or a clock that restarted, as where two
recordings of a transport stream meet. The packets of the other streams decide: through a gap they continue, at a restart
they jump, too. Without other streams the jump is a gap, as a player shows it, unless it is absurdly long.
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum
from itertools import pairwise

import av

MIN_GAP_SECONDS = 0.1  # shorter gaps are timestamp jitter; ffmpeg's aresample=async uses the same threshold
CLOCK_RESTART_SECONDS = 10.0  # a shorter jump is always a gap; as in ffmpeg
LONGEST_UNCONFIRMED_SECONDS = 2 * 3600.0  # a longer gap needs another stream that continues through it
NEAR_SECONDS = 10.0  # how far the streams of a file may be apart
EXCURSION_SECONDS = 5.0  # a clock that returns within this time never restarted
REMEMBERED_PACKETS = 200  # of the audio, about 4 s: by how much other streams may be ahead in the file


class Reading(Enum):
    GAP = "gap"
    RESTART = "restart"
    UNCONFIRMED_RESTART = "unconfirmed restart"
    UNKNOWN = "unknown"


class OtherStreams:
    """What the streams next to the audio say about a jump of its timestamps."""

    def __init__(self, spans: Iterable[tuple[float, float]] = ()) -> None:
        """`spans` are the starts and ends of streams whose packets are not read."""
        self._spans = list(spans)
        self._seconds: deque[set[int]] = deque([set()], maxlen=REMEMBERED_PACKETS)
        self._last: float | None = None

    def note_packet(self, time: float) -> None:
        """Note a packet of another stream."""
        self._seconds[-1].add(int(time))
        self._last = time

    def note_audio_packet(self) -> None:
        """Note a packet of the audio."""
        self._seconds.append(set())

    def read_jump(self, before: float, after: float) -> Reading:
        """Read a jump of the audio from the end of a frame to the start of the next, both as timestamps."""
        if any(start <= before + 1 and end >= after - 1 for start, end in self._spans):
            return Reading.GAP
        inside = {second for seconds in self._seconds for second in seconds if before < second < after}
        times = [before, *sorted(inside), after]
        longest_hole = max(later - earlier for earlier, later in pairwise(times))
        if longest_hole <= min((after - before) / 2, NEAR_SECONDS):
            return Reading.GAP
        if self.are_near(after):
            return Reading.RESTART
        return Reading.UNCONFIRMED_RESTART if self.are_near(before) else Reading.UNKNOWN

    def are_near(self, time: float) -> bool:
        return self._last is not None and abs(self._last - time) < NEAR_SECONDS


class Timeline:
    """Turns the timestamps of one container's audio into positions."""

    def __init__(self, start: float, position: float, others: OtherStreams, *, may_restart: bool) -> None:
        """The timestamp `start` belongs to `position`. The clock restarts only if the container allows that."""
        self._may_restart = may_restart
        self._others = others
        self._origin = self._former_origin = start - position  # the timestamp of position 0, now and before a jump
        self._restarted_at = position
        self._awaiting = False  # whether another stream may still confirm the last restart
        self._end = start  # timestamp at which the last frame ends
        self._begun = False
        self._skipped = False  # whether the last packet was passed over
        self.position = position  # seconds; of the next frame if there is no gap
        self.jumps: list[
            tuple[float, float]
        ] = []  # position and length of each forward jump that was closed without confirmation

    def skip(self, time: float, length: float, before: float) -> bool:
        """Pass over a packet that ends before this position, if its timestamp continues from the last one.

        Return False if the packet must be decoded. The next frame is placed exactly by its timestamp.
        """
        position = time - self._origin
        begins = not self._begun and position <= MIN_GAP_SECONDS
        if position + length >= before or not (begins or abs(position - self.position) <= MIN_GAP_SECONDS):
            return False
        self.position = max(self.position, position + length)
        self._end = time + length
        self._skipped = True
        return True

    def silence_before(self, frame: av.AudioFrame, room_seconds: float) -> float:
        """Return the length of the gap before the frame, in seconds, and advance to the end of the frame.

        A gap that nothing confirms takes at most half of the room that is left.
        """
        gap = 0.0 if frame.time is None else self._gap(frame.time, room_seconds / 2)
        length = frame.samples / frame.sample_rate
        self.position += gap + length
        self._end = (self._end + gap if frame.time is None else frame.time) + length
        self._begun, self._skipped = True, False
        return gap

    def _gap(self, time: float, room_seconds: float) -> float:
        if self._awaiting and self._others.are_near(time):
            self._awaiting = False
            self.jumps.pop()
        brief = self.position - self._restarted_at < EXCURSION_SECONDS
        if brief and abs(time - self._former_origin - self.position) < 1:  # damaged timestamps, and they return
            self._origin = self._former_origin
        gap = time - self._origin - self.position
        if gap <= (MIN_GAP_SECONDS if self._begun and not self._skipped else 0.0):
            if time - self._end < -CLOCK_RESTART_SECONDS:
                self._restart(time)
            return 0.0
        if gap <= CLOCK_RESTART_SECONDS:
            return gap
        reading = self._others.read_jump(self._end, time)
        restarts = self._may_restart and reading in (Reading.RESTART, Reading.UNCONFIRMED_RESTART)
        plausible = gap <= min(LONGEST_UNCONFIRMED_SECONDS, room_seconds) and not restarts
        if reading is Reading.GAP or plausible:
            return gap
        if not (restarts and reading is Reading.RESTART):
            self.jumps.append((self.position, gap))
            self._awaiting = restarts
        self._restart(time)
        return 0.0

    def _restart(self, time: float) -> None:
        self._former_origin, self._origin = self._origin, time - self.position
        self._restarted_at = self.position
