"""Structured logs: one JSON object a line on standard output, in both processes, with the job on every line about one.

Levels: debug is every call, try and progress step; info is one line for each thing that happened to a job or to the daemon;
warning is a degradation that was handled; error needs a person if it lasts; critical ends the daemon.

Transcript text and secrets are never logged. So an exception is told by its kind and place: its words may quote anything,
a transcript among it, unless they are ours (errors.py). docs/logs.md has the schema, log_schema.py declares it.
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

from daemon.log_schema import ALWAYS
from daemon.wording import words_of

OURS = "transcriptd"
MAX_TEXT_CHARS = 4_000  # journald breaks lines of more than 48 KiB, and JSON may escape a character as six
MAX_FRAMES = 20  # of each exception, the innermost
MIN_SECRET_CHARS = 8  # less would blank common words

log = logging.getLogger("transcriptd.logs")

_context: ContextVar[dict[str, Any] | None] = ContextVar("log_context", default=None)


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to every line logged inside, in tasks that are started inside too."""
    token = _context.set({**log_fields(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def bind(**fields: Any) -> None:
    """Add fields to the rest of the enclosing log_context, in tasks that were started inside it already too."""
    context = _context.get()
    if context is None:
        raise LookupError("bind() is for the inside of a log_context()")
    context.update(fields)


def log_fields() -> dict[str, Any]:
    """What the enclosing log_context adds to a line: to be handed to another process."""
    return dict(_context.get() or {})


class _Formatter(JsonFormatter):
    """Lines of the schema. What libraries log becomes `library message`, without their own fields and words."""

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
        return "" if ei[1] is None else "".join(_story(ei[1], set()))

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._hidden:  # the last net; nothing of ours logs one
            line = line.replace(secret, "***")
        return line


def _place(record: logging.LogRecord) -> str:
    """Where a library logged what: its pattern, not what was filled in, which may quote a job."""
    if record.name == "py.warnings":  # path:line: category: words
        return ": ".join(record.getMessage().split(": ", 2)[:2])
    place = f"{record.pathname}:{record.lineno}"
    return f"{place}: {record.msg}" if record.args else place


def _story(error: BaseException, told: set[int]) -> list[str]:
    """The exception and what led to it, as Python prints them, but for their words."""
    told.add(id(error))
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if earlier is None or id(earlier) in told else [*_story(earlier, told), "which led to:\n"]
    for inner in getattr(error, "exceptions", ()):
        lines += _story(inner, told)
    lines += traceback.format_tb(error.__traceback__, limit=-MAX_FRAMES)
    return [*lines, f"{type(error).__module__}.{type(error).__qualname__}: {words_of(error)}\n"]


def configure(level: str, process: str, *, hidden: Sequence[str] = (), stream: TextIO | None = None) -> None:
    """Send all logging of this process to `stream`, standard output unless given, as JSON.

    `process` is `poller` or `runner`. `hidden` are secrets, blanked should one ever come into a line.
    """
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_Formatter(process, hidden))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.captureWarnings(True)
    # Botocore tells at warning level what we tell better: every failed call is reported by its caller. Its own debug
    # lines hold credentials and messages, which is why the root's level never falls below warning.
    logging.getLogger("botocore").setLevel(logging.ERROR)
    logging.getLogger("aiobotocore").setLevel(logging.ERROR)
    sys.excepthook = _on_unhandled
    threading.excepthook = lambda lost: _tell(lost.exc_value, lost.thread.name if lost.thread else None)
    sys.unraisablehook = lambda lost: _tell(lost.exc_value, None)


def toggle_debug(level: str) -> None:
    """Log at debug level from now on, or at `level` again if that is so already."""
    ours = logging.getLogger(OURS)
    ours.setLevel(level.upper() if ours.level == logging.DEBUG else logging.DEBUG)
    log.warning("log level changed", extra={"log_level": logging.getLevelName(ours.level).lower()})


def take_stdout() -> TextIO:
    """Keep standard output for the log alone; returns the stream to log to.

    What native libraries print there goes to standard error, whose reader makes log lines of it. What Python prints, there
    or on standard error, goes nowhere: it may be what was said in a recording, and what matters of it is logged.
    """
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # for the life of the process
    return stream


def on_loop_exception(_: Any, context: dict[str, Any]) -> None:
    """asyncio's exception handler: its own quotes the task's result and the exception's words."""
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else None
    _tell(context.get("exception"), name, context["message"])


def _on_unhandled(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("unhandled exception", exc_info=(kind, error, trace))


def _tell(error: BaseException | None, task: str | None, detail: str | None = None) -> None:
    log.error("unhandled exception", exc_info=error, extra={"task": task, "detail": detail})
