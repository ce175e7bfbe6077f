"""Words on the time line: splitting text, filling in missing times, attaching punctuation. No model is involved.

Nothing here drops a character: joining the words' texts gives the text back. What `settle` returns keeps every promise
about times, whatever an aligner said.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from daemon.catalog import UNSPACED_LANGUAGES
from daemon.pipeline.pieces import Chunk, TimedWord

# A mark that belongs to the word after it: an opening bracket or quote, or Spanish ¿ ¡; a neutral one after a space.
OPENING = re.compile(r"\s*[“‘«„¿¡(\[{「『（《〈【]+|\s+[\"'-]+")

# Nobody holds a word this long; times beyond it cover a pause that the speech detector took for speech.
MAX_WORD_SECONDS = 2.0

# Attention finds the first word of an utterance late; the speech detector knows better where the utterance begins.
MAX_LATE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A word or a punctuation mark as an aligner found it; None where it found no time."""

    text: str
    start: float | None
    end: float | None
    score: float | None = None

    @property
    def times(self) -> tuple[float, float] | None:
        """Start and end, if both are known."""
        if self.start is None or self.end is None or not math.isfinite(self.start) or not math.isfinite(self.end):
            return None
        return self.start, self.end

    @property
    def confidence(self) -> float | None:
        """The score as a number from 0 to 1, if it is one."""
        return min(max(self.score, 0.0), 1.0) if self.score is not None and math.isfinite(self.score) else None


def split_words(text: str, language: str | None) -> list[str]:
    """The words of a text, each with the space before it; single characters where words are not spaced."""
    pattern = r"\s*\S" if language in UNSPACED_LANGUAGES else r"\s*\S+"
    words = re.findall(pattern, text)
    rest = text[len("".join(words)) :]
    return [*words[:-1], words[-1] + rest] if words else []


def spread(text: str, language: str | None, chunk: Chunk) -> list[TimedWord]:
    """The words of a text, evenly by their length over a chunk's speech: for want of anything better."""
    pieces = [Piece(word, None, None) for word in split_words(text, language)]
    return settle(attach_marks(fill_times(pieces, chunk)), chunk)


def fill_times(pieces: Sequence[Piece], chunk: Chunk) -> list[TimedWord]:
    """Pieces with every time known, inside the chunk and in order.

    Those without a time share the speech between their neighbours, by their length in characters.
    """
    words: list[TimedWord] = []
    now = chunk.start
    missing: list[Piece] = []
    for piece in pieces:
        if piece.times is None:
            missing.append(piece)
            continue
        start = min(max(piece.times[0], now), chunk.end)
        end = min(max(piece.times[1], start), chunk.end)
        words += _share(missing, now, start, chunk.regions)
        words.append(TimedWord(piece.text, start, end, piece.confidence))
        now, missing = end, []
    return [*words, *_share(missing, now, chunk.end, chunk.regions)]


def _share(
    pieces: Sequence[Piece], start: float, end: float, regions: Sequence[tuple[float, float]]
) -> list[TimedWord]:
    """Pieces one after the other over the speech between start and end; over all of it where there is no speech."""
    parts = [(max(begin, start), min(stop, end)) for begin, stop in regions]
    speech = [(begin, stop) for begin, stop in parts if begin < stop] or [(start, end)]
    lengths = [len(piece.text.strip()) for piece in pieces]
    per_character = sum(stop - begin for begin, stop in speech) / max(1, sum(lengths))
    words = []
    spoken = 0
    for piece, length in zip(pieces, lengths, strict=True):
        begin = _moment(speech, spoken * per_character)
        spoken += length
        words.append(TimedWord(piece.text, begin, _moment(speech, spoken * per_character), piece.confidence))
    return words


def _moment(speech: Sequence[tuple[float, float]], seconds: float) -> float:
    """When so many seconds of the speech are over."""
    for begin, stop in speech:
        if seconds <= stop - begin:
            return begin + seconds
        seconds -= stop - begin
    return speech[-1][1]


def join_parts(words: Sequence[TimedWord]) -> list[TimedWord]:
    """Whole words of a language that puts spaces between them, where the tokenizer cut at a mark: `3`+`.5`, `e`+`-mail`."""
    joined: list[TimedWord] = []
    for word in words:
        last = joined[-1] if joined else None
        if last and not word.text[:1].isspace() and not is_mark(word.text) and not is_mark(last.text):
            scores = [score for score in (last.score, word.score) if score is not None]
            joined[-1] = replace(last, text=last.text + word.text, end=word.end, score=min(scores, default=None))
        else:
            joined.append(word)
    return joined


def attach_marks(words: Sequence[TimedWord]) -> list[TimedWord]:
    """Punctuation joined to its word: to the one before it, or after it if it opens something.

    A word keeps its own times. Text that has no word at all comes back as one "word".
    """
    joined: list[TimedWord] = []
    opening = ""
    for word in words:
        if not is_mark(word.text):
            joined.append(replace(word, text=opening + word.text))
            opening = ""
        elif joined and not opening and not OPENING.fullmatch(word.text):
            joined[-1] = replace(joined[-1], text=joined[-1].text + word.text)
        else:
            opening += word.text
    if opening and joined:
        joined[-1] = replace(joined[-1], text=joined[-1].text + opening)
    elif opening:
        joined.append(replace(words[0], text=opening, end=words[-1].end))
    return joined


def is_mark(text: str) -> bool:
    """Whether a text has neither letter nor digit nor symbol that is spoken."""
    return not any(char.isalnum() or char in "%$€£&+@#°" for char in text)


def settle(words: Sequence[TimedWord], chunk: Chunk) -> list[TimedWord]:
    """The words with times that keep every promise, whatever timed them.

    Each lies inside the chunk, begins no earlier than the one before it ends, is no longer than MAX_WORD_SECONDS, and
    reaches into no pause that the speech detector found, unless the whole word lies in it.
    """
    return in_order(limit_length(clip_to_regions(words, chunk.regions)), chunk.start, chunk.end)


def clip_to_regions(words: Sequence[TimedWord], regions: Sequence[tuple[float, float]]) -> list[TimedWord]:
    """Words without what reaches beyond the region of speech that they overlap most.

    Aligners stretch the first and the last word of an utterance over the silence beside it.
    """
    clipped = []
    for word in words:
        parts = [(max(word.start, start), min(word.end, end)) for start, end in regions]
        start, end = max(parts, key=lambda part: part[1] - part[0], default=(word.start, word.end))
        clipped.append(replace(word, start=start, end=end) if start < end else word)
    return clipped


def begin_with_regions(words: Sequence[TimedWord], regions: Sequence[tuple[float, float]]) -> list[TimedWord]:
    """Words of which the first in each region of speech begins with it, unless that is far away."""
    starts = [start for start, _ in regions]
    begun = []
    occupied = -1
    for word in words:
        region = bisect_right(starts, word.start) - 1
        if region > occupied:
            occupied = region
            if word.start <= min(regions[region][1], starts[region] + MAX_LATE_SECONDS):
                word = replace(word, start=starts[region])
        begun.append(word)
    return begun


def limit_length(words: Sequence[TimedWord]) -> list[TimedWord]:
    """No word longer than MAX_WORD_SECONDS: the first one is cut at its start, any other at its end."""
    limited = []
    for index, word in enumerate(words):
        if word.end - word.start > MAX_WORD_SECONDS:
            word = (
                replace(word, start=word.end - MAX_WORD_SECONDS)
                if index == 0
                else replace(word, end=word.start + MAX_WORD_SECONDS)
            )
        limited.append(word)
    return limited


def in_order(words: Sequence[TimedWord], start: float, end: float) -> list[TimedWord]:
    """The words inside `start` to `end`, none beginning before the one before it ends."""
    ordered: list[TimedWord] = []
    now = start
    for word in words:
        begin = min(max(word.start, now), end)
        now = min(max(word.end, begin), end)
        ordered.append(replace(word, start=begin, end=now))
    return ordered
