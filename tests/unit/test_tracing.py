"""The spans sent to a collector, and that a failing collector cannot harm the daemon. Traces of jobs:
tests/acceptance/test_tracing.py."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr, ValidationError

from bench.waiting import PATIENCE_SECONDS
from daemon.config import Settings
from daemon.errors import ConfigError, DiskFull, Interrupted
from daemon.telemetry import tracing
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Tracer
from daemon.telemetry.tracecontext import TraceContext
from daemon.telemetry.tracing import MAX_SPANS_PER_EXPORT, MAX_WAITING_SPANS, open_tracer
from tests.support.monitoring.collector import Collector
from tests.support.monitoring.samples import samples_of

PARENT = TraceContext("1" * 32, "2" * 16, 1, "vendor=x")
UNSAMPLED = TraceContext("1" * 32, "2" * 16, 0)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long enough at shutdown to send the remaining spans on a busy machine."""
    monkeypatch.setattr(tracing, "SHUTDOWN_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


async def test_spans_of_concurrent_tasks_do_not_mix(
    make_settings: Callable[..., Settings], collector: Collector
) -> None:
    both_began = asyncio.Barrier(2)

    async with open_tracer(make_settings(otlp_endpoint=collector.base_url), Metrics()) as tracer:

        async def work(name: str) -> None:
            with tracer.span(name, None) as span:
                await both_began.wait()
                with span.child(f"{name} child"):
                    await both_began.wait()

        async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(work("a"))
            group.create_task(work("b"))
    found = {span.name: span for span in collector.spans}
    for name in ("a", "b"):
        assert found[f"{name} child"].parent_id == found[name].span_id
        assert found[f"{name} child"].trace_id == found[name].trace_id
    assert found["a"].trace_id != found["b"].trace_id


async def test_exception_is_an_error_with_its_code_unless_we_are_leaving(
    make_settings: Callable[..., Settings], collector: Collector
) -> None:
    async with open_tracer(make_settings(otlp_endpoint=collector.base_url), Metrics()) as tracer:
        with tracer.span("top", PARENT, attributes={"number": 1, "nothing": None}) as top:
            for error in (DiskFull("words"), Interrupted("words"), ValueError("words")):
                with pytest.raises(type(error)), top.child(type(error).__name__):
                    raise error
            top.ended("past", 60, error=DiskFull("words"))
            top.fail("first")
            top.fail("second")
    assert {span.name: span.error for span in collector.spans} == {
        "DiskFull": "disk_full",
        "Interrupted": None,
        "ValueError": "ValueError",
        "past": "disk_full",
        "top": "first",
    }
    found = {span.name: span for span in collector.spans}
    assert found["past"].end - found["past"].start == pytest.approx(60)
    assert found["top"].attributes == {"number": 1, "error.type": "first"}
    assert (found["top"].trace_id, found["top"].parent_id) == (PARENT.trace_id, PARENT.span_id)
    assert not any("words" in span.text for span in collector.spans)


@pytest.mark.parametrize(
    ("ratio", "parent", "recorded"),
    [(1, None, True), (0, None, False), (0, PARENT, True), (1, UNSAMPLED, False)],
    ids=["all", "none", "the producer wants it", "the producer does not"],
)
async def test_who_decides_whether_a_trace_is_recorded(
    make_settings: Callable[..., Settings],
    collector: Collector,
    ratio: float,
    parent: TraceContext | None,
    recorded: bool,
) -> None:
    settings = make_settings(otlp_endpoint=collector.base_url + "/", trace_sample_ratio=ratio)
    contexts: list[TraceContext | None] = []
    async with open_tracer(settings, Metrics()) as tracer:
        with tracer.span("top", parent) as top, top.child("child") as child:
            contexts += [top.context, child.context]
    assert len(collector.spans) == (2 if recorded else 0)
    for context in contexts:  # always propagated
        assert context is not None
        assert context.sampled is recorded
        assert context.state == (parent.state if parent else None)
        assert parent is None or (context.trace_id == parent.trace_id and context.span_id != parent.span_id)


async def send(spans: int, endpoint: str, metrics: Metrics, make_settings: Callable[..., Settings]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), open_tracer(make_settings(otlp_endpoint=endpoint), metrics) as tracer:
        for _ in range(spans):
            with tracer.span("top", PARENT):
                pass


def spans_of(metrics: Metrics) -> dict[str, float]:
    found = samples_of(metrics)
    return {result: found[f'transcriptd_trace_spans_total{{result="{result}"}}'] for result in ("exported", "lost")}


async def test_hung_collector_delays_neither_the_work_nor_the_shutdown(
    make_settings: Callable[..., Settings], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SHUTDOWN_SECONDS", 0.1)
    collector.hold = threading.Event()
    try:
        await send(3 * MAX_WAITING_SPANS, collector.base_url, Metrics(), make_settings)
        assert "end of tracing" in {thread.name for thread in threading.enumerate()}, "it recovers without a restart"
    finally:
        collector.hold.set()
        for thread in threading.enumerate():
            if thread.name == "end of tracing":
                thread.join(30)  # it logs its failure, which is not another test's


@pytest.mark.parametrize(("status", "error"), [(400, "HTTP 400"), (307, "TooManyRedirects")])
async def test_rejected_spans_are_counted_and_logged_once(
    status: int,
    error: str,
    make_settings: Callable[..., Settings],
    collector: Collector,
    caplog: pytest.LogCaptureFixture,
) -> None:
    collector.status, metrics = status, Metrics()
    await send(2 * MAX_SPANS_PER_EXPORT, collector.base_url, metrics, make_settings)
    assert spans_of(metrics) == {"exported": 0, "lost": 2 * MAX_SPANS_PER_EXPORT}
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (line.getMessage(), vars(line)["error"]) == ("collector unavailable", error)


async def test_without_a_listener_spans_are_lost(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "EXPORT_TIMEOUT_SECONDS", 0.1)
    metrics = Metrics()
    await send(1, "http://127.0.0.1:9", metrics, make_settings)
    assert spans_of(metrics) == {"exported": 0, "lost": 1}


@pytest.mark.parametrize("headers", ["planted", "a b=planted", "=planted", "a=1,planted", "a=planted%0d%0ab:c", "a=ü"])
async def test_invalid_headers_are_rejected_without_quoting_them(
    headers: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(otlp_endpoint="http://127.0.0.1:9", otlp_headers=SecretStr(headers))
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS must be") as refused:
        async with open_tracer(settings, Metrics()):
            pass
    assert "planted" not in refused.value.message


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://c", "http://", "http://u:p@c", "http://c/?key=1", "http://c d"]
)
def test_endpoint_is_an_address_without_secrets(endpoint: str, make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ValidationError, match="otlp_endpoint"):
        make_settings(otlp_endpoint=endpoint)


def test_disabled_tracing_passes_the_producers_context_on() -> None:
    with Tracer().span("any", PARENT, "consumer", {"a": 1}) as span, span.child("below") as child:
        assert span.context == child.context == PARENT
        assert json.dumps(child.log_fields) == json.dumps({"trace_id": PARENT.trace_id})
    with Tracer().span("any", None) as span:
        assert span.context is None
        assert span.log_fields == {}
        assert span.exemplar is None
