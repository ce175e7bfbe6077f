"""Group timed words into units that one speaker says, in languages with and without spaces. Runs no model.

Without spaces, a timed word may be a single character, and nothing in the text marks where a word ends. A unit is then what
surely holds whole words: a clause, or a part of one that begins where the script shows a new word.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

from daemon.pipeline.types import TimedWord

MAX_PAUSE_SECONDS = 1.0  # silence this long ends a sentence that Whisper did not punctuate

# Text without any marks may hold several speakers' turns. The longest pause of so long a unit is hardly inside a word.
MAX_UNIT_SECONDS = 6.0
MIN_PAUSE_SECONDS = 0.2

# Particles, and endings of verbs. Other hiragana may be inside a word, as in 買い物, 取り扱い and お母さん.
JAPANESE_ENDINGS = frozenset("はがをにへともでのやかよねてただなるすんくらうどば")


def units(words: Sequence[TimedWord], language: str) -> Iterator[list[TimedWord]]:
    """Split the words, keeping all of them. In languages with spaces, each word is a unit.

    `language` is the language that was spoken: a translation has spaces in any case.
    """
    unit = list(words[:1])
    for before, after in pairwise(words):
        if _is_border(before.text, after.text, language) or after.start - before.end > MAX_PAUSE_SECONDS:
            yield from _split_long(unit)
            unit = []
        unit.append(after)
    yield from _split_long(unit)


def _is_border(before: str, after: str, language: str) -> bool:
    """Whether a word ends between the texts of two timed words that follow each other."""
    last, first = before[-1:], after[:1]
    if last.isspace() or first.isspace() or _is_mark(last) or _is_mark(first):
        return True
    if language == "ja":  # a word begins with a Chinese character or in katakana, but may have one behind its hiragana
        return last in JAPANESE_ENDINGS and _script(first) in ("CJK", "KATAKANA")
    # Whisper's tokens of several Chinese characters are words; single characters may be parts of one.
    return _script(last) == _script(first) == "CJK" and len(before.strip()) > 1 and len(after.strip()) > 1


def _is_mark(char: str) -> bool:
    return bool(char) and unicodedata.category(char)[0] in "PS"


def _script(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0] if char else ""


def _split_long(unit: list[TimedWord]) -> Iterator[list[TimedWord]]:
    """Split a unit that is too long at its longest pauses."""
    if not unit:
        return
    pauses = [after.start - before.end for before, after in pairwise(unit)]
    longest = max(pauses, default=0.0)
    if unit[-1].end - unit[0].start <= MAX_UNIT_SECONDS or longest < MIN_PAUSE_SECONDS:
        yield unit
        return
    at = pauses.index(longest) + 1
    yield from _split_long(unit[:at])
    yield from _split_long(unit[at:])
