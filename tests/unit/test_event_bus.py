"""The event bus as a sink: what is put on it, and what becomes of an event that EventBridge does not take.

The server is a real one that answers like EventBridge: moto takes every event.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from bench.waiting import PATIENCE_SECONDS
from bench.world import SECRET
from daemon.config import Settings
from daemon.demo.aws import EmbeddedAws
from daemon.schema.transcript import TranscriptWarning
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Tracer
from daemon.webhooks.event_bus import EventBus, open_event_bus
from daemon.webhooks.events import EventError, EventOutput, WebhookEvent
from daemon.webhooks.outbox import OutboxWorker, open_outbox
from daemon.webhooks.sender import EventSender
from daemon.webhooks.sinks import EVENT_BUS_URL, DeliveryFailed
from tests.support.builders import some_settings
from tests.support.webhooks.receiver import Behaviour, Receiver

JSON = {"Content-Type": "application/x-amz-json-1.1"}
# https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html, before it was raised to 1 MB
OLDER_MAX_ENTRY_BYTES = 256 * 1024


def answer(body: Mapping[str, Any], status: int = 200) -> Behaviour:
    return Behaviour(status=status, headers=JSON, body=json.dumps(body).encode())


def refusal(code: str) -> Behaviour:
    """A call that succeeds, although its only entry is refused."""
    return answer({"FailedEntryCount": 1, "Entries": [{"ErrorCode": code, "ErrorMessage": "said EventBridge"}]})


PUT = answer({"FailedEntryCount": 0, "Entries": [{"EventId": "e-1"}]})
THROTTLED = answer({"__type": "ThrottlingException", "message": "Rate exceeded"}, 400)
DENIED = answer({"__type": "AccessDeniedException", "message": "not authorized to perform: events:PutEvents"}, 400)
TOO_LARGE = answer({"__type": "ValidationException", "message": "Total size of the entries is over the limit."}, 400)
NOT_AWS = Behaviour(status=200, body=b"<html>Welcome to the proxy</html>")


def make_settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "event_bus": "jobs",
        "webhook_allow_http": True,
        "webhook_secret": (SecretStr(SECRET),),
        "webhook_attempts": 2,
        "webhook_backoff_min_seconds": 0.01,
        "webhook_backoff_max_seconds": 0.02,
        "receive_wait_time_seconds": 1,
    }
    return some_settings(**{**values, **changes})


def completed(job_id: str = "job-1", **details: Any) -> WebhookEvent:
    place = f"transcripts/{job_id}/"
    output = EventOutput(bucket="results", prefix=place, manifest=place + "manifest.json")
    return WebhookEvent(**{"job_id": job_id, "status": "completed", "attempt": 1, "output": output, **details})


def started(job_id: str = "job-1") -> WebhookEvent:
    return WebhookEvent(job_id=job_id, status="started", attempt=1)


@pytest.fixture
async def eventbridge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    async with Receiver(default=PUT) as receiver:
        variables = {
            "AWS_ENDPOINT_URL_EVENTBRIDGE": f"http://127.0.0.1:{receiver.port}",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield receiver


@asynccontextmanager
async def sending(metrics: Metrics, **changes: Any) -> AsyncIterator[EventSender]:
    settings = make_settings(**changes)
    async with (
        open_event_bus(settings, Tracer()) as bus,
        EventSender(settings, metrics.observe_event, event_bus=bus) as sender,
    ):
        yield sender


def entries(receiver: Receiver) -> list[dict[str, Any]]:
    return [entry for received in receiver.events for entry in received.event["Entries"]]


def attempts(metrics: Metrics, result: str, event: str = "job.completed", sink: str = "event_bus") -> float:
    labels = {"sink": sink, "event": event, "result": result}
    return metrics.registry.get_sample_value("transcriptd_event_attempts_total", labels) or 0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


# --- the event --------------------------------------------------------------------------------------------------------


async def test_event_has_the_body_of_the_webhook(eventbridge: Receiver, metrics: Metrics) -> None:
    event = completed(metadata={"für": ["dich", 1, 10**30], "zero": "\x00"})
    async with Receiver() as webhook, sending(metrics) as sender:
        sender.send(webhook.url, started())
        sender.send(webhook.url, event)
        assert await sender.drain(PATIENCE_SECONDS) == 0
    (put,) = (entry for entry in entries(eventbridge) if entry["DetailType"] == "job.completed")
    (posted,) = (received.event for received in webhook.events if received.event["type"] == "job.completed")
    assert json.loads(put.pop("Detail")) == posted
    assert posted["id"] == event.id
    assert put == {
        "EventBusName": "jobs",
        "Source": "transcriptd",
        "DetailType": "job.completed",
        "Time": pytest.approx(event.at.timestamp(), abs=1),
        "Resources": ["arn:aws:s3:::results/transcripts/job-1/manifest.json"],
    }
    assert attempts(metrics, "delivered") == attempts(metrics, "delivered", sink="webhook") == 1
    assert SECRET not in json.dumps([received.event for received in eventbridge.events])


async def test_job_without_a_webhook_has_events_on_the_bus(eventbridge: Receiver, metrics: Metrics) -> None:
    failed = WebhookEvent(
        job_id=None, status="failed", attempt=1, error=EventError(code="invalid_message", message="x")
    )
    async with sending(metrics) as sender:
        assert sender.is_progress_due(None, "job-1")
        sent = sender.send(None, failed)
        assert sent is not None
        assert await sender.secure(sent, PATIENCE_SECONDS)
        assert (sent.status.webhook, sent.status.event_bus) == ("none", "delivered")
    (put,) = entries(eventbridge)
    assert (put["DetailType"], put["Resources"]) == ("job.failed", [])


async def test_half_a_surrogate_pair_does_not_make_the_detail_malformed(
    eventbridge: Receiver, metrics: Metrics
) -> None:
    async with sending(metrics) as sender:
        sender.send(None, completed(metadata={"half": "a\ud83d", "whole": "😀", "text": r"\ud83d"}))
        assert await sender.drain(PATIENCE_SECONDS) == 0
    detail = json.loads(entries(eventbridge)[0]["Detail"])
    assert detail["data"]["metadata"] == {"half": "a�", "whole": "😀", "text": r"\ud83d"}


async def test_largest_event_fits(eventbridge: Receiver, metrics: Metrics) -> None:
    """No event is too large: its parts are bounded (see test_webhook.py), here with characters of three bytes each."""
    largest = completed(
        metadata={"m": "漢" * (16 * 1024 // 6)},
        output=EventOutput(
            bucket="b" * 63,
            prefix="漢" * 340,
            manifest="漢" * 340,
            files={f"format-{number}": "漢" * 340 for number in range(9)},
        ),
        warnings=(TranscriptWarning(code="c" * 99, stage="s" * 99, message="漢" * 5000),) * 50,
        error=EventError(code="c" * 64, message="漢" * 5000, traceback="漢" * 5000),
    )
    async with sending(metrics) as sender:
        sender.send(None, largest)
        assert await sender.drain(PATIENCE_SECONDS) == 0
    (put,) = entries(eventbridge)
    size = 14 + sum(len(text.encode()) for text in (put["Source"], put["DetailType"], put["Detail"], *put["Resources"]))
    assert size < OLDER_MAX_ENTRY_BYTES / 2


@pytest.mark.parametrize(
    ("bus", "region"),
    [
        ("jobs", "eu-west-3"),
        ("arn:aws:events:us-east-2:123456789012:event-bus/jobs", "us-east-2"),
        ("arn:aws-cn:events:cn-north-1:123456789012:event-bus/jobs", "cn-north-1"),
    ],
)
async def test_bus_is_in_the_region_of_its_arn_or_of_the_job_queue(
    eventbridge: Receiver, metrics: Metrics, bus: str, region: str
) -> None:
    queue = "https://sqs.eu-west-3.amazonaws.com/123456789012/jobs"
    dlq = "https://sqs.eu-west-3.amazonaws.com/123456789012/dead"
    async with sending(metrics, event_bus=bus, queue_url=queue, dlq_url=dlq) as sender:
        sender.send(None, completed())
        assert await sender.drain(PATIENCE_SECONDS) == 0
    (received,) = eventbridge.events
    assert f"/{region}/events/aws4_request" in received.headers["authorization"]
    (put,) = entries(eventbridge)
    assert put["EventBusName"] == bus
    assert put["Resources"][0].startswith("arn:aws-cn:s3" if region == "cn-north-1" else "arn:aws:s3")


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (refusal("InternalFailure"), "InternalFailure: said EventBridge"),
        (refusal("ThrottlingException"), "ThrottlingException"),
        (refusal("AccessDeniedException"), "AccessDeniedException"),
        (answer({"FailedEntryCount": 0, "Entries": []}), "does not say"),
        (answer({}), "does not say"),
        (answer({"FailedEntryCount": 0, "Entries": "?"}), ""),
        (THROTTLED, "Rate exceeded"),
        (DENIED, "events:PutEvents"),
        (TOO_LARGE, "over the limit"),
        (Behaviour(status=503), "503"),
        (NOT_AWS, "HTTP 200"),
        (Behaviour(drop=True), ""),
    ],
    ids="internal partial-throttle partial-denied no-entries nothing garbage throttled denied large 503 proxy dropped".split(),
)
async def test_event_is_tried_again_and_the_outage_is_logged_once(
    eventbridge: Receiver, metrics: Metrics, caplog: pytest.LogCaptureFixture, trouble: Behaviour, words: str
) -> None:
    eventbridge.behaviours.append(trouble)
    async with sending(metrics) as sender:
        sender.send(None, completed())
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert len(eventbridge.events) == 2
    assert (attempts(metrics, "retried"), attempts(metrics, "delivered")) == (1, 1)
    down, up = (record for record in caplog.records if record.name == "transcriptd.event_bus")
    assert (down.levelno, down.message, up.message) == (logging.ERROR, "event bus failing", "event bus working again")
    assert words in vars(down)["error"]
    assert vars(down)["error"]


async def test_unreachable_endpoint_fails_the_attempt(eventbridge: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", "http://127.0.0.1:1")
    async with open_event_bus(make_settings(), Tracer()) as bus:
        with pytest.raises(DeliveryFailed, match=re.escape("127.0.0.1:1")) as failure:
            await bus.post(EVENT_BUS_URL, completed())
    assert failure.value.retryable


async def test_hung_endpoint_fails_the_attempt(eventbridge: Receiver) -> None:
    eventbridge.default = Behaviour(hold=asyncio.Event())
    async with open_event_bus(make_settings(webhook_timeout_seconds=0.2), Tracer()) as bus:
        with pytest.raises(DeliveryFailed) as failure:
            await bus.post(EVENT_BUS_URL, completed())
    assert failure.value.retryable


async def test_malformed_detail_is_not_tried_again(
    eventbridge: Receiver, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    eventbridge.default = refusal("MalformedDetail")
    async with sending(metrics) as sender:
        sent = sender.send(None, completed())
        assert await sender.secure(sent, PATIENCE_SECONDS), "keeping the message would not help"
    assert len(eventbridge.events) == 1
    assert attempts(metrics, "refused") == 1
    (line,) = (record for record in caplog.records if record.message == "event refused")
    assert (line.levelno, vars(line)["sink"], vars(line)["event_type"]) == (logging.ERROR, "event_bus", "job.completed")


async def test_hung_bus_delays_neither_webhooks_nor_other_jobs(eventbridge: Receiver, metrics: Metrics) -> None:
    eventbridge.behaviours.append(Behaviour(hold=asyncio.Event()))
    async with Receiver() as webhook, sending(metrics, webhook_timeout_seconds=3600) as sender:
        sender.send(webhook.url, completed("job-1"))
        await eventbridge.wait_for(1)
        assert await sender.secure(sender.send(webhook.url, completed("job-2")), PATIENCE_SECONDS)
        await webhook.wait_for(2)
        assert await sender.drain(0) == 1, "only the event of job-1 is not put"
    assert attempts(metrics, "delivered") == 1


# --- the outbox -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def with_outbox(
    aws: EmbeddedAws, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> AsyncIterator[tuple[EventSender, OutboxWorker]]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", aws.endpoint_url)
    monkeypatch.setenv("AWS_REGION", aws.region)
    monkeypatch.setenv("AWS_DEFAULT_REGION", aws.region)
    settings = make_settings(
        outbox_url=aws.outbox_url,
        outbox_retry_schedule_seconds=tuple(float(second) for second in range(1, 200)),
        **changes,
    )
    async with (
        open_event_bus(settings, Tracer()) as bus,
        open_outbox(settings, metrics) as outbox,
        EventSender(settings, metrics.observe_event, event_bus=bus, outbox=outbox, record=no_record) as sender,
    ):
        worker = OutboxWorker(settings, outbox, sender.attempt, metrics, no_record, never_known)
        running = asyncio.create_task(worker.run())
        try:
            yield sender, worker
        finally:
            await worker.close()
            await running


async def no_record(url: str, event: WebhookEvent, result: str, status: int | None) -> None:
    raise AssertionError("webhook.json is about webhooks")


async def never_known(url: str, event: WebhookEvent) -> bool:
    raise AssertionError("webhook.json is about webhooks")


async def test_outbox_keeps_a_final_event_until_the_bus_takes_it(
    eventbridge: Receiver, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventbridge.default = DENIED
    with EmbeddedAws() as aws:
        async with with_outbox(aws, metrics, monkeypatch) as (sender, _):
            sent = sender.send(None, completed())
            assert await sender.secure(sent, PATIENCE_SECONDS)
            assert sent is not None
            assert sent.status.event_bus == "stored"
            tried = len(eventbridge.events)
            eventbridge.default = PUT
            await eventbridge.wait_for(tried + 1)
    ids = {json.loads(entry["Detail"])["id"] for entry in entries(eventbridge)}
    assert ids == {completed_id(sent)}

    def outbox(result: str) -> float | None:
        labels = {"sink": "event_bus", "result": result}
        return metrics.registry.get_sample_value("transcriptd_outbox_events_total", labels)

    assert (outbox("stored"), outbox("delivered")) == (1, 1)


def completed_id(sent: Any) -> str:
    (delivery,) = sent.deliveries
    return str(delivery.event.id)


async def test_daemon_without_a_bus_leaves_the_event_to_others() -> None:
    async with EventSender(make_settings(event_bus=None)) as sender:
        with pytest.raises(DeliveryFailed, match="TRANSCRIPTD_EVENT_BUS") as failure:
            await sender.attempt(EVENT_BUS_URL, completed())
    assert failure.value.retryable


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bus", ["", "a b", "arn:aws:sns:eu-central-1:123456789012:jobs", "jobs/one", "eventbridge:"])
def test_other_names_are_rejected(bus: str) -> None:
    with pytest.raises(ValueError, match="event_bus"):
        make_settings(event_bus=bus)


def test_outbox_of_the_bus_needs_the_secret_of_the_seals() -> None:
    with pytest.raises(ValueError, match="WEBHOOK_SECRET"):
        make_settings(webhook_secret=(), outbox_url="https://sqs.test/outbox")
    assert make_settings(webhook_secret=()).event_bus == "jobs"


def test_bus_needs_a_name() -> None:
    with pytest.raises(ValueError, match="event_bus"):
        EventBus(None, make_settings(event_bus=None))  # type: ignore[arg-type]  # no client is needed
