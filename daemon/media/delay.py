"""Part of the decoder process: find out whether one of two channels repeats the other one later.

The mix of a sound with itself, delayed, lacks a comb of frequencies, or is an echo. That happens where a microphone is
recorded twice, the second time through a network or a mixer. Different microphones in a room never agree as much.

Runs without NumPy, which the sandbox would have to load, so it compares a few snippets at a low rate.
"""

import cmath
from array import array
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TypeAlias

import av

from daemon.media.samples import some_samples

Samples: TypeAlias = "array[float]"  # not subscriptable at run time before Python 3.12

MIN_RATE = 4000  # Hz; the strongest part of speech is below half of it
READ_RATE = 16_000  # Hz, at least; of the samples whose sums make the low rate
SNIPPET_SECONDS = 4.0
SPACING_SECONDS = 8.0  # from the start of a snippet to that of the next one, at first
MAX_SNIPPETS = 8  # if there are more, every other one is dropped and the spacing doubles
MIN_SNIPPET_SECONDS = 0.5
COMPARED_SNIPPETS = 3  # those with the most sound; the first must show the delay
AGREEING = 0.6  # share of them

MIN_DELAY_SECONDS = 0.001  # sound travels 34 cm; the microphones of a recorder are closer
MAX_DELAY_SECONDS = 1.0
MIN_LIKENESS = 0.85  # correlation coefficient; half a sample between the channels, at the low rate, costs 0.1
MIN_SHARE = 0.2  # of a snippet's energy must lie where the channels overlap once the delay is undone
MAX_POWER_RATIO = 4.0  # beyond 6 dB, the quieter channel hardly changes the mix


@dataclass(frozen=True, slots=True)
class Delay:
    """How much later one channel is than the other. `earlier` is the other one: 0 or 1."""

    seconds: float
    earlier: int


@dataclass(slots=True)
class _Snippet:
    source_rate: int
    channels: tuple[Samples, Samples] = field(default_factory=lambda: (array("f"), array("f")))
    rests: list[list[float]] = field(default_factory=lambda: [[], []])  # samples too few for one at the low rate
    skip: int = 0  # samples of the next frame, so that the distance from one to the next stays equal

    @property
    def stride(self) -> int:
        return max(1, self.source_rate // READ_RATE)

    @property
    def step(self) -> int:
        return max(1, self.source_rate // self.stride // MIN_RATE)

    @property
    def rate(self) -> float:
        return self.source_rate / self.stride / self.step

    def add(self, frame: av.AudioFrame) -> None:
        """Add the samples of both channels, at a lower rate."""
        samples = some_samples(frame, self.stride, self.skip) or [[], []]
        self.skip = (self.skip - frame.samples) % self.stride
        for index, (channel, values) in enumerate(zip(self.channels, samples, strict=True)):
            values = self.rests[index] + values
            channel.extend(map(sum, zip(*[iter(values)] * self.step, strict=False)))
            self.rests[index] = values[len(values) // self.step * self.step :]

    @property
    def seconds(self) -> float:
        return len(self.channels[0]) / self.rate

    @property
    def energy(self) -> float:
        return max(sum([value * value for value in channel]) for channel in self.channels)


class Snippets:
    """Collects snippets of a stereo recording, spread over its whole length."""

    def __init__(self) -> None:
        self._found: list[_Snippet] = []
        self._spacing_seconds = SPACING_SECONDS
        self._elapsed_seconds = 0.0  # since the start of the last snippet

    def add(self, frame: av.AudioFrame) -> None:
        """Add a decoded frame, or pass over it."""
        if not self._found or self._elapsed_seconds >= self._spacing_seconds:
            self._begin(frame.sample_rate)
        if self._elapsed_seconds < SNIPPET_SECONDS and self._found[-1].source_rate == frame.sample_rate:
            self._found[-1].add(frame)
        self._elapsed_seconds += frame.samples / frame.sample_rate

    def _begin(self, rate: int) -> None:
        if len(self._found) == MAX_SNIPPETS:
            del self._found[1::2]
            self._spacing_seconds *= 2
        self._found.append(_Snippet(rate))
        self._elapsed_seconds = 0.0

    def delay(self) -> Delay | None:
        """Return the delay that the loudest snippets agree on; None if the channels differ, or are equal."""
        usable = [snippet for snippet in self._found if snippet.seconds >= MIN_SNIPPET_SECONDS]
        loudest = sorted(usable, key=lambda snippet: snippet.energy, reverse=True)[:COMPARED_SNIPPETS]
        delays: list[float] = []
        for tried, snippet in enumerate(loudest, 1):
            found = _delay(snippet)
            if found is not None and all(abs(found - other) <= 2 / MIN_RATE for other in delays):
                delays.append(found)
            if len(delays) < AGREEING * tried:
                return None
        seconds = sum(delays) / max(1, len(delays))
        return Delay(abs(seconds), int(seconds > 0)) if delays else None


def _delay(snippet: _Snippet) -> float | None:
    """Return by how many seconds the left channel is later than the right one, or earlier if negative."""
    left, right = snippet.channels
    count, most = len(left), min(int(MAX_DELAY_SECONDS * snippet.rate), len(left) // 2)
    products = _cross_correlation(left, right)
    until_left, until_right = (list(accumulate((value * value for value in it), initial=0.0)) for it in (left, right))
    best, likeness = 0, 0.0
    for lag in range(-most, most + 1):
        # Where the channels overlap once the later one is moved back.
        start, end = max(lag, 0), count + min(lag, 0)
        one = until_left[end] - until_left[start]
        other = until_right[end - lag] - until_right[start - lag]
        enough = one > MIN_SHARE * until_left[-1] and other > MIN_SHARE * until_right[-1]
        if enough and max(one, other) <= MAX_POWER_RATIO * min(one, other):
            found = abs(products[lag]) / (one * other) ** 0.5
            if found > likeness:
                best, likeness = lag, found
    seconds = best / snippet.rate
    return seconds if likeness >= MIN_LIKENESS and abs(seconds) >= MIN_DELAY_SECONDS else None


def _cross_correlation(left: Samples, right: Samples) -> list[float]:
    """Return the sum of left[t + lag] × right[t] for each lag; negative lags count from the end."""
    size = 1 << (2 * len(left) - 1).bit_length()
    # The transform of two real signals at once, as real and imaginary part.
    both = _transform([complex(*pair) for pair in zip(left, right, strict=True)] + [0j] * (size - len(left)))
    spectrum = []
    for index, value in enumerate(both):
        mirrored = both[-index].conjugate()
        one, other = (value + mirrored) / 2, (value - mirrored) / 2j
        spectrum.append((one * other.conjugate()).conjugate())
    return [value.real / size for value in _transform(spectrum)]


@cache
def _turns(count: int) -> list[complex]:
    return [cmath.exp(-2j * cmath.pi * index / count) for index in range(count // 2)]


def _transform(values: list[complex]) -> list[complex]:
    """Return the discrete Fourier transform. The number of values must be a power of 2."""
    count = len(values)
    if count == 1:
        return values
    even, odd = _transform(values[::2]), _transform(values[1::2])
    turned = [value * turn for value, turn in zip(odd, _turns(count), strict=True)]
    return [one + other for one, other in zip(even, turned, strict=True)] + [
        one - other for one, other in zip(even, turned, strict=True)
    ]
