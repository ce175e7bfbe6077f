"""Word times from Whisper's cross-attention, put right where it is known to err. No model is involved."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, zip_longest

from daemon.catalog import UNSPACED_LANGUAGES
from daemon.pipeline.pieces import Chunk, TimedWord
from daemon.pipeline.words import (
    Piece,
    attach_marks,
    begin_with_regions,
    clip_to_regions,
    fill_times,
    is_mark,
    join_parts,
    settle,
)

# Half of the time that attention gives to a punctuation mark, but no more than this, belongs to the word before it. On
# the sample call of pyannote.audio that puts sentence ends within 0.1 s of the reference; without, they are 0.2 s early.
MAX_TAIL_SECONDS = 0.3


def attention_words(pieces: Sequence[Piece], chunk: Chunk, language: str) -> list[TimedWord]:
    """Words from what cross-attention says about words and marks, put right where it is known to err."""
    timed = fill_times(pieces, chunk)
    if language not in UNSPACED_LANGUAGES:
        timed = join_parts(timed)
    for index in range(len(timed) - 1):
        before, after = timed[index], timed[index + 1]
        if is_mark(before.text) and not is_mark(after.text) and after.end == after.start:
            # Attention lingered on the mark while the next word was already being said.
            timed[index] = replace(before, end=before.start)
            timed[index + 1] = replace(after, start=before.start)
    words = begin_with_regions(clip_to_regions(attach_marks(timed), chunk.regions), chunk.regions)
    return settle(_with_tails(words, timed, chunk.regions), chunk)


def _with_tails(
    words: Sequence[TimedWord], timed: Sequence[TimedWord], regions: Sequence[tuple[float, float]]
) -> list[TimedWord]:
    """Words with the end that attention cut off, when it moved on to the mark while the word was still sounding."""
    marks = [after for before, after in pairwise([*timed, None]) if before and not is_mark(before.text)]
    tailed = []
    for word, mark in zip_longest(words, marks):
        if mark and is_mark(mark.text):
            tail = min((mark.end - mark.start) / 2, MAX_TAIL_SECONDS)
            silence = next((end for start, end in regions if start <= word.end < end), word.end)
            word = replace(word, end=min(word.end + tail, silence))
        tailed.append(word)
    return tailed
