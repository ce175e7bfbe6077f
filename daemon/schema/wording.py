"""Helpers for error messages: quote and bound untrusted text, suggest a correction for a misspelling."""

import difflib
import json
from collections.abc import Sequence

MAX_COMPARED = 100  # characters; the comparison takes time that grows with them


def clip(value: object, length: int = 80) -> str:
    """Render untrusted text for an error message: quoted, printable and bounded."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= length else text[:length] + "…"


def nearest(value: str, known: Sequence[str], *, otherwise: str = "choose from: ") -> str:
    """Suggest the closest known value; if none is close, list all."""
    return similar(value, known) or otherwise + ", ".join(known)


def similar(value: str, known: Sequence[str]) -> str:
    """Suggest the closest known value; '' if none is close."""
    found = difflib.get_close_matches(value[:MAX_COMPARED], known, n=1, cutoff=0.5)
    return f'did you mean "{found[0]}"?' if found else ""
