"""Find speech that speech detection missed, mostly quiet speech next to loud speech.

The model normalizes the level of each 5 s window, so it misses a distant voice next to a near one. Speech detection is
therefore repeated on each gap that contains sound that could be speech.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from daemon.pipeline.speech.levels import FRAME_SECONDS, MAX_SPEECH_FLATNESS, flatness, levels
from daemon.pipeline.speech.shortened import cut_at_long_pauses
from daemon.pipeline.types import SAMPLE_RATE, Chunk

MIN_GAP_SECONDS = 1.0
EDGE_SECONDS = 10.0  # two windows of speech detection
MARGIN_SECONDS = 0.2  # excluded next to detected speech: its tail is not part of the gap
MIN_RISE_DB = 10.0  # above the noise
MIN_LOUD_SECONDS = 0.4
FLOOR_PERCENTILE = 10  # of the levels: the noise floor of a recording with pauses
MIN_FLOOR_DB = -75.0  # levels below this are digital silence or converter noise

Detect = Callable[[np.ndarray], list[Chunk]]


def add_missed_speech(chunks: Sequence[Chunk], audio: np.ndarray, detect: Detect) -> list[Chunk]:
    """Add a doubtful chunk wherever `detect` finds speech in a gap analyzed alone: between chunks, or in a long pause of one,
    which is then split there. Return all chunks, sorted.
    """
    if not chunks:
        return []
    missed: list[Chunk] = []
    floor = max(float(np.percentile(levels(audio), FLOOR_PERCENTILE)), MIN_FLOOR_DB)
    parts = [part for chunk in chunks for part in cut_at_long_pauses(chunk)]
    for start, end in gaps(parts, len(audio) / SAMPLE_RATE):
        gap = audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)]
        if could_be_speech(gap, floor):
            missed += [_moved(chunk, start) for chunk in detect(gap)]
    split = [part for chunk in chunks for part in _split(chunk, [it.start for it in missed])]
    return sorted([*split, *missed], key=lambda chunk: chunk.start)


def gaps(chunks: Sequence[Chunk], duration: float) -> list[tuple[float, float]]:
    """Return the gaps next to chunks that are long enough for speech.

    Audio further than EDGE_SECONDS from speech shared no window with it, so the normalization did not hide it.
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
    """Whether enough of the gap rises above the noise with a peaked spectrum. `floor` is the noise level in dB."""
    loud = levels(gap) >= floor + MIN_RISE_DB
    return loud.sum() * FRAME_SECONDS >= MIN_LOUD_SECONDS and flatness(gap, loud) <= MAX_SPEECH_FLATNESS


def _split(chunk: Chunk, times: Sequence[float]) -> list[Chunk]:
    """Split the chunk at those of the times that lie in it; all of them lie in pauses."""
    bounds = [chunk.start, *sorted(time for time in times if chunk.start < time < chunk.end), chunk.end]
    parts = [[region for region in chunk.regions if start <= region[0] < end] for start, end in pairwise(bounds)]
    return [replace(chunk, start=part[0][0], end=part[-1][1], regions=tuple(part)) for part in parts if part]


def _moved(chunk: Chunk, by: float) -> Chunk:
    regions = tuple((start + by, end + by) for start, end in chunk.regions)
    return replace(chunk, start=chunk.start + by, end=chunk.end + by, regions=regions, doubtful=True)
