"""Part of the decoder process: look at some samples of a decoded frame, without NumPy."""

from array import array
from collections.abc import Sequence
from typing import Any

import av

SAMPLES_PER_FRAME = 24  # enough for the power of a second of sound
NONSENSE = 1e10  # the square of a sample that no device records: it is left out

# FFmpeg's sample formats: the type of a sample, and full scale
FORMATS: dict[str, tuple[Any, float]] = {
    "s16": ("h", 2.0**15),
    "s32": ("i", 2.0**31),
    "flt": ("f", 1.0),
    "dbl": ("d", 1.0),
}


def some_samples(frame: av.AudioFrame, step: int | None = None, skip: int = 0) -> list[list[float]] | None:
    """Return some samples of each channel, at full scale 1; None if the format is unknown.

    That is every `step`-th, by default a few, without the first `skip` ones.
    """
    name = frame.format.name
    planar = name.endswith("p")
    if (found := FORMATS.get(name.removesuffix("p"))) is None:
        return None
    kind, full = found
    channels = frame.layout.nb_channels
    if planar and len(frame.planes) < channels:
        return None
    step = step or max(1, frame.samples // SAMPLES_PER_FRAME)
    width = array(kind).itemsize
    if planar:
        planes = [
            memoryview(plane)[: frame.samples * width].cast(kind)[skip::step] for plane in frame.planes[:channels]
        ]
    else:
        packed = memoryview(frame.planes[0])[: frame.samples * width * channels].cast(kind)
        planes = [packed[index + channels * skip :: channels * step] for index in range(channels)]
    return [[value / full for value in plane] for plane in planes]


def frame_power(frame: av.AudioFrame) -> float:
    """Return the power of the frame's loudest channel; full scale is 1."""
    return max((energy(values) / max(1, len(values)) for values in some_samples(frame) or ()), default=0.0)


def energy(values: Sequence[float]) -> float:
    """Return the sum of the squares, without those of damaged samples."""
    energy = sum([value * value for value in values])
    if energy < NONSENSE:  # false for NaN, too
        return energy
    return sum(value * value for value in values if value * value < NONSENSE)
