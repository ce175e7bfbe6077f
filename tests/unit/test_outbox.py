"""The webhook outbox: which events it holds, when it retries them, and how they end."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from bench.waiting import PATIENCE_SECONDS
from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.demo.aws import EmbeddedAws
from daemon.errors import QueueUnavailable, StorageUnavailable
from daemon.schema.transcript import TranscriptWarning
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.tracecontext import TraceContext
from daemon.webhooks import outbox as outbox_module
from daemon.webhooks.events import EventError, EventOutput, EventProgress, WebhookEvent
from daemon.webhooks.outbox import DELIVERIES_AT_ONCE, Outbox, OutboxMessage, OutboxWorker, open_outbox
from daemon.webhooks.outbox_entry import Entry, next_due
from daemon.webhooks.seal import Seal
from daemon.webhooks.sender import EventSender
from tests.support.builders import some_settings
from tests.support.time.virtual import in_virtual_time, virtual_time
from tests.support.webhooks.receiver import Behaviour, Receiver

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
HOUR = 3600.0
SCHEDULE = (5.0, 300.0, 1800.0, 2 * HOUR, 24 * HOUR)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
DOWN = Behaviour(status=503)


def make_settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "outbox_url": "http://localhost/outbox",
        "webhook_hosts": ("127.0.0.1",),
        "webhook_secret": (SecretStr(SECRET),),
        "webhook_allow_http": True,
        "webhook_timeout_seconds": PATIENCE_SECONDS,
        "receive_wait_time_seconds": 1,
    }
    return some_settings(**{**values, **changes})


def final(job_id: str = "job-1", **details: Any) -> WebhookEvent:
    output = EventOutput(bucket="results", prefix=f"transcripts/{job_id}/")
    return WebhookEvent(**{"job_id": job_id, "status": "completed", "attempt": 1, "output": output, **details})


def entry(url: str, event: WebhookEvent | None = None, *, age: float = 0, early: float = 0) -> Entry:
    """Return an entry first attempted `age` seconds ago and due in `early` seconds."""
    now = datetime.now(UTC)
    return Entry(
        url=url,
        event=event or final(),
        first_attempt_at=now - timedelta(seconds=age),
        not_before=now + timedelta(seconds=early),
    )


# --- schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elapsed", "wanted", "least", "most"),
    [
        (0, 0, 5, 5.5),
        (5.2, 0, 294.8, 324.3),
        (300, 0, 1500, 1560),  # jitter is capped
        (2 * HOUR, 0, 22 * HOUR, 22 * HOUR + 60),
        (0, 60, 60, 60),  # requested by the receiver
        (0, -60, 5, 5.5),
        (0, float("inf"), 24 * HOUR, 24 * HOUR),  # requested by the receiver, up to the last retry
    ],
)
def test_next_retry_is_the_first_one_in_the_future(elapsed: float, wanted: float, least: float, most: float) -> None:
    for _ in range(50):
        due = next_due(SCHEDULE, NOW - timedelta(seconds=elapsed), NOW, wanted)
        assert due is not None
        assert least - 0.001 <= (due - NOW).total_seconds() <= most + 0.001


@pytest.mark.parametrize("wanted", [0, 3600])
def test_no_retry_after_the_last_one(wanted: float) -> None:
    assert next_due(SCHEDULE, NOW - timedelta(hours=24), NOW, wanted) is None


def test_default_schedule_ends_after_a_day() -> None:
    schedule = make_settings().outbox_retry_schedule_seconds
    assert (len(schedule), schedule[0], schedule[-1]) == (9, 5, 24 * HOUR)


@pytest.mark.parametrize("value", ["", "5,5", "0,1", "9,5", "-1", "soon"])
def test_schedule_that_does_not_rise_is_rejected(value: str) -> None:
    with pytest.raises(ValueError, match="outbox_retry_schedule_seconds"):
        make_settings(outbox_retry_schedule_seconds=value)


@pytest.mark.parametrize("name", ["queue_url", "dlq_url"])
def test_outbox_must_be_a_separate_queue(name: str) -> None:
    with pytest.raises(ValueError, match="outbox_url must differ"):
        make_settings(outbox_url=getattr(make_settings(), name)[0])


# --- message ------------------------------------------------------------------------------------------------------


def test_event_round_trips() -> None:
    warnings = tuple(TranscriptWarning(code=f"c{number}", stage="asr", message="m" * 500) for number in range(15))
    before = final(
        input={"bucket": "media", "key": "ä/\x00.mp4", "version_id": "v"},
        metadata={"für": ["dich", 1, 0.1, None, 10**30], "half": "\ud83d"},
        durations_seconds={"asr": 1.23456},
        warnings=warnings,
        progress=EventProgress(stage="asr", fraction=0.25, overall_fraction=0.2, remaining_seconds=9.5),
        error=EventError(code="c", message="\x00" * 5000, traceback="漢" * 5000),
    )
    stored = entry("https://hooks.example.com/?token=1", before)
    after = Entry.parse(stored.body())
    assert after == stored
    assert (after.event.id, after.event.at, after.event.body()) == (before.id, before.at, before.body())
    assert stored.body().isascii()
    assert len(stored.body()) < 64 * 1024
    assert set(json.loads(stored.body())) == {"version", "url", "event", "first_attempt_at", "not_before"}


async def test_trace_is_a_message_attribute() -> None:
    sqs = FakeSqs()
    box = Outbox(sqs, make_settings(), Metrics())  # type: ignore[arg-type]
    traced = final(trace=TraceContext("1" * 32, "2" * 16, 1))
    await box.store("https://hooks.example.com/", traced, NOW)
    sent = sqs.calls[0][1]
    assert "1" * 32 not in sent["MessageBody"]
    assert sent["MessageAttributes"]["traceparent"]["StringValue"] == f"00-{'1' * 32}-{'2' * 16}-01"
    assert Entry.parse(sent["MessageBody"], traced.trace).event == traced
    assert Entry.parse(sent["MessageBody"]).event == traced.model_copy(update={"trace": None})


def broken(**changes: Any) -> str:
    return json.dumps({**json.loads(entry("https://hooks.example.com/").body()), **changes})


UNREADABLE = [
    "",
    "no JSON",
    "[]",
    "[" * 100_000,
    broken(version=2),
    broken(more=1),
    broken(not_before="2030-01-01T00:00:00"),  # no time zone
    broken(event={"id": "msg_1"}),
]


@pytest.mark.parametrize("body", UNREADABLE, ids=range(len(UNREADABLE)))
def test_invalid_entry_is_a_value_error(body: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's, json's or ours
        Entry.parse(body)


# --- SQS calls ----------------------------------------------------------------------------------------------------


class FakeSqs:
    """An SQS client that records its calls and returns nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def call(**arguments: Any) -> dict[str, Any]:
            self.calls.append((name, arguments))
            return {}

        return call


def waiting(body: str = "", *, held_seconds: float = 0) -> OutboxMessage:
    received_at = asyncio.get_running_loop().time() - held_seconds
    return OutboxMessage(receipt_handle="r", body=body, receive_count=1, received_at=received_at, sealed=True)


@pytest.mark.parametrize(
    ("age", "wanted", "delay"),
    [(0, 0, 6), (10, 0, 319), (400, 0, 900), (25 * HOUR, 0, 0), (0, 100, 100)],
)
async def test_first_delay_is_at_most_the_maximum_of_sqs(age: float, wanted: float, delay: int) -> None:
    sqs, settings = FakeSqs(), make_settings(outbox_retry_schedule_seconds=SCHEDULE)
    box = Outbox(sqs, settings, Metrics())  # type: ignore[arg-type]
    await box.store("https://hooks.example.com/", final(), datetime.now(UTC) - timedelta(seconds=age), wanted)
    ((name, arguments),) = sqs.calls
    assert name == "send_message"
    assert delay - 30 <= arguments["DelaySeconds"] <= delay
    assert "whsec" not in arguments["MessageBody"]


@pytest.mark.parametrize(
    ("seconds", "held_seconds", "hidden"),
    [
        (0.2, 0, 1),
        (-5, 0, 0),
        (20 * HOUR, 0, MAX_LEASE_SECONDS - 60),
        (20 * HOUR, 600, MAX_LEASE_SECONDS - 660),
        (1, MAX_LEASE_SECONDS + 1, 0),
    ],
)
@in_virtual_time
async def test_message_is_hidden_at_most_12_hours_from_its_receive(
    seconds: float, held_seconds: float, hidden: float
) -> None:
    sqs = FakeSqs()
    box = Outbox(sqs, make_settings(), Metrics(), virtual_time())  # type: ignore[arg-type]
    await box.defer(waiting(held_seconds=held_seconds), seconds)
    assert sqs.calls[0][1]["VisibilityTimeout"] == hidden


async def test_unreachable_queue_is_queue_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    set_aws(monkeypatch, "http://127.0.0.1:9")
    async with open_outbox(make_settings(), Metrics()) as box:
        with pytest.raises(QueueUnavailable, match="SendMessage on the outbox"):
            await box.store("https://hooks.example.com/", final(), datetime.now(UTC))
        with pytest.raises(QueueUnavailable, match="ReceiveMessage"):
            await box.receive(1)


# --- the worker, on a queue with injectable faults -----------------------------------------------------------------


class FakeOutbox(Outbox):
    """A queue in memory. Deferred messages stay away; `failing` names calls that raise QueueUnavailable."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__(None, settings, metrics)  # type: ignore[arg-type]
        self.visible: list[str] = []
        self.forged: list[OutboxMessage] = []
        self.deferrals: list[float] = []
        self.deleted: list[str] = []
        self.failing: set[str] = set()
        self.receives = 0
        self.changed = asyncio.Condition()
        self.hold: asyncio.Event | None = None  # if present, a receive waits for it before returning messages

    async def add(self, *bodies: str) -> None:
        self.visible += bodies
        await self._tell()

    async def receive(self, max_messages: int) -> list[OutboxMessage]:
        self.receives += 1
        await self._tell()
        self._fail("receive")
        if self.hold is not None:
            await self.hold.wait()
        elif not self.visible:
            await asyncio.sleep(0.05)
        taken, self.visible = self.visible[:max_messages], self.visible[max_messages:]
        forged, self.forged = self.forged, []
        return [*forged, *(waiting(body) for body in taken)]

    async def defer(self, message: OutboxMessage, seconds: float) -> None:
        self._fail("defer")
        self.deferrals.append(seconds)
        await self._tell()

    async def delete(self, message: OutboxMessage) -> None:
        self._fail("delete")
        self.deleted.append(message.body)
        await self._tell()

    async def until(self, settled: int) -> None:
        """Wait until the given number of messages were deferred or deleted."""
        async with asyncio.timeout(PATIENCE_SECONDS), self.changed:
            await self.changed.wait_for(lambda: len(self.deleted) + len(self.deferrals) >= settled)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def _fail(self, name: str) -> None:
        if name in self.failing:
            raise QueueUnavailable(f"{name} is switched off")


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"transcriptd_{name}_total", labels) or 0


class Bench:
    """A worker on a fake queue with the real sender, and the recorded results."""

    def __init__(self, settings: Settings) -> None:
        self.metrics = Metrics()
        self.outbox = FakeOutbox(settings, self.metrics)
        self.endings: list[tuple[str, str, int | None]] = []
        self.record_error: Exception | None = None
        self.note = self.record  # the method that the worker calls

    async def record(self, url: str, event: WebhookEvent, result: str, status: int | None) -> None:
        if self.record_error is not None:
            raise self.record_error
        self.endings.append((event.id, result, status))

    def count(self, result: str, sink: str = "webhook") -> float:
        return count(self.metrics, "outbox_events", sink=sink, result=result)

    def attempts(self, result: str) -> float:
        return count(self.metrics, "event_attempts", sink="webhook", event="job.completed", result=result)


@asynccontextmanager
async def in_background(worker: OutboxWorker) -> AsyncIterator[OutboxWorker]:
    """Run the worker in the background until it is closed, as the daemon does."""
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        await worker.close()
        task.cancel()
        await asyncio.wait((task,))


@asynccontextmanager
async def working(**changes: Any) -> AsyncIterator[Bench]:
    settings = make_settings(**changes)
    bench = Bench(settings)
    async with (
        EventSender(settings) as sender,
        in_background(OutboxWorker(settings, bench.outbox, sender.attempt, bench.metrics, lambda *it: bench.note(*it))),
    ):
        yield bench


async def test_due_event_is_delivered_signed_recorded_and_deleted() -> None:
    async with Receiver() as receiver, working() as bench:
        one = entry(receiver.url, age=600)
        await bench.outbox.add(one.body())
        await bench.outbox.until(1)
    (received,) = receiver.events
    assert received.headers["webhook-id"] == one.event.id
    assert Webhook(SECRET).verify(received.body, received.headers)["type"] == "job.completed"
    assert bench.endings == [(one.event.id, "delivered", 204)]
    assert bench.outbox.deleted == [one.body()]
    assert (bench.count("delivered"), bench.attempts("delivered")) == (1, 1)


@pytest.mark.parametrize("answer", [Behaviour(), Behaviour(status=410)], ids=["delivered", "gone"])
async def test_result_is_recorded_before_the_event_leaves_the_queue(answer: Behaviour) -> None:
    """A daemon that dies between the two delivers again. In the other order the result would be lost."""
    async with Receiver(answer) as receiver, working() as bench:
        deleted: list[list[str]] = []
        record = bench.record

        async def note(url: str, event: WebhookEvent, result: str, status: int | None) -> None:
            await asyncio.sleep(0.01)  # a slow store
            deleted.append(list(bench.outbox.deleted))
            await record(url, event, result, status)

        bench.note = note
        await bench.outbox.add(entry(receiver.url).body())
        await bench.outbox.until(1)
    assert deleted == [[]]
    assert len(bench.outbox.deleted) == len(bench.endings) == 1


@pytest.mark.parametrize(
    "answer",
    [
        DOWN,
        Behaviour(status=404),
        Behaviour(drop=True),
        Behaviour(hold=asyncio.Event()),
        Behaviour.redirect("http://127.0.0.1:9/"),
    ],
    ids=["503", "404", "dropped", "slow", "redirect"],
)
async def test_failed_attempt_waits_for_its_next_retry(answer: Behaviour) -> None:
    async with Receiver(default=answer) as receiver, working(webhook_timeout_seconds=0.5) as bench:
        await bench.outbox.add(entry(receiver.url, age=600).body())
        await bench.outbox.until(1)
    assert len(receiver.events) == 1
    assert 1200 - PATIENCE_SECONDS < bench.outbox.deferrals[0] <= 1260, "30 min after the first attempt"
    assert (bench.outbox.deleted, bench.endings) == ([], [])
    assert (bench.count("deferred"), bench.attempts("retried")) == (1, 1)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(status: int) -> None:
    later = Behaviour(status=status, headers={"Retry-After": "7200"})
    async with Receiver(default=later) as receiver, working() as bench:
        await bench.outbox.add(entry(receiver.url, age=600).body())
        await bench.outbox.until(1)
    assert bench.outbox.deferrals[0] == pytest.approx(7200, abs=1)


async def test_gone_ends_the_retries() -> None:
    async with Receiver(default=Behaviour(status=410)) as receiver, working() as bench:
        await bench.outbox.add((one := entry(receiver.url)).body())
        await bench.outbox.until(1)
    assert bench.endings == [(one.event.id, "gone", 410)]
    assert bench.outbox.deleted == [one.body()]
    assert (bench.count("gone"), bench.attempts("failed")) == (1, 1)


async def test_a_day_of_failures_ends_the_retries(caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver(default=DOWN) as receiver, working() as bench:
        await bench.outbox.add((one := entry(receiver.url + "?token=hidden", age=25 * HOUR)).body())
        await bench.outbox.until(1)
    assert len(receiver.events) == 1, "the last attempt is made however late"
    assert bench.endings == [(one.event.id, "exhausted", 503)]
    assert bench.outbox.deleted == [one.body()]
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (line.message, vars(line)["event_result"], vars(line)["status"]) == ("event given up", "exhausted", 503)
    assert "hidden" not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize(
    ("changes", "swap"),
    [
        ({"webhook_hosts": ("other.example.com",)}, ("", "")),  # no longer allowed
        ({"webhook_allow_http": False}, ("", "")),
        ({"webhook_allow_http": False}, ("http:", "https:")),  # an allowed host with a private address
        ({"webhook_hosts": ("localhost",), "webhook_allow_http": False}, ("http://127.0.0.1", "https://localhost")),
    ],
    ids=["host", "http", "address", "name"],
)
async def test_forbidden_address_is_not_called(changes: dict[str, Any], swap: tuple[str, str]) -> None:
    async with Receiver() as receiver, working(**changes) as bench:
        await bench.outbox.add((one := entry(receiver.url.replace(*swap))).body())
        await bench.outbox.until(1)
    assert receiver.events == []
    assert bench.endings == [(one.event.id, "refused", None)]
    assert bench.outbox.deleted == [one.body()]
    assert (bench.count("refused"), bench.attempts("refused")) == (1, 1)


async def test_early_message_is_deferred_without_an_attempt() -> None:
    async with Receiver() as receiver, working() as bench:
        await bench.outbox.add(entry(receiver.url, early=900).body())
        await bench.outbox.until(1)
    assert receiver.events == []
    assert 900 - PATIENCE_SECONDS < bench.outbox.deferrals[0] <= 900
    assert bench.outbox.deleted == []


async def test_unknown_message_is_kept_for_another_release(caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver() as receiver, working() as bench:
        await bench.outbox.add(broken(version=2), (one := entry(receiver.url)).body())
        await bench.outbox.until(2)
    assert bench.outbox.deferrals == [3600]
    assert bench.outbox.deleted == [one.body()]
    assert bench.count("malformed", "unknown") == 1
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "outbox message not understood"
    ]


@pytest.mark.parametrize("error", [StorageUnavailable("switched off"), KeyError("internal error")], ids=repr)
async def test_failure_to_record_does_not_cause_a_second_delivery(error: Exception) -> None:
    async with Receiver() as receiver, working() as bench:
        bench.record_error = error
        await bench.outbox.add(entry(receiver.url).body())
        await bench.outbox.until(1)
    assert len(receiver.events) == 1
    assert len(bench.outbox.deleted) == 1


async def test_internal_error_leaves_the_event_on_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    settings = make_settings()
    bench = Bench(settings)

    async def attempt(url: str, event: WebhookEvent) -> int:
        raise ZeroDivisionError

    async with in_background(OutboxWorker(settings, bench.outbox, attempt, bench.metrics)):
        await bench.outbox.add(entry("http://127.0.0.1/").body())
        async with asyncio.timeout(PATIENCE_SECONDS), bench.outbox.changed:
            await bench.outbox.changed.wait_for(lambda: bench.outbox.receives >= 3)
    assert bench.outbox.deleted == []
    assert [record.message for record in caplog.records if record.exc_info] == ["outbox event failed unexpectedly"]


async def test_outage_is_logged_once_and_survived(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BACKOFF_BASE_SECONDS", 0.05)
    async with Receiver() as receiver, working(queue_backoff_max_seconds=0.05) as bench:
        bench.outbox.failing = {"receive"}
        await bench.outbox.add(entry(receiver.url).body())
        async with asyncio.timeout(PATIENCE_SECONDS), bench.outbox.changed:
            await bench.outbox.changed.wait_for(lambda: bench.outbox.receives >= 10)
        bench.outbox.failing = set()
        await bench.outbox.until(1)
    assert len(receiver.events) == 1
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["outbox unavailable", "outbox available again"]


@pytest.mark.parametrize("call", ["defer", "delete"])
async def test_failed_call_leaves_the_event_and_the_worker_continues(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = DOWN if call == "defer" else Behaviour()
    async with Receiver(default=answer) as receiver, working() as bench:
        bench.outbox.failing = {call}
        await bench.outbox.add(entry(receiver.url).body())
        await receiver.wait_for(1)
        async with asyncio.timeout(PATIENCE_SECONDS), bench.outbox.changed:
            after = bench.outbox.receives
            await bench.outbox.changed.wait_for(lambda: bench.outbox.receives >= after + 3)
        bench.outbox.failing = set()
        await bench.outbox.add(entry(receiver.url).body())
        await bench.outbox.until(1)
    assert len(receiver.events) == 2
    messages = [record.message for record in caplog.records if record.message.startswith("outbox calls")]
    assert messages == ["outbox calls failing", "outbox calls working again"], "logged once, not once per attempt"


async def test_concurrency_is_bounded_and_a_slow_receiver_blocks_no_other() -> None:
    running, most, release = 0, 0, asyncio.Event()
    settings = make_settings()
    bench = Bench(settings)

    async def attempt(url: str, event: WebhookEvent) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if event.job_id == "slow":
            await release.wait()
        await asyncio.sleep(0.01)
        running -= 1
        return 204

    async with in_background(OutboxWorker(settings, bench.outbox, attempt, bench.metrics)):
        url = "http://127.0.0.1/"
        await bench.outbox.add(entry(url, final("slow")).body(), *[entry(url).body() for _ in range(40)])
        await bench.outbox.until(40)
        release.set()
        await bench.outbox.until(41)
    assert most == DELIVERIES_AT_ONCE


async def test_message_received_after_the_stop_is_released_without_an_attempt() -> None:
    settings = make_settings()
    async with Receiver() as receiver, EventSender(settings) as sender:
        bench = Bench(settings)
        bench.outbox.hold = asyncio.Event()
        async with in_background(OutboxWorker(settings, bench.outbox, sender.attempt, bench.metrics)) as worker:
            async with asyncio.timeout(PATIENCE_SECONDS), bench.outbox.changed:
                await bench.outbox.changed.wait_for(lambda: bench.outbox.receives == 1)
            await bench.outbox.add(entry(receiver.url).body())
            worker.stop()
            bench.outbox.hold.set()
    assert receiver.events == []
    assert bench.outbox.deferrals == [0]
    assert bench.outbox.receives == 1


async def test_attempt_in_progress_at_the_stop_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "STOP_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    settings, answer = make_settings(), asyncio.Event()
    bench = Bench(settings)
    async with (
        Receiver(Behaviour(hold=answer)) as receiver,
        EventSender(settings) as sender,
        in_background(OutboxWorker(settings, bench.outbox, sender.attempt, bench.metrics)) as worker,
    ):
        await bench.outbox.add(entry(receiver.url).body())
        await receiver.wait_for(1)
        worker.stop()
        asyncio.get_running_loop().call_later(0.1, answer.set)
    assert len(bench.outbox.deleted) == 1


async def test_attempt_in_progress_does_not_delay_the_stop_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "STOP_TIMEOUT_SECONDS", 0.0)
    settings = make_settings(webhook_timeout_seconds=3600)
    bench = Bench(settings)
    async with (
        Receiver(Behaviour(hold=asyncio.Event())) as receiver,
        EventSender(settings) as sender,
        asyncio.timeout(PATIENCE_SECONDS),
        in_background(OutboxWorker(settings, bench.outbox, sender.attempt, bench.metrics)),
    ):
        await bench.outbox.add(entry(receiver.url).body())
        await receiver.wait_for(1)
    assert (bench.outbox.deleted, bench.outbox.deferrals) == ([], [])


# --- on an emulated SQS -------------------------------------------------------------------------------------------


def set_aws(monkeypatch: pytest.MonkeyPatch, endpoint_url: str) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "embedded",
        "AWS_SECRET_ACCESS_KEY": "embedded",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedAws]:
    with EmbeddedAws() as aws:
        set_aws(monkeypatch, aws.endpoint_url)
        yield aws


def depth(aws: EmbeddedAws) -> int:
    """Return the number of messages: visible, in flight and delayed."""
    names: Any = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]
    found: Any = aws.sqs.get_queue_attributes(QueueUrl=aws.outbox_url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


async def test_from_the_first_attempts_through_the_queue_to_the_receiver(aws: EmbeddedAws) -> None:
    settings = make_settings(
        outbox_url=aws.outbox_url,
        webhook_attempts=2,
        webhook_backoff_min_seconds=0.01,
        webhook_backoff_max_seconds=0.02,
        outbox_retry_schedule_seconds=(1, *range(3, 120, 2)),  # even after a late attempt, the next one is soon
    )
    metrics, endings, delivered = Metrics(), [], asyncio.Event()

    async def record(url: str, event: WebhookEvent, result: str, status: int | None) -> None:
        endings.append((event.id, result, status))
        delivered.set()

    one = final(trace=TraceContext("1" * 32, "2" * 16, 1, "vendor=x"))
    async with (
        Receiver(DOWN, DOWN, DOWN) as receiver,
        open_outbox(settings, metrics) as box,
        EventSender(settings, metrics.observe_event, outbox=box, record=record) as sender,
        in_background(OutboxWorker(settings, box, sender.attempt, metrics, record)),
    ):
        sender.send(receiver.url, one)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await delivered.wait()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await asyncio.to_thread(depth, aws):  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.05)
    assert len(receiver.events) == 4
    assert {received.headers["webhook-id"] for received in receiver.events} == {one.id}
    assert len({received.body for received in receiver.events}) == 1
    trace = {(received.headers["traceparent"], received.headers["tracestate"]) for received in receiver.events}
    assert trace == {(f"00-{'1' * 32}-{'2' * 16}-01", "vendor=x")}
    assert endings == [(one.id, "delivered", 204)]
    assert (
        count(metrics, "outbox_events", sink="webhook", result="stored"),
        count(metrics, "outbox_events", sink="webhook", result="deferred"),
    ) == (
        1,
        1,
    )


# --- the seal -----------------------------------------------------------------------------------------------------


async def sent_to(settings: Settings) -> dict[str, Any]:
    """Return what storing an event sends to SQS."""
    sqs = FakeSqs()
    box = Outbox(sqs, settings, Metrics())  # type: ignore[arg-type]
    await box.store("https://hooks.example.com/", final(), NOW)
    return sqs.calls[0][1]


OTHER = "whsec_" + "B" * 32


async def test_seal_is_that_of_one_of_the_secrets() -> None:
    sent = await sent_to(make_settings(webhook_secret=(SecretStr(SECRET), SecretStr(OTHER))))
    body, attributes = sent["MessageBody"], sent["MessageAttributes"]
    assert Seal([SecretStr(SECRET), SecretStr(OTHER)]).fits(body, attributes), "after the next rotation"
    assert not Seal([SecretStr(SECRET)]).fits(body, attributes)
    assert not Seal([SecretStr(OTHER)]).fits(body.replace("hooks", "evil"), attributes)
    assert not Seal([SecretStr(OTHER)]).fits(body, {})
    assert not Seal([SecretStr(OTHER)]).fits(body, {"seal": {"StringValue": "ü"}})
    assert not Seal([]).fits(body, {"seal": {"StringValue": ""}})


async def test_message_without_a_seal_is_neither_sent_nor_deleted(caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver() as receiver, working() as bench:
        forged = replace(waiting(entry(receiver.url).body()), sealed=False)
        bench.outbox.forged = [forged]
        await bench.outbox.until(1)
    assert receiver.events == []
    assert (bench.outbox.deferrals, bench.outbox.deleted, bench.endings) == ([3600], [], [])
    assert bench.count("untrusted", "unknown") == 1
    assert "outbox message not trusted" in caplog.messages


@pytest.mark.parametrize(
    "place", [EventOutput(bucket="theirs", prefix="transcripts/a/"), EventOutput(bucket="results", prefix="other/a/")]
)
async def test_nothing_is_recorded_where_jobs_may_not_write(place: EventOutput) -> None:
    async with Receiver() as receiver, working() as bench:
        await bench.outbox.add(entry(receiver.url, final(output=place)).body())
        await bench.outbox.until(1)
    assert len(receiver.events) == 1
    assert bench.endings == []
