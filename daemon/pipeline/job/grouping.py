"""Group chunks that are decoded together, and cut recordings without chunks. Runs no model."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from daemon.pipeline.speech.shortened import cut_at_long_pauses, shorten
from daemon.pipeline.types import Chunk

PLAIN_WINDOW_SECONDS = 600  # limits the memory of decoding without chunks


def in_groups(chunks: Sequence[Chunk], seconds: float) -> list[list[Chunk]]:
    """Split the chunks into runs that span at most `seconds`, with shortened pauses. A single longer chunk is a run too."""
    groups: list[list[Chunk]] = []
    cut_seconds = 0.0  # of the last group
    for chunk in chunks:
        cut = chunk.end - chunk.start - shorten(chunk).seconds
        if groups and chunk.end - groups[-1][0].start - cut_seconds - cut <= seconds:
            groups[-1].append(chunk)
            cut_seconds += cut
        else:
            groups.append([chunk])
            cut_seconds = cut
    return groups


def plain_windows(chunks: Sequence[Chunk], duration: float) -> list[Chunk]:
    """Windows of at most 10 min that end at a chunk's end or a long pause; without chunks, the whole recording cut every
    10 min."""
    if not chunks:
        return windows(duration, PLAIN_WINDOW_SECONDS)
    parts = [part for chunk in chunks for part in cut_at_long_pauses(chunk)]
    return [
        Chunk(group[0].start, group[-1].end, tuple(region for part in group for region in part.regions))
        for group in in_groups(parts, PLAIN_WINDOW_SECONDS)
    ]


def windows(duration: float, seconds: float) -> list[Chunk]:
    """Cut the whole recording into windows of `seconds`."""
    spans = pairwise([*np.arange(0, duration, seconds).tolist(), duration])
    return [Chunk(start, end, regions=((start, end),)) for start, end in spans]
