"""The steps of a job as spans of a trace: what the daemon says of them, whoever listens.

These classes are tracing switched off: they record nothing, cost nothing, and pass the producer's trace on to logs and
webhooks. tracing.py records.
"""
# ruff: noqa: ARG002  # the arguments are those of tracing.py's classes

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from daemon.errors import Fate, TranscriptdError
from daemon.tracecontext import TraceContext

Kind = Literal["internal", "consumer", "client"]
Attributes = Mapping[str, str | int | float | bool | None]  # what is None is left out


class Span:
    """A step that has begun. Attributes are ids, codes and numbers: never words of a job, secrets or URLs."""

    def __init__(self, context: TraceContext | None = None) -> None:
        self.context = context

    @property
    def exemplar(self) -> dict[str, str] | None:
        return self.context.exemplar if self.context else None

    @property
    def log_fields(self) -> dict[str, str]:
        return {"trace_id": self.context.trace_id} if self.context else {}

    @contextmanager
    def child(self, name: str) -> Iterator["Span"]:
        """A step within this one. An exception that leaves it makes it an error."""
        yield self

    def ended(self, name: str, seconds: float, *, error: Exception | None = None) -> None:
        """A step within this one that ends now, and took so long."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes, for instance those that are known only later."""

    def fail(self, code: str) -> None:
        """It ended in an error: the code of errors.py, an HTTP status, or a kind of exception. The first one counts."""


class Tracer:
    """Begins spans that have no other span of this process above them."""

    @contextmanager
    def span(
        self, name: str, parent: TraceContext | None, kind: Kind = "internal", attributes: Attributes | None = None
    ) -> Iterator[Span]:
        """A step below `parent`, or one that begins a trace. An exception that leaves it makes it an error."""
        yield Span(parent)


def code_of(error: Exception) -> str | None:
    """What `Span.fail` is told of an exception; None where it is no error: we are leaving."""
    if isinstance(error, TranscriptdError):
        return None if error.fate is Fate.RELEASE else error.code
    return type(error).__name__
