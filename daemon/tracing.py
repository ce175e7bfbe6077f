"""Spans sent to an OpenTelemetry collector as OTLP over HTTP. The only importer of opentelemetry: the launcher imports this
module only where an endpoint is set.

A trace must never cost a job: spans wait in a bounded queue, a thread sends them, and what the collector does not take
in time is lost.
"""

import asyncio
import logging
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
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

from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.metrics import Metrics
from daemon.outage import Outage
from daemon.spans import Attributes, Kind, Span, Tracer, code_of
from daemon.tracecontext import TraceContext

log = logging.getLogger("transcriptd.tracing")

MAX_WAITING_SPANS = 2048
MAX_SPANS_PER_EXPORT = 512
EXPORT_PERIOD_SECONDS = 2.0
EXPORT_TIMEOUT_SECONDS = 5.0  # all tries of one export together
SHUTDOWN_SECONDS = 3.0  # for what waits at the end

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")

KINDS: dict[Kind, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
}


@asynccontextmanager
async def open_tracer(settings: Settings, metrics: Metrics) -> AsyncIterator[Tracer]:
    """A tracer that sends to `otlp_endpoint`, until the context ends. Raises ConfigError."""
    # What it logs of a failure, once a try, may quote headers; _Exporter tells it once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(settings.trace_sample_ratio)),
        resource=_resource(settings),
        shutdown_on_exit=False,
    )
    processor = BatchSpanProcessor(
        _Exporter(settings, metrics),
        max_queue_size=MAX_WAITING_SPANS,
        schedule_delay_millis=EXPORT_PERIOD_SECONDS * 1000,
        max_export_batch_size=MAX_SPANS_PER_EXPORT,
    )
    provider.add_span_processor(processor)
    try:
        yield OtlpTracer(provider.get_tracer("transcriptd", version("transcriptd")))
    finally:
        # Its own limit is 30 s. A thread of the executor would hold up the exit; this one does not.
        ending = threading.Thread(target=provider.shutdown, name="end of tracing", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, SHUTDOWN_SECONDS)


def _resource(settings: Settings) -> Resource:
    """What all spans of this daemon have; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME have the last word."""
    ours = {
        "service.name": "transcriptd",
        "service.version": version("transcriptd"),
        "service.instance.id": settings.worker_id,
        "host.name": socket.gethostname(),
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


# --- spans --------------------------------------------------------------------------------------------------------


class OtlpTracer(Tracer):
    def __init__(self, tracer: OtelTracer) -> None:
        self._tracer = tracer

    @contextmanager
    def span(
        self, name: str, parent: TraceContext | None, kind: Kind = "internal", attributes: Attributes | None = None
    ) -> Iterator[Span]:
        # The context is always said, never that of the task: jobs overlap.
        context = set_span_in_context(NonRecordingSpan(_remote(parent)), Context()) if parent else Context()
        started = self._tracer.start_span(name, context, KINDS[kind])
        span = _Span(self._tracer, started)
        span.set(attributes or {})
        with span.until_the_end():
            yield span


class _Span(Span):
    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        super().__init__(_context_of(span))
        self._tracer = tracer
        self._span = span
        self._failed = False

    @contextmanager
    def child(self, name: str) -> Iterator[Span]:
        span = _Span(self._tracer, self._tracer.start_span(name, set_span_in_context(self._span, Context())))
        with span.until_the_end():
            yield span

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._fail_with(error)
            raise
        finally:
            self._span.end()

    def ended(self, name: str, seconds: float, *, error: Exception | None = None) -> None:
        end = time.time_ns()
        above = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, above, start_time=end - round(seconds * 1e9))
        if error is not None:
            _Span(self._tracer, span)._fail_with(error)
        span.end(end)

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def fail(self, code: str) -> None:
        if not self._failed:
            self._failed = True
            self._span.set_attribute("error.type", code)
            self._span.set_status(Status(StatusCode.ERROR, code))

    def _fail_with(self, error: Exception) -> None:
        if code := code_of(error):
            self.fail(code)


def _remote(context: TraceContext) -> SpanContext:
    return SpanContext(
        trace_id=int(context.trace_id, 16),
        span_id=int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(context.flags),
        trace_state=TraceState.from_header([context.state]) if context.state else None,
    )


def _context_of(span: OtelSpan) -> TraceContext | None:
    told = span.get_span_context()
    if not told.is_valid:  # OTEL_SDK_DISABLED, and the job brought no trace
        return None
    return TraceContext(
        format_trace_id(told.trace_id),
        format_span_id(told.span_id),
        int(told.trace_flags),
        told.trace_state.to_header() or None,
    )


# --- export -------------------------------------------------------------------------------------------------------


class _Session(requests.Session):
    """Knows why the last request failed: the exporter tells it in its log alone."""

    trouble: str | None = None

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        try:
            response = super().request(*arguments, **options)
            if 300 <= response.status_code < 400:  # not followed; the exporter would take it for success
                raise requests.TooManyRedirects
        except requests.RequestException as error:
            self.trouble = type(error).__name__  # its words quote the URL
            raise
        self.trouble = None if response.ok else f"HTTP {response.status_code}"
        return response


class _Exporter(SpanExporter):
    """OTLPSpanExporter, counted."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._session = _Session()
        self._exporter = OTLPSpanExporter(
            endpoint=f"{(settings.otlp_endpoint or '').rstrip('/')}/v1/traces",
            headers=_headers(settings),
            timeout=EXPORT_TIMEOUT_SECONDS,
            session=self._session,
        )
        self._spans = metrics.trace_spans
        self._outage = Outage(log, "collector unavailable", "collector available again")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._spans.labels("exported").inc(len(spans))
            self._outage.worked()
        else:
            self._spans.labels("lost").inc(len(spans))
            self._outage.failed(self._session.trouble or "not sent")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's own omission


def _headers(settings: Settings) -> dict[str, str]:
    """`name=value,…` with values percent-encoded, as OpenTelemetry writes them. Raises ConfigError, which quotes nothing."""
    text = settings.otlp_headers.get_secret_value() if settings.otlp_headers else ""
    headers = {}
    for pair in filter(str.strip, text.split(",")):
        name, equals, encoded = pair.partition("=")
        value = unquote(encoded.strip())
        if not (equals and HEADER_NAME.fullmatch(name.strip()) and value.isprintable() and value.isascii()):
            raise ConfigError(
                "OTEL_EXPORTER_OTLP_HEADERS must be name=value, separated by commas, values percent-encoded"
            )
        headers[name.strip().lower()] = value
    return headers
