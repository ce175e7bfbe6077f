"""Structured logs: one JSON object a line on standard output, in both processes, with the job on every line about one.

Levels: debug is every call and progress step; info is one line for each thing that happened to a job or to the daemon;
warning is a degradation that was handled; error needs a person. Transcript text and secrets are never logged.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pythonjsonlogger.json import JsonFormatter

_context: ContextVar[dict[str, Any]] = ContextVar("log_context", default={})  # noqa: B039  # never mutated


@contextmanager
def log_context(**fields: Any) -> Iterator[None]:
    """Add fields to every line logged inside, in tasks that are started inside too."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def bind(**fields: Any) -> None:
    """Add fields to the rest of the enclosing log_context."""
    _context.set({**_context.get(), **fields})


def log_fields() -> dict[str, Any]:
    """What the enclosing log_context adds to a line: to be handed to another process."""
    return dict(_context.get())


class _Formatter(JsonFormatter):
    def __init__(self, process: str) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            timestamp=True,
            rename_fields={"levelname": "level", "name": "logger", "message": "event", "exc_info": "traceback"},
            static_fields={"process": process},
        )

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        for name, value in _context.get().items():
            log_data.setdefault(name, value)


def configure(level: str, process: str) -> None:
    """Send all logging of this process to standard output as JSON. `process` is `poller` or `runner`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_Formatter(process))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("transcriptd").setLevel(level.upper())
    logging.captureWarnings(True)
    # Botocore tells at warning level what we tell better: every failed call is reported by its caller.
    logging.getLogger("botocore").setLevel(logging.ERROR)
    logging.getLogger("aiobotocore").setLevel(logging.ERROR)
