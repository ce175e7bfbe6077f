"""Merge speech regions into chunks, cut at the longest pauses. Runs no model."""

from collections.abc import Sequence

from daemon.pipeline.types import Chunk

Region = tuple[float, float]

# A pause of seconds inside a chunk can make Whisper end its text early, or omit the first words after the pause. Avoiding
# a pause this long is worth another chunk, and so another run of the encoder; a shorter pause costs a share of it.
COSTLY_PAUSE_SECONDS = 5.0
FREE_PAUSE_SECONDS = 2.0  # shorter pauses do no harm


def merge_regions(regions: Sequence[Region], seconds: float) -> list[Chunk]:
    """Merge the regions into chunks of at most `seconds`, with as few chunks and as short pauses in them as possible.

    Without long pauses, the result is that of whisperx: each chunk takes as many regions as fit.
    """
    count = len(regions)
    costs = [0.0] * (count + 1)  # of chunking the regions from this one on, in chunks
    ends = [0] * count
    for first in range(count - 1, -1, -1):
        paused, best = 0.0, float("inf")
        for end in range(first + 1, count + 1):
            if end > first + 1:
                if regions[end - 1][1] - regions[first][0] > seconds:
                    break
                paused += _cost(regions[end - 1][0] - regions[end - 2][1])
            cost = 1.0 + paused + costs[end]
            if cost <= best:
                best, ends[first] = cost, end
        costs[first] = best
    chunks = []
    first = 0
    while first < count:
        part = tuple(regions[first : ends[first]])
        chunks.append(Chunk(part[0][0], part[-1][1], part))
        first = ends[first]
    return chunks


def _cost(pause: float) -> float:
    """Return the cost of a pause inside a chunk, in chunks."""
    return pause / COSTLY_PAUSE_SECONDS if pause >= FREE_PAUSE_SECONDS else 0.0
