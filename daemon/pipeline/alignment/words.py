"""Timed words: split text, fill in missing times, attach punctuation. Runs no model.

No function drops a character: joining the words' texts restores the text. The result of `place` (placement.py)
satisfies every guarantee about times, whatever the aligner returned.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from daemon.pipeline.alignment.placement import place
from daemon.pipeline.types import Chunk, TimedWord
from daemon.schema.catalog import UNSPACED_LANGUAGES

# Marks that belong to the next word: an opening bracket or quote, Spanish ¿ ¡, or a neutral mark after a space.
OPENING = re.compile(r"\s*[“‘«„¿¡(\[{「『（《〈【]+|\s+[\"'-]+")

# Attention places the first word of an utterance too late; the speech detector finds the start more accurately.
MAX_LATE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class AlignedToken:
    """A word or punctuation mark from an aligner. Times are None where it found none."""

    text: str
    start: float | None
    end: float | None
    score: float | None = None

    @property
    def times(self) -> tuple[float, float] | None:
        """Start and end in seconds, if both are known and finite."""
        if self.start is None or self.end is None or not math.isfinite(self.start) or not math.isfinite(self.end):
            return None
        return self.start, self.end

    @property
    def confidence(self) -> float | None:
        """The score clamped to 0..1, if it is a finite number."""
        return min(max(self.score, 0.0), 1.0) if self.score is not None and math.isfinite(self.score) else None


def split_words(text: str, language: str | None) -> list[str]:
    """Split a text into words, each with its leading space; into characters in languages without spaces."""
    pattern = r"\s*\S" if language in UNSPACED_LANGUAGES else r"\s*\S+"
    words = re.findall(pattern, text)
    rest = text[len("".join(words)) :]
    return [*words[:-1], words[-1] + rest] if words else []


def spread(text: str, language: str | None, chunk: Chunk) -> list[TimedWord]:
    """Distribute a text's words over a chunk's speech in proportion to their length, as a last resort."""
    tokens = [AlignedToken(word, None, None) for word in split_words(text, language)]
    return place(attach_marks(fill_times(tokens, chunk)), chunk)


def fill_times(tokens: Sequence[AlignedToken], chunk: Chunk) -> list[TimedWord]:
    """Give every token a time inside the chunk, in order.

    Tokens without a time share the speech between their neighbors, in proportion to their length in characters.
    """
    words: list[TimedWord] = []
    now = chunk.start
    missing: list[AlignedToken] = []
    for token in tokens:
        if token.times is None:
            missing.append(token)
            continue
        start = min(max(token.times[0], now), chunk.end)
        end = min(max(token.times[1], start), chunk.end)
        words += _share(missing, now, start, chunk.regions)
        words.append(TimedWord(token.text, start, end, token.confidence))
        now, missing = end, []
    return [*words, *_share(missing, now, chunk.end, chunk.regions)]


def _share(
    tokens: Sequence[AlignedToken], start: float, end: float, regions: Sequence[tuple[float, float]]
) -> list[TimedWord]:
    """Distribute tokens over the speech between start and end, or over the whole interval if it contains no speech."""
    parts = [(max(begin, start), min(stop, end)) for begin, stop in regions]
    speech = [(begin, stop) for begin, stop in parts if begin < stop] or [(start, end)]
    lengths = [len(token.text.strip()) for token in tokens]
    per_character = sum(stop - begin for begin, stop in speech) / max(1, sum(lengths))
    words = []
    spoken = 0
    for token, length in zip(tokens, lengths, strict=True):
        begin = _moment(speech, spoken * per_character)
        spoken += length
        words.append(TimedWord(token.text, begin, _moment(speech, spoken * per_character), token.confidence))
    return words


def _moment(speech: Sequence[tuple[float, float]], seconds: float) -> float:
    """Return the time at which this many seconds of speech have passed."""
    for begin, stop in speech:
        if seconds <= stop - begin:
            return begin + seconds
        seconds -= stop - begin
    return speech[-1][1]


def join_parts(words: Sequence[TimedWord]) -> list[TimedWord]:
    """Rejoin words that the tokenizer split at a mark, such as `3`+`.5` or `e`+`-mail`. For languages with spaces."""
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
    """Join each punctuation mark to the word before it, or to the word after it if it is an opening mark.

    Words keep their times. Text without any word is returned as a single "word".
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
    """Whether a text has no letter, no digit and no symbol that is spoken."""
    return not any(char.isalnum() or char in "%$€£&+@#°" for char in text)


def begin_with_regions(words: Sequence[TimedWord], regions: Sequence[tuple[float, float]]) -> list[TimedWord]:
    """Move the first word of each speech region to the region's start, unless it is more than MAX_LATE_SECONDS late."""
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
