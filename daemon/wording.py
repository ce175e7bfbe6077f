"""How messages speak of what they complain of: untrusted text is quoted and bounded, a misspelling gets its cure."""

import difflib
import json
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from daemon.errors import TranscriptdError

MAX_ERROR_CHARS = 500

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def clip(value: object, length: int = 80) -> str:
    """A quoted, printable, bounded rendering of untrusted text for an error message."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= length else text[:length] + "…"


def nearest(value: str, known: Sequence[str], *, otherwise: str = "choose from: ") -> str:
    """What was meant, most likely; else all there is."""
    found = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
    return f'did you mean "{found[0]}"?' if found else otherwise + ", ".join(known)


def words_of(error: BaseException) -> str:
    """What an exception says, if its words are ours or the system's; else its kind alone.

    Whatever else is raised may quote anything: a message's body, a transcript, a token in a URL.
    """
    if isinstance(error, TranscriptdError):
        return presentable(error.code, error.message)
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return type(error).__name__


def presentable(code: str, message: str) -> str:
    """An error's message, bounded. A fault of ours may quote anything: of such a one only the kind is told."""
    if code == TranscriptdError.code:
        return message.partition(":")[0][:80]
    return cut_urls(message)[:MAX_ERROR_CHARS]


def cut_urls(text: str) -> str:
    """The text without credentials, query and fragment in its URLs: what may be a secret there."""
    return _URL.sub(lambda found: _cut(found[0]), text)


def _cut(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    rest = "?…" if parts.query else "#…" if parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{rest}"
