"""Structured logs of both processes: one JSON object per line on standard output. Lines about a job carry its IDs.

Levels: debug for every call, attempt and progress step; info for each event of a job or the daemon; warning for a handled
degradation; error for a problem that needs a person if it persists; critical for one that ends the daemon.

Transcript text and secrets are never logged. Exceptions are therefore logged with type and stack only: the message may
quote anything, even a transcript, unless it is from errors.py. log_schema.py declares the schema; docs/logs.md lists it.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from daemon.telemetry.log_schema import ALWAYS
from daemon.telemetry.redaction import safe_message

OURS = "transcriptd"
MAX_TEXT_CHARS = 4_000  # journald splits lines longer than 48 KiB, and JSON may escape a character as six
MAX_FRAMES = 20  # of each exception; the innermost ones
MIN_SECRET_CHARS = 8  # masking shorter values would hide common words

log = logging.getLogger("transcriptd.logs")

_context: ContextVar[dict[str, Any] | None] = ContextVar("log_context", default=None)


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to every line logged inside, including tasks started inside."""
    token = _context.set({**log_fields(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def bind(**fields: Any) -> None:
    """Add fields to the enclosing log_context from now on, including tasks that it has already started."""
    context = _context.get()
    if context is None:
        raise LookupError("bind() needs an enclosing log_context()")
    context.update(fields)


def log_fields() -> dict[str, Any]:
    """Return the fields of the enclosing log_context, to pass them to another process."""
    return dict(_context.get() or {})


class _Formatter(JsonFormatter):
    """Formats lines of the schema. A library's line becomes `library message`, without its fields and its text."""

    def __init__(self, process: str, hidden: Sequence[str]) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "message": "event", "exc_info": "traceback"},
            static_fields={"process": process},
        )
        self._hidden = [json.dumps(secret)[1:-1] for secret in hidden if len(secret) >= MIN_SECRET_CHARS]

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["timestamp"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        super().add_fields(log_data, record, message_dict)
        if record.name.partition(".")[0] != OURS:
            for name in log_data.keys() - ALWAYS.keys() - {"traceback"}:
                del log_data[name]
            log_data["detail"] = _place(record)
            log_data["event"] = "library message"
        for name, value in log_fields().items():
            log_data.setdefault(name, value)
        for name, value in log_data.items():
            if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
                log_data[name] = f"{value[: MAX_TEXT_CHARS // 2]} … {value[-MAX_TEXT_CHARS // 2 :]}"

    def formatException(self, ei: Any) -> str:  # noqa: N802  # logging's name
        return "" if ei[1] is None else "".join(_format_chain(ei[1], set()))

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._hidden:  # the last safeguard: the daemon itself logs no secrets
            line = line.replace(secret, "***")
        return line


def _place(record: logging.LogRecord) -> str:
    """Return the location and the format string of a library's line, without the arguments, which may quote a job."""
    if record.name == "py.warnings":  # path:line: category: text
        return ": ".join(record.getMessage().split(": ", 2)[:2])
    place = f"{record.pathname}:{record.lineno}"
    return f"{place}: {record.msg}" if record.args else place


def _format_chain(error: BaseException, seen: set[int]) -> list[str]:
    """Format the exception and its causes as Python prints them, but with safe messages."""
    seen.add(id(error))
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if earlier is None or id(earlier) in seen else [*_format_chain(earlier, seen), "which led to:\n"]
    for inner in getattr(error, "exceptions", ()):
        lines += _format_chain(inner, seen)
    lines += traceback.format_tb(error.__traceback__, limit=-MAX_FRAMES)
    return [*lines, f"{type(error).__module__}.{type(error).__qualname__}: {safe_message(error)}\n"]


def configure(level: str, process: str, *, hidden: Sequence[str] = (), stream: TextIO | None = None) -> None:
    """Write all logging of this process to `stream` (standard output by default) as JSON.

    `process` is `poller` or `runner`. `hidden` are secrets to mask if one ever appears in a line.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_Formatter(process, hidden))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.captureWarnings(True)
    # Botocore's warnings are redundant: the caller of a failed call logs it. Its debug lines contain credentials and
    # messages, so the level of the root logger is never below warning.
    logging.getLogger("botocore").setLevel(logging.ERROR)
    logging.getLogger("aiobotocore").setLevel(logging.ERROR)
    sys.excepthook = _on_unhandled
    threading.excepthook = lambda lost: _log_unhandled(lost.exc_value, lost.thread.name if lost.thread else None)
    sys.unraisablehook = lambda lost: _log_unhandled(lost.exc_value, None)


def toggle_debug(level: str) -> None:
    """Switch between debug level and `level`."""
    ours = logging.getLogger(OURS)
    ours.setLevel(level.upper() if ours.level == logging.DEBUG else logging.DEBUG)
    log.warning("log level changed", extra={"log_level": logging.getLevelName(ours.level).lower()})


def take_stdout() -> TextIO:
    """Reserve standard output for the log, and return the stream to log to.

    Output of native libraries goes to standard error, whose reader turns it into log lines. Python's own output on either
    stream is discarded: it may contain transcript text, and everything relevant is logged.
    """
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # open until the process exits
    return stream


def on_loop_exception(_: Any, context: dict[str, Any]) -> None:
    """Handle asyncio's unhandled exceptions. The default handler would log the task's result and the exception's message."""
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else None
    _log_unhandled(context.get("exception"), name, context["message"])


def _on_unhandled(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("unhandled exception", exc_info=(kind, error, trace))


def _log_unhandled(error: BaseException | None, task: str | None, detail: str | None = None) -> None:
    log.error("unhandled exception", exc_info=error, extra={"task": task, "detail": detail})
