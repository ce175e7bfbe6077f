"""Shorten the long pauses of a chunk, and map times between the recording and the shortened sound. Runs no model.

Whisper recognizes a sentence better next to others than alone (docs/accuracy.md), but a pause of seconds can make it end
its text early. So a chunk may hold several sentences with long pauses between them, and Whisper hears only the sound next
to the speech.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import floor

import numpy as np

from daemon.pipeline.types import SAMPLE_RATE, Chunk, TimedWord

LONG_PAUSE_SECONDS = 2.0  # shorter pauses do no harm, and are left as they are
SHORTENED_SECONDS = 0.8  # half of it after the speech, half before the next one
# Sound is cut out in steps that are whole samples and exact in binary: a time that is mapped and back is the same.
STEPS_PER_SECOND = 64


@dataclass(frozen=True, slots=True)
class Cut:
    """A stretch of a pause that is left out: `seconds` of the recording from `start`."""

    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Shortened:
    """A chunk with shortened pauses. `chunk` has the times of the shortened sound, which begins when the chunk does.

    Times up to the first cut are those of the recording, so nothing changes in a chunk without long pauses.
    """

    chunk: Chunk
    whole: Chunk
    cuts: tuple[Cut, ...]

    @property
    def seconds(self) -> float:
        """Duration of the shortened sound."""
        return self.chunk.end - self.chunk.start

    def audio(self, recording: np.ndarray) -> np.ndarray:
        """Copy the shortened sound out of the recording (16 kHz)."""
        now = int(self.whole.start * SAMPLE_RATE)
        kept = []
        for cut in self.cuts:
            at = int(cut.start * SAMPLE_RATE)
            kept.append(recording[now:at])
            now = at + int(cut.seconds * SAMPLE_RATE)
        return np.concatenate([*kept, recording[now : int(self.whole.end * SAMPLE_RATE)]])

    def shorten(self, chunk: Chunk) -> Chunk:
        """Map the chunk's times, none of which may lie in a cut, from the recording to the shortened sound."""
        return _moved(chunk, self.cuts)

    def restore(self, words: Iterable[TimedWord]) -> list[TimedWord]:
        """Map the times of words, each in one region of speech, from the shortened sound to the recording."""
        starts = []  # of the cuts, in the shortened sound
        removed = [0.0]
        for cut in self.cuts:
            starts.append(cut.start - removed[-1])
            removed.append(removed[-1] + cut.seconds)
        restored = []
        for word in words:
            by = removed[bisect_left(starts, word.end)]
            restored.append(replace(word, start=word.start + by, end=word.end + by) if by else word)
        return restored


def shorten(chunk: Chunk) -> Shortened:
    """Shorten the long pauses between the regions of the chunk."""
    cuts = tuple(
        Cut(
            before[1] + SHORTENED_SECONDS / 2,
            floor((after[0] - before[1] - SHORTENED_SECONDS) * STEPS_PER_SECOND) / STEPS_PER_SECOND,
        )
        for before, after in pairwise(chunk.part(chunk.start, chunk.end).regions)
        if is_long(before, after)
    )
    return Shortened(_moved(chunk, cuts), chunk, cuts)


def is_long(before: tuple[float, float], after: tuple[float, float]) -> bool:
    """Whether the pause between two regions is shortened."""
    return after[0] - before[1] >= LONG_PAUSE_SECONDS


def utterances(regions: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Split regions at long pauses."""
    found: list[list[tuple[float, float]]] = []
    for region in regions:
        if found and not is_long(found[-1][-1], region):
            found[-1].append(region)
        else:
            found.append([region])
    return found


def cut_at_long_pauses(chunk: Chunk) -> list[Chunk]:
    """Split a chunk into parts without long pauses."""
    found = utterances(chunk.regions)
    if len(found) < 2:
        return [chunk]
    starts = [chunk.start, *(part[0][0] for part in found[1:])]
    ends = [*(part[-1][1] for part in found[:-1]), chunk.end]
    return [chunk.part(start, end) for start, end in zip(starts, ends, strict=True)]


def _moved(chunk: Chunk, cuts: Sequence[Cut]) -> Chunk:
    if not cuts:
        return chunk

    def moved(time: float) -> float:
        return time - sum(cut.seconds for cut in cuts if cut.start < time)

    regions = tuple((moved(start), moved(end)) for start, end in chunk.regions)
    return replace(chunk, start=moved(chunk.start), end=moved(chunk.end), regions=regions)
