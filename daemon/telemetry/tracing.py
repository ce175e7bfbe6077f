"""Exports spans to an OpenTelemetry collector, as OTLP over HTTP. The only module that imports OpenTelemetry's SDK: the
launcher imports it only if an endpoint is set.

Tracing must never fail or delay a job: spans wait in a bounded queue, a thread exports them, and spans that the
collector does not accept in time are lost.
"""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage
from daemon.telemetry.spans import Tracer

log = logging.getLogger("transcriptd.tracing")

MAX_WAITING_SPANS = 2048
MAX_SPANS_PER_EXPORT = 512
EXPORT_PERIOD_SECONDS = 2.0
EXPORT_TIMEOUT_SECONDS = 5.0  # for all attempts of one export
SHUTDOWN_SECONDS = 3.0  # to export the remaining spans

HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@asynccontextmanager
async def open_tracer(settings: Settings, metrics: Metrics) -> AsyncIterator[Tracer]:
    """Open a tracer that exports to `otlp_endpoint` until the context exits. Raises ConfigError."""
    # The SDK logs every failed attempt and may quote headers; _Exporter logs the outage once instead.
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
        yield Tracer(provider.get_tracer("transcriptd", version("transcriptd")))
    finally:
        # The SDK's own limit is 30 s. An executor thread would delay the exit; a daemon thread does not.
        ending = threading.Thread(target=provider.shutdown, name="end of tracing", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, SHUTDOWN_SECONDS)


def _resource(settings: Settings) -> Resource:
    """Return the resource of all spans. OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME take precedence."""
    ours = {
        "service.name": "transcriptd",
        "service.version": version("transcriptd"),
        "service.instance.id": settings.worker_id,
        "host.name": socket.gethostname(),
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


# --- export -------------------------------------------------------------------------------------------------------


class _Session(requests.Session):
    """Records why the last request failed, because the exporter only logs the reason."""

    last_error: str | None = None

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        try:
            response = super().request(*arguments, **options)
            if (
                300 <= response.status_code < 400
            ):  # redirects are not followed, and the exporter would count one as success
                raise requests.TooManyRedirects
        except requests.RequestException as error:
            self.last_error = type(error).__name__  # its message quotes the URL
            raise
        self.last_error = None if response.ok else f"HTTP {response.status_code}"
        return response


class _Exporter(SpanExporter):
    """OTLPSpanExporter that counts spans and logs outages."""

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
            self._outage.failed(self._session.last_error or "not sent")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's own omission


def _headers(settings: Settings) -> dict[str, str]:
    """Parse OpenTelemetry's `name=value,…` with percent-encoded values. Raises ConfigError without quoting the text."""
    text = settings.otlp_headers.get_secret_value() if settings.otlp_headers else ""
    headers = {}
    for pair in filter(str.strip, text.split(",")):
        name, equals, encoded = pair.partition("=")
        value = unquote(encoded.strip())
        if not (equals and HEADER_NAME.fullmatch(name.strip()) and value.isprintable() and value.isascii()):
            raise ConfigError(
                "OTEL_EXPORTER_OTLP_HEADERS must be a comma-separated list of name=value with percent-encoded values"
            )
        headers[name.strip().lower()] = value
    return headers
