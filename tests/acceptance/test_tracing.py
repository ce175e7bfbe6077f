"""One trace per job, from its producer through the stages to its webhook; and propagation without a collector."""

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.monitoring.collector import Collector, SeenSpan
from tests.support.monitoring.samples import scraped
from tests.support.programs import require_program
from tests.support.webhooks.receiver import OK, Behaviour, Receiver, threaded_receiver

PRODUCER = "00f067aa0ba902b7"
STAGES = ["queue wait", "stage in", "wait", "vad", "asr", "align", "diarize", "publish", "settle"]
TOLERANCE_SECONDS = 0.05  # times of the runner's stages come from another process
TALKING = "tests.support.pipelines.talking:TalkingPipeline"
EXEMPLIFIED = {
    "transcriptd_queue_wait_seconds",
    "transcriptd_job_duration_seconds",
    "transcriptd_stage_duration_seconds",
    "transcriptd_real_time_factor",
    "transcriptd_event_attempt_duration_seconds",
}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def trace_id(number: int) -> str:
    return f"{number:032x}"


def traceparent(number: int, flags: str = "01") -> str:
    return f"00-{trace_id(number)}-{PRODUCER}-{flags}"


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(webhook_hosts="127.0.0.1", pipeline=TALKING) as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with threaded_receiver(Receiver()) as receiver:
        yield receiver


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def publish(
    world: World, receiver: Receiver, job_id: str, key: str = "call.wav", prompt: str = "", **trace: str
) -> None:
    body = {
        "job_id": job_id,
        "input": {"bucket": world.aws.input_bucket, "key": key},
        "webhook": {"url": receiver.url},
        "options": {"initial_prompt": prompt or None},
    }
    world.send(json.dumps(body), **trace)


def received(receiver: Receiver, job_id: str, event: str) -> bool:
    return any((it.event["data"]["job_id"], it.event["type"]) == (job_id, event) for it in list(receiver.events))


def root(spans: list[SeenSpan]) -> SeenSpan:
    (found,) = [span for span in spans if span.kind == "consumer"]
    return found


def children(spans: list[SeenSpan], parent: SeenSpan, kind: str = "internal") -> list[SeenSpan]:
    """Return the child spans in the order in which they ended."""
    found = [span for span in spans if span.parent_id == parent.span_id and span.kind == kind]
    return sorted(found, key=lambda span: span.end)


def lines_of(daemon: DaemonProcess, process: str, job_id: str) -> list[dict[str, Any]]:
    return [it for it in daemon.log_entries() if it.get("process") == process and it.get("job_id") == job_id]


def metrics(daemon: DaemonProcess, accept: str) -> str:
    port = next(daemon.log_entries("listening"))["port"]
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as response:
        return str(response.read().decode())


def test_each_job_is_one_trace_from_its_producer_to_its_webhook(
    world: World, receiver: Receiver, collector: Collector
) -> None:
    """Two jobs at once, and one that its producer does not sample."""
    secret = "authorization=Bearer%20planted"
    world.settings["OTEL_EXPORTER_OTLP_HEADERS"] = secret
    world.settings["OTEL_RESOURCE_ATTRIBUTES"] = "deployment.environment.name=test"
    receiver.behaviours.append(Behaviour(status=503))  # one event needs a second attempt
    with world.daemon(
        otlp_endpoint=collector.base_url, worker_id="worker-7", log_level="debug", webhook_backoff_min_seconds="0.1"
    ) as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        gate = world.folder / "gate"
        until_open = f"until {gate}"
        publish(world, receiver, "job-1", prompt=until_open, traceparent=traceparent(1), tracestate="vendor=x")
        wait_for(
            lambda: received(receiver, "job-1", "job.progress"), "the event has arrived"
        )  # and it starts before all others
        publish(world, receiver, "job-2", prompt=until_open, traceparent=traceparent(2))
        wait_for(lambda: received(receiver, "job-2", "job.progress"), "the event has arrived")
        gate.touch()
        publish(world, receiver, "silent", traceparent=traceparent(3, "00"))
        publish(world, receiver, "own", traceparent="not a traceparent")
        wait_for(
            lambda: all(received(receiver, job, "job.completed") for job in ("job-1", "job-2", "silent", "own")),
            "the events have arrived",
        )
        world.wait_until_empty()
        assert daemon.stop() == 0  # pending spans are sent

    headers: dict[str, list[dict[str, str]]] = {name: [] for name in ("job-1", "job-2", "silent", "own")}
    for it in receiver.events:
        headers[it.event["data"]["job_id"]].append(it.headers)
    for number in (1, 2):
        spans = collector.trace(trace_id(number))
        top = root(spans)
        assert (top.parent_id, top.error) == (PRODUCER, None)
        assert top.name == "process " + world.aws.queue_url.rpartition("/")[2]
        assert {name: top.attributes[f"transcriptd.{name}"] for name in ("job_id", "outcome", "reason", "attempt")} == {
            "job_id": f"job-{number}",
            "outcome": "published",
            "reason": "published",
            "attempt": 1,
        }
        assert top.attributes["messaging.system"] == "aws_sqs"
        assert top.resource["service.name"] == "transcriptd"
        assert top.resource["service.instance.id"] == "worker-7"
        assert top.resource["deployment.environment.name"] == "test"
        steps = children(spans, top)
        assert [span.name for span in steps] == STAGES
        waited, staged, *rest = steps
        assert [span.name for span in children(spans, staged)] == ["download", "decode"]
        assert waited.start <= waited.end <= staged.start + TOLERANCE_SECONDS
        assert waited.start <= top.start + TOLERANCE_SECONDS, "the message was sent before it was received"
        for outer, inner in [(top, [staged, *rest]), (staged, children(spans, staged))]:
            for span in inner:
                assert outer.start - TOLERANCE_SECONDS <= span.start <= span.end <= outer.end + TOLERANCE_SECONDS
        sent = children(spans, top, "client")
        assert {span.name for span in sent} == {"webhook job.started", "webhook job.progress", "webhook job.completed"}
        assert len(spans) == 1 + len(STAGES) + 2 + len(sent)
        # Each attempt has its own span, whose ID the receiver gets.
        expected = {f"00-{trace_id(number)}-{span.span_id}-01" for span in sent}
        assert {it["traceparent"] for it in headers[f"job-{number}"]} == expected
        assert len(headers[f"job-{number}"]) == len(sent)
        assert {it.get("tracestate") for it in headers[f"job-{number}"]} == {"vendor=x" if number == 1 else None}
        for process in ("poller", "runner"):
            lines = lines_of(daemon, process, f"job-{number}")
            assert {line["trace_id"] for line in lines} == {trace_id(number)}, lines
    failed = [span for span in collector.spans if span.error]
    assert [(span.name, span.error, span.attributes["http.response.status_code"]) for span in failed] == [
        ("webhook job.started", "503", 503)
    ]
    # Not recorded, because the producer did not sample it, but propagated.
    assert collector.trace(trace_id(3)) == []
    assert all(re.fullmatch(rf"00-{trace_id(3)}-[0-9a-f]{{16}}-00", it["traceparent"]) for it in headers["silent"])
    # An invalid traceparent starts a new trace.
    (own,) = {span.trace_id for span in collector.spans} - {trace_id(1), trace_id(2)}
    assert root(collector.trace(own)).parent_id == ""
    assert {it["traceparent"].split("-")[1] for it in headers["own"]} == {own}
    # Secrets are sent to the collector only.
    assert {it["authorization"] for it in collector.requests} == {"Bearer planted"}
    assert "planted" not in daemon.log_path.read_text()


def test_failures_are_in_the_trace_and_an_interruption_is_no_failure(
    world: World, receiver: Receiver, collector: Collector
) -> None:
    settings = {"otlp_endpoint": collector.base_url, "retry_base_seconds": "0.1", "max_attempts": "1"}
    with world.daemon("first", drain_timeout_seconds="0", **settings) as first:
        assert first.wait_until_ready(PATIENCE_SECONDS), first.log_tail()
        publish(world, receiver, "missing", key="none.wav?token=planted", traceparent=traceparent(1))
        publish(world, receiver, "raising", prompt="raise", traceparent=traceparent(2))
        world.send("{", traceparent=traceparent(3))
        for job_id in ("missing", "raising"):
            wait_for(partial(received, receiver, job_id, "job.failed"), "the event has arrived")
        world.wait_until_empty()
        publish(world, receiver, "long", prompt="resume 3600", traceparent=traceparent(4))
        world.wait_until_kept("long")
        assert first.stop() == 1
    with world.daemon("second", **settings):
        wait_for(lambda: received(receiver, "long", "job.completed"), "the event has arrived")
        world.wait_until_empty()

    def failure(number: int) -> tuple[str | None, set[tuple[str, str]]]:
        """Return the error of the delivery and the failed steps within it."""
        spans = collector.trace(trace_id(number))
        top = root(spans)
        assert top.attributes["transcriptd.reason"] == top.attributes["error.type"] == top.error
        return top.error, {(span.name, span.error) for span in spans if span.error and span is not top}

    assert failure(1) == ("object_missing", {("stage in", "object_missing"), ("download", "object_missing")})
    assert failure(2) == ("internal_error", {("vad", "internal_error")})
    assert failure(3) == ("invalid_json", set())
    released, published = sorted(
        (span for span in collector.trace(trace_id(4)) if span.kind == "consumer"), key=lambda span: span.start
    )
    assert [it.attributes["transcriptd.outcome"] for it in (released, published)] == ["released", "published"]
    assert [span for span in collector.trace(trace_id(4)) if span.error] == []
    assert {it.parent_id for it in (released, published)} == {PRODUCER}
    assert not any("planted" in span.text or "scripted failure" in span.text for span in collector.spans)
    # A dead letter keeps the trace for its redrive.
    sent = {letter["attributes"]["traceparent"]["StringValue"] for letter in world.dead_letters()}
    assert sent == {traceparent(number) for number in (1, 2, 3)}


def test_failing_collector_costs_no_job(world: World, receiver: Receiver, collector: Collector) -> None:
    collector.status = 400
    with world.daemon(otlp_endpoint=collector.base_url) as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        for number in (1, 2):
            publish(world, receiver, f"job-{number}", traceparent=traceparent(number))
            wait_for(partial(received, receiver, f"job-{number}", "job.completed"), "the event has arrived")
        wait_for(lambda: lost(daemon) > 20, "lost")
        collector.status = 200
        publish(world, receiver, "job-3", traceparent=traceparent(3))
        wait_for(lambda: any(daemon.log_entries("collector available again")), "back")
        assert daemon.stop() == 0
    (line,) = daemon.log_entries("collector unavailable")
    assert line["error"] == "HTTP 400"
    assert root(collector.trace(trace_id(3))).error is None
    assert not any(daemon.log_entries("unstructured"))


def lost(daemon: DaemonProcess) -> float:
    return scraped(daemon.get("/metrics"))['transcriptd_trace_spans_total{result="lost"}']


# --- without a collector ------------------------------------------------------------------------------------------


@pytest.fixture
def plain_world() -> Iterator[World]:
    with open_world(
        webhook_hosts="127.0.0.1",
        pipeline=TALKING,
        webhook_attempts="1",
        outbox_retry_schedule_seconds="1,2,3,5,8,15,30,60,600",
    ) as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture
def plain_daemon(plain_world: World) -> Iterator[DaemonProcess]:
    with plain_world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        yield daemon


def test_without_a_collector_the_trace_is_propagated(
    plain_world: World, plain_daemon: DaemonProcess, receiver: Receiver
) -> None:
    """Also through the outbox."""
    receiver.default = Behaviour(status=503)
    publish(plain_world, receiver, "job-1", traceparent=traceparent(1), tracestate="vendor=x")
    plain_world.wait_until_empty()  # the event is stored
    receiver.default = OK
    refused = len(receiver.events)
    publish(plain_world, receiver, "job-2")
    wait_for(
        lambda: (
            received(receiver, "job-2", "job.completed")
            and any(it.event["data"]["job_id"] == "job-1" for it in list(receiver.events)[refused:])
        ),
        "the event has arrived",
    )
    for it in receiver.events:
        expected = (traceparent(1), "vendor=x") if it.event["data"]["job_id"] == "job-1" else (None, None)
        assert (it.headers.get("traceparent"), it.headers.get("tracestate")) == expected
    for process in ("poller", "runner"):
        lines = lines_of(plain_daemon, process, "job-1")
        assert {line["trace_id"] for line in lines} == {trace_id(1)}, lines
        assert not any("trace_id" in line for line in lines_of(plain_daemon, process, "job-2"))


def test_exemplars_link_a_metric_to_a_trace(
    plain_world: World, plain_daemon: DaemonProcess, receiver: Receiver, tmp_path: Path
) -> None:
    prometheus = require_program("prometheus")
    publish(plain_world, receiver, "known", traceparent=traceparent(3))
    publish(plain_world, receiver, "silent", traceparent=traceparent(4, "00"))
    wait_for(
        lambda: all(received(receiver, it, "job.completed") for it in ("known", "silent")), "the event has arrived"
    )
    plain_world.wait_until_empty()
    plain, openmetrics = metrics(plain_daemon, "text/plain"), metrics(plain_daemon, OPENMETRICS)
    assert "trace_id" not in plain
    families = list(openmetrics_families(openmetrics))  # type: ignore[no-untyped-call]  # the library's own omission
    found: dict[str, set[str]] = {}
    for family in families:
        for sample in family.samples:
            if sample.exemplar:
                found.setdefault(family.name, set()).add(sample.exemplar.labels["trace_id"])
    assert set(found) == EXEMPLIFIED
    for name, trace_ids in found.items():
        assert trace_id(3) in trace_ids, name
        assert trace_id(4) not in trace_ids, name

    # Rules and dashboards find the same series with and without exemplars.
    def series(families: Any) -> set[Any]:
        return {(it.name, *sorted(it.labels.items())) for family in families for it in family.samples}

    assert series(plain_families(plain)) - series(families) == {("transcriptd_transcript_avg_logprob_count",)}
    assert series(families) <= series(plain_families(plain))
    with scraping(prometheus, plain_daemon, tmp_path) as query:
        asked: list[str] = []

        def known() -> bool:
            answer = query("query_exemplars", query="transcriptd_job_duration_seconds_bucket", start=0, end=4e9)
            asked[:] = [it["labels"]["trace_id"] for each in answer["data"] or () for it in each["exemplars"]]
            return trace_id(3) in asked

        wait_for(known, "known to Prometheus")
    assert trace_id(4) not in asked


@contextmanager
def scraping(prometheus: str, daemon: DaemonProcess, folder: Path) -> Iterator[Any]:
    """Run a real Prometheus that scrapes the daemon and yield the URL of its HTTP API."""
    port = next(daemon.log_entries("listening"))["port"]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "transcriptd", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # YAML is a superset of JSON
    command = [prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += ["--enable-feature=exemplar-storage", "--web.listen-address=127.0.0.1:0"]
    log = folder / "prometheus.log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:

            def query(path: str, **parameters: Any) -> Any:
                address = re.search(r'msg="?Listening on"? address=(\S+)', log.read_text())
                if address is None or process.poll() is not None:
                    return {"data": None}
                url = f"http://{address[1]}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
                try:
                    with urllib.request.urlopen(url) as response:
                        return json.load(response)
                except OSError:  # it listens before it is ready
                    return {"data": None}

            yield query
        finally:
            process.terminate()
