"""How messages speak of what they complain of: untrusted text is quoted and bounded, a misspelling gets its cure."""

import difflib
import json
from collections.abc import Sequence


def clip(value: object, length: int = 80) -> str:
    """A quoted, printable, bounded rendering of untrusted text for an error message."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= length else text[:length] + "…"


def nearest(value: str, known: Sequence[str], *, otherwise: str = "choose from: ") -> str:
    """What was meant, most likely; else all there is."""
    found = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    return f'did you mean "{found[0]}"?' if found else otherwise + ", ".join(known)
