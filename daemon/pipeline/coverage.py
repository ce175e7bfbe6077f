"""Speech that speech detection passed over: quiet speech beside loud, for the most part.

Its model puts every window of 5 s to the same level, so that a voice far from the microphone goes under beside one that
is near. Hence each gap with sound in it that could be speech is heard again by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from daemon.pipeline.levels import FRAME_SECONDS, MAX_SPEECH_FLATNESS, flatness, levels
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk

MIN_GAP_SECONDS = 1.0
EDGE_SECONDS = 10.0  # two windows of speech detection
MARGIN_SECONDS = 0.2  # beside speech that was found: its last sound is not the gap's
MIN_RISE_DB = 10.0  # above the noise
MIN_LOUD_SECONDS = 0.4
FLOOR_PERCENTILE = 10  # of the levels of a recording with pauses: the noise
MIN_FLOOR_DB = -75.0  # noise below this is nobody's: digital silence, or that of the converter

Detect = Callable[[np.ndarray], list[Chunk]]


def with_missed(chunks: Sequence[Chunk], audio: np.ndarray, detect: Detect) -> list[Chunk]:
    """The chunks, and in their order doubtful ones where `detect` finds speech in a gap that it hears by itself."""
    if not chunks:
        return []
    found = list(chunks)
    floor = max(float(np.percentile(levels(audio), FLOOR_PERCENTILE)), MIN_FLOOR_DB)
    for start, end in gaps(chunks, len(audio) / SAMPLE_RATE):
        gap = audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
        if could_be_speech(gap, floor):
            found += [_moved(chunk, start) for chunk in detect(gap)]
    return sorted(found, key=lambda chunk: chunk.start)


def gaps(chunks: Sequence[Chunk], duration: float) -> list[tuple[float, float]]:
    """The stretches beside chunks, if they are long enough to say something in.

    What lies further from speech than EDGE_SECONDS has been heard by itself already.
    """
    found = []
    before = [0.0, *(chunk.end + MARGIN_SECONDS for chunk in chunks)]
    after = [*(chunk.start - MARGIN_SECONDS for chunk in chunks), duration]
    for index, (start, end) in enumerate(zip(before, after, strict=True)):
        edges = [(start, min(start + EDGE_SECONDS, end))] if index > 0 else []
        edges += [(max(start, end - EDGE_SECONDS), end)] if index < len(chunks) else []
        if len(edges) == 2 and edges[0][1] >= edges[1][0]:
            edges = [(start, end)]
        found += [edge for edge in edges if edge[1] - edge[0] >= MIN_GAP_SECONDS]
    return found


def could_be_speech(gap: np.ndarray, floor: float) -> bool:
    """Whether enough of it stands out from the noise and has a spectrum with peaks. `floor` is the noise's level, dB."""
    loud = levels(gap) >= floor + MIN_RISE_DB
    return loud.sum() * FRAME_SECONDS >= MIN_LOUD_SECONDS and flatness(gap, loud) <= MAX_SPEECH_FLATNESS


def _moved(chunk: Chunk, by: float) -> Chunk:
    regions = tuple((start + by, end + by) for start, end in chunk.regions)
    return replace(chunk, start=chunk.start + by, end=chunk.end + by, regions=regions, doubtful=True)
