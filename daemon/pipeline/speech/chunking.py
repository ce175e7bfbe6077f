"""Merge speech regions into chunks. Runs no model."""

from collections.abc import Iterator, Sequence

from daemon.pipeline.speech.shortened import shorten, utterances
from daemon.pipeline.types import Chunk

Region = tuple[float, float]

# Whisper recognizes sentences of a few seconds better next to each other, whatever the pause between them. More speech than
# this needs no neighbors further away: the more Whisper decodes at once, the more words it leaves out (docs/accuracy.md).
ENOUGH_SPEECH_SECONDS = 5.0
NEAR_SECONDS = 5.0  # a shorter pause is not worth another chunk, and so another run of the encoder


def merge_regions(regions: Sequence[Region], seconds: float) -> list[Chunk]:
    """Merge the regions into chunks of at most `seconds`, in which long pauses count as shortened.

    An utterance, the speech between two long pauses, stays whole if it fits into a chunk. One that does not is cut at its
    pauses as whisperx does: each chunk takes as many regions as fit.
    """
    chunks: list[Chunk] = []
    for utterance in map(_chunk, utterances(regions)):
        joined = _chunk([*chunks[-1].regions, *utterance.regions]) if chunks else None
        if joined and _belong_together(chunks[-1], utterance) and shorten(joined).seconds <= seconds:
            chunks[-1] = joined
        else:
            chunks += _filled(utterance.regions, seconds)
    return chunks


def _belong_together(chunk: Chunk, utterance: Chunk) -> bool:
    last = _chunk(utterances(chunk.regions)[-1])
    is_near = utterance.start - last.end < NEAR_SECONDS
    return is_near or max(last.speech_seconds, utterance.speech_seconds) < ENOUGH_SPEECH_SECONDS


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
