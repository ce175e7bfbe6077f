"""Merge speech regions into chunks. Runs no model."""

from collections.abc import Iterator, Sequence

from daemon.pipeline.speech.shortened import shorten, utterances
from daemon.pipeline.types import Chunk

Region = tuple[float, float]


def merge_regions(regions: Sequence[Region], seconds: float) -> list[Chunk]:
    """Merge the regions into chunks of at most `seconds`, in which long pauses count as shortened.

    A chunk takes as many utterances, the speech between two long pauses, as fit. An utterance that is too long for one
    chunk is cut at its pauses as whisperx does: each chunk takes as many regions as fit.
    """
    chunks: list[Chunk] = []
    for utterance in utterances(regions):
        if chunks and _fits(joined := _chunk([*chunks[-1].regions, *utterance]), seconds):
            chunks[-1] = joined
        else:
            chunks += _filled(utterance, seconds)
    return chunks


def _filled(regions: Sequence[Region], seconds: float) -> Iterator[Chunk]:
    """Yield chunks of as many regions as fit, at least one."""
    part = [regions[0]]
    for region in regions[1:]:
        if region[1] - part[0][0] > seconds:
            yield _chunk(part)
            part = []
        part.append(region)
    yield _chunk(part)


def _chunk(regions: Sequence[Region]) -> Chunk:
    return Chunk(regions[0][0], regions[-1][1], tuple(regions))


def _fits(chunk: Chunk, seconds: float) -> bool:
    return shorten(chunk).seconds <= seconds
