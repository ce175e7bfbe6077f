"""Part of the decoder process: compare the mix of the channels with the channels, before it is trusted.

A mix loses what the channels carry if they are in opposite phase, if one repeats the other later, or if the sound is in a
channel that mixes leave out, such as the subwoofer's. Levels far beyond full scale would be clipped into noise. A recording
is decoded again where a better mix exists.

The meter looks at a few samples of some frames: enough for the power of a second of sound.
"""

import math
from dataclasses import dataclass

import av

from daemon.media.delay import Snippets
from daemon.media.samples import SAMPLES_PER_FRAME, energy, some_samples

BLOCK_SECONDS = 1.0
MAX_CHANNELS = 8
EVERY = 3  # frames: the others are not measured
LOUD = 1e-3  # a block counts if its power is at least this share of the loudest block's
SILENT = 1e-8  # power of full scale × 10⁻⁸, −80 dB
ABSURD = 4.0  # mean square; full scale is 1
FEW_BLOCKS = 0.05  # a share of lost blocks that is not worth another mix
DIFFERENT = 1e-2  # channels are not equal if half their difference has this share of the louder one's power
BALANCED = 8.0  # highest ratio of the powers of two channels that may carry the same sound


@dataclass(frozen=True, slots=True)
class Mix:
    """How to mix, where FFmpeg's usual way loses the sound."""

    channels: int = 0  # of the frames that `pan` applies to
    pan: str = ""  # the argument of FFmpeg's filter
    scale: float = 1.0
    reason: str = ""


USUAL = Mix()


class Meter:
    """Measures the channels and their mix, block by block."""

    def __init__(self, *, split: bool) -> None:
        """Channels that stay apart are measured for their level only."""
        self._split = split
        self._turn = -1
        self._channels = 0  # of the first frame
        self._sums: list[float] = []  # of each channel, and of half the difference of the first two
        self._count = self._mix_count = 0
        self._mix_sum = self._seconds = 0.0
        self._blocks: list[tuple[float, ...]] = []  # powers, as in _sums, then that of the mix
        self._snippets = Snippets()

    def measure_frame(self, frame: av.AudioFrame) -> None:
        """Measure a decoded frame."""
        self._seconds += frame.samples / frame.sample_rate
        if frame.layout.nb_channels == 2 and not self._split:
            self._snippets.add(frame)
        self._turn = (self._turn + 1) % EVERY
        if self._turn:
            return
        channels = frame.layout.nb_channels
        self._channels = self._channels or channels
        samples = some_samples(frame) if channels == self._channels <= MAX_CHANNELS else None
        if samples is None:
            return
        if len(samples) > 1:
            samples.append([(one - other) / 2 for one, other in zip(samples[0], samples[1], strict=False)])
        self._sums = self._sums or [0.0] * len(samples)
        for index, values in enumerate(samples):
            self._sums[index] += energy(values)
        self._count += len(samples[0])

    def measure_mix(self, sound: "memoryview[float]") -> None:
        """Measure a part of the mix, and end a block that is long enough."""
        if self._seconds >= BLOCK_SECONDS:
            self.end_block()
        if self._turn:
            return
        few = sound[:: max(1, len(sound) // SAMPLES_PER_FRAME)].tolist()
        self._mix_sum += energy(few)
        self._mix_count += len(few)

    def end_block(self) -> None:
        if self._count and self._mix_count:
            powers = [value / self._count for value in self._sums]
            self._blocks.append((*powers, self._mix_sum / self._mix_count))
        self._sums, self._count, self._mix_count, self._mix_sum, self._seconds = [], 0, 0, 0.0, 0.0

    def better_mix(self) -> Mix:
        """Return the mix that carries the sound; USUAL if the usual one does."""
        channels = self._channels
        peaks = [max(block[:channels]) for block in self._blocks]
        loudest = sorted(peaks)[int(0.98 * (len(peaks) - 1))] if peaks else 0.0  # a click must not hide the rest
        loud = [pair for pair in zip(self._blocks, peaks, strict=True) if pair[1] > max(SILENT, LOUD * loudest)]
        if not loud:
            return USUAL
        typical = sorted(peak for _, peak in loud)[len(loud) // 2]
        scale = 0.1 / math.sqrt(typical) if typical > ABSURD else 1.0
        pan, what = self._better_pan(loud) if channels > 1 and scale == 1.0 and not self._split else ("", "")
        reason = (
            f"the level is {10 * math.log10(typical):.0f} dB above full scale: it was lowered" if scale < 1 else what
        )
        return Mix(channels, pan, scale, reason) if reason else USUAL

    def _better_pan(self, loud: list[tuple[tuple[float, ...], float]]) -> tuple[str, str]:
        """Return a filter for the channel, or the difference of two, that carries the sound of the most blocks."""
        channels = self._channels
        if channels == 2 and (found := self._earlier_channel(loud)):
            return found
        least = 1 / (4 * channels**2)  # a mix of n channels in which one speaks has 1/n² of its power

        def lost(index: int) -> int:
            return sum(block[index] < peak * least for block, peak in loud)

        by_mix = lost(-1)
        candidates = [*([channels] if channels == 2 else []), *range(channels)]
        best = min(
            candidates, key=lambda index: (lost(index), index < channels, -sum(block[index] for block, _ in loud))
        )
        if by_mix <= FEW_BLOCKS * len(loud) or lost(best) > by_mix / 2:
            return "", ""
        problem = f"the channels cancel each other when mixed in {by_mix} of {len(loud)} s of sound"
        if best == channels:
            return "mono|c0=0.5*c0-0.5*c1", f"{problem}: one of the two was inverted"
        return f"mono|c0=c{best}", f"{problem}: channel {best + 1} of {channels} was used alone"

    def _earlier_channel(self, loud: list[tuple[tuple[float, ...], float]]) -> tuple[str, str] | None:
        """Return a filter for the channel that the other one repeats later. Most recordings need no look at snippets."""
        left, right, difference = (sum(block[index] for block, _ in loud) for index in range(3))
        if max(left, right) > BALANCED * min(left, right) or difference < DIFFERENT * max(left, right):
            return None
        if (delay := self._snippets.delay()) is None:
            return None
        problem = f"one channel repeats the other {1000 * delay.seconds:.0f} ms later"
        return f"mono|c0=c{delay.earlier}", f"{problem}: channel {delay.earlier + 1} of 2 was used alone"
