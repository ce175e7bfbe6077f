"""An OpenTelemetry collector in memory that receives OTLP over HTTP."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from daemon.demo.loopback import LoopbackServer, QuietHandler


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """A span as it arrived. Times are Unix time in seconds."""

    trace_id: str
    span_id: str
    parent_id: str  # empty for a root span
    name: str
    kind: str
    start: float
    end: float
    attributes: dict[str, Any]
    error: str | None  # description of an error status
    resource: dict[str, Any]
    text: str  # all of it


@dataclass
class Collector(LoopbackServer):
    """`with Collector() as collector:`. `status` is the response status; responses wait until `hold` is set."""

    status: int = 200
    hold: Event | None = None
    requests: list[dict[str, str]] = field(default_factory=list)  # headers, names in lower case
    spans: list[SeenSpan] = field(default_factory=list)  # accepted requests

    def __post_init__(self) -> None:
        collector = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append({name.lower(): value for name, value in self.headers.items()})
                if collector.hold is not None:
                    collector.hold.wait()
                status = collector.status if self.path == "/v1/traces" else 404
                if status == 200:
                    collector.spans += _seen(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        super().__init__(Handler, "collector")

    def trace(self, trace_id: str) -> list[SeenSpan]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]


def _seen(request: ExportTraceServiceRequest) -> Iterable[SeenSpan]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    start=span.start_time_unix_nano / 1e9,
                    end=span.end_time_unix_nano / 1e9,
                    attributes=_values(span.attributes),
                    error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
                    resource=_values(resource.resource.attributes),
                    text=str(span),
                )


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
