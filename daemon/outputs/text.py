"""Text as every format needs it: clean, measured, joined."""

import re
import unicodedata

from daemon.catalog import UNSPACED_LANGUAGES
from daemon.transcript import Transcript

# Control characters, the separators that some renderers take for line breaks, and surrogates, which UTF-8 cannot hold.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean(text: str) -> str:
    """One line, with single spaces: runs of white space would be collapsed by any renderer anyway."""
    return " ".join(_CONTROL.sub(" ", text).split())


def columns(text: str) -> int:
    """The width of a text: full-width characters (Chinese, Japanese, Korean) count 2, combining marks 0, others 1.

    Source: Unicode Standard Annex 11, East Asian Width.
    """
    return len(text) if text.isascii() else sum(map(_character_columns, text))


def _character_columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def is_spaced(transcript: Transcript) -> bool:
    """Whether its words are written with spaces between them; a translation is English."""
    return transcript.task == "translate" or transcript.language not in UNSPACED_LANGUAGES
