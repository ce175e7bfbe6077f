"""Redaction of error messages for the log, dead letters and the status page: bounded, without possible secrets."""

import re
from urllib.parse import urlsplit

from daemon.errors import TranscriptdError

MAX_ERROR_CHARS = 500


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")


def safe_message(error: BaseException) -> str:
    """Return the message of an exception from errors.py or the system; for any other, only its type.

    Other messages may quote anything: a message's body, a transcript, a token in a URL.
    """
    if isinstance(error, TranscriptdError):
        return redact_message(error.code, error.message)
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return type(error).__name__


def describe(error: BaseException) -> str:
    """Return an exception's message, which is never empty: many libraries raise `TimeoutError()`. Not redacted."""
    text = str(error).strip()
    if text:
        return text
    return f"{type(error).__name__}: no response in time" if isinstance(error, TimeoutError) else type(error).__name__


def describe_with_type(error: BaseException) -> str:
    """Return `Type: message` of an exception, or as `describe` if there is no message. Not redacted."""
    return f"{type(error).__name__}: {error}" if str(error).strip() else describe(error)


def redact_message(code: str, message: str) -> str:
    """Bound and redact an error's message. An internal error may quote anything, so only its type is kept."""
    if code == TranscriptdError.code:
        return message.partition(":")[0][:80]
    return redact_urls(message)[:MAX_ERROR_CHARS]


def redact_urls(text: str) -> str:
    """Remove credentials, query and fragment, which may be secret, from the URLs in a text."""
    return _URL.sub(lambda found: _cut(found[0]), text)


def _cut(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    rest = "?…" if parts.query else "#…" if parts.fragment else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{rest}"
