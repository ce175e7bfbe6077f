"""Trace spans for the steps of a job, on OpenTelemetry's API.

The default is a no-op tracer, which records nothing and passes the publisher's trace context on to logs and webhooks.
tracing.py opens one that records.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    NoOpTracer,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer

from daemon.errors import OnFailure, TranscriptdError
from daemon.telemetry.tracecontext import TraceContext

SpanRole = Literal["internal", "consumer", "client"]
SpanAttributes = Mapping[str, str | int | float | bool | None]  # None values are dropped

_NO_TRACER = NoOpTracer()


class Span:
    """A started span. Attributes are IDs, codes and numbers: never text of a job, secrets or URLs."""

    def __init__(self, tracer: OtelTracer = _NO_TRACER, span: OtelSpan = INVALID_SPAN) -> None:
        self.context = _trace_context(span)
        self._tracer = tracer
        self._span = span
        self._failed = False

    @property
    def exemplar(self) -> dict[str, str] | None:
        return self.context.exemplar if self.context else None

    @property
    def log_fields(self) -> dict[str, str]:
        return {"trace_id": self.context.trace_id} if self.context else {}

    @contextmanager
    def child(self, name: str) -> Iterator["Span"]:
        """Run a child span. An exception that leaves it marks it as an error."""
        span = Span(self._tracer, self._tracer.start_span(name, set_span_in_context(self._span, Context())))
        with span.until_exit():
            yield span

    @contextmanager
    def until_exit(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._fail_with(error)
            raise
        finally:
            self._span.end()

    def ended(self, name: str, seconds: float, *, error: Exception | None = None) -> None:
        """Record a child span that ends now and lasted `seconds`."""
        end = time.time_ns()
        above = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, above, start_time=end - round(seconds * 1e9))
        if error is not None:
            Span(self._tracer, span)._fail_with(error)
        span.end(end)

    def set(self, attributes: SpanAttributes) -> None:
        """Add attributes after the start of the span."""
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def fail(self, code: str) -> None:
        """Mark the span as failed. `code` is a code of errors.py, an HTTP status or an exception type; the first wins."""
        if not self._failed:
            self._failed = True
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR, code))

    def _fail_with(self, error: Exception) -> None:
        if code := error_code(error):
            self.fail(code)


class Tracer:
    """Starts spans without a parent span in this process."""

    def __init__(self, tracer: OtelTracer = _NO_TRACER) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self,
        name: str,
        parent: TraceContext | None,
        kind: SpanRole = "internal",
        attributes: SpanAttributes | None = None,
    ) -> Iterator[Span]:
        """Run a span below `parent`, or start a new trace. An exception that leaves it marks it as an error."""
        # The context is explicit, not the current task's, because jobs overlap.
        context = set_span_in_context(NonRecordingSpan(_remote(parent)), Context()) if parent else Context()
        span = Span(self._tracer, self._tracer.start_span(name, context, SpanKind[kind.upper()]))
        span.set(attributes or {})
        with span.until_exit():
            yield span


def error_code(error: Exception) -> str | None:
    """Return the code that `Span.fail` records for an exception; None for a release or a cancellation, which are no errors."""
    if isinstance(error, TranscriptdError):
        return None if error.on_failure in (OnFailure.RELEASE, OnFailure.CANCEL) else error.code
    return type(error).__name__


def _remote(context: TraceContext) -> SpanContext:
    return SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(context.flags),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )


def _trace_context(span: OtelSpan) -> TraceContext | None:
    context = span.get_span_context()
    if not context.is_valid:  # not recorded, and the job has no trace
        return None
    return TraceContext(
        format_trace_id(context.trace_id),
        format_span_id(context.span_id),
        int(context.trace_flags),
        context.trace_state.to_header() or None,
    )
