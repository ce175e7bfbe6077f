"""Text helpers shared by the formats: cleaning, column width, spacing, writing direction."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from daemon.schema.catalog import RIGHT_TO_LEFT_LANGUAGES, UNSPACED_LANGUAGES
from daemon.schema.transcript import Segment, Transcript

# Control characters, separators that some renderers treat as line breaks, and surrogates, which UTF-8 cannot encode.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Unicode's Bidi_Control characters: they can make a text read otherwise than it is. The formats add their own where needed.
_DIRECTION_CONTROL = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_QUOTES = "\"'“”‘’«»()[]"
_UNSPACED_BLOCKS = (("\u0e00", "\u0eff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"))  # Thai, Lao; Burmese; Khmer

RIGHT_TO_LEFT_MARK = "\u200f"


def clean(text: str) -> str:
    """Reduce the text to one line with single spaces; renderers would collapse runs of whitespace anyway."""
    return " ".join(_CONTROL.sub(" ", text).split())


def without_direction_controls(transcript: Transcript) -> Transcript:
    """Remove the characters that control the writing direction from all texts and labels."""
    found = transcript.model_dump_json()
    if not _DIRECTION_CONTROL.search(found):
        return transcript
    return Transcript.model_validate_json(_DIRECTION_CONTROL.sub("", found))


def columns(text: str) -> int:
    """Measure a text's width: full-width characters (Chinese, Japanese, Korean) count 2, combining marks 0, others 1.

    Source: Unicode Standard Annex 11, East Asian Width.
    """
    return len(text) if text.isascii() else sum(map(_character_columns, text))


def _character_columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def written_language(transcript: Transcript, segment: Segment) -> str:
    """Return the code of the language in which the segment is written. A translation is English."""
    return "en" if transcript.task == "translate" else segment.language


def is_spaced(language: str) -> bool:
    """Whether the language is written with spaces between words."""
    return language not in UNSPACED_LANGUAGES


def needs_space(before: str, after: str, language_before: str, language_after: str) -> bool:
    """Whether a space belongs between two adjacent texts: always, unless both are in languages without spaces.

    Such texts may also contain words of other scripts: two of them that meet need a space too.
    """
    if is_spaced(language_before) or is_spaced(language_after):
        return True
    last, first = (before.rstrip(_QUOTES) or before)[-1:], (after.lstrip(_QUOTES) or after)[:1]
    return _is_of_spaced_script(last) and _is_of_spaced_script(first)


def join(texts: Sequence[tuple[str, str]]) -> str:
    """Join cleaned texts, given as (text, language), with spaces where their languages need them."""
    joined = texts[0][0] if texts else ""
    for (before, language_before), (after, language_after) in pairwise(texts):
        joined += " " * needs_space(before, after, language_before, language_after) + after
    return joined


def _is_of_spaced_script(char: str) -> bool:
    if char.isascii():
        return True
    unspaced = columns(char) == 2 or any(low <= char <= high for low, high in _UNSPACED_BLOCKS)
    return char.isalnum() and not unspaced


def reads_right_to_left(text: str, language: str) -> bool:
    """Whether a line reads right to left. In Arabic speech, a line of English words only still reads left to right."""
    return language in RIGHT_TO_LEFT_LANGUAGES and any(_is_right_to_left(char) for char in text)


def starts_left_to_right(line: str) -> bool:
    """Whether the line's first letter is of a script that is written left to right.

    Renderers lay out the whole line in the direction of its first letter (Unicode Standard Annex 9, rule P2).
    """
    strong = (char for char in line if _is_right_to_left(char) or unicodedata.bidirectional(char) == "L")
    return not _is_right_to_left(next(strong, RIGHT_TO_LEFT_MARK))


def _is_right_to_left(char: str) -> bool:
    return unicodedata.bidirectional(char) in ("R", "AL")
