"""The webhook sender against a real HTTP receiver."""

import asyncio
import itertools
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from daemon import webhook
from daemon.addresses import is_public
from daemon.config import Settings
from daemon.errors import ConfigError, QueueUnavailable, StorageUnavailable
from daemon.events import Event, EventError, EventOutput, EventProgress, Status
from daemon.job import Job, parse_job
from daemon.metrics import Exemplar, Metrics
from daemon.outbox import Outbox
from daemon.transcript import TranscriptWarning
from daemon.webhook import WebhookSender
from tests.receiver import OK, Behaviour, ReceivedEvent, Receiver

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_" + "A" * 44
URL = "https://hooks.example.com/transcripts"

BAD = Behaviour(status=500)


def make_settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "queue_url": "http://localhost/queue",
        "dlq_url": "http://localhost/dlq",
        "output_bucket": "results",
        "webhook_url": URL,
        "webhook_secret": (SecretStr(SECRET),),
        "webhook_allow_http": True,
        "webhook_backoff_min_seconds": 0.01,
        "webhook_backoff_max_seconds": 0.05,
        "webhook_timeout_seconds": 2,
        "webhook_progress_seconds": 0.0001,
    }
    return Settings(**{**values, **changes})


def event(status: Status, job_id: str = "job-1", **details: Any) -> Event:
    return Event(job_id=job_id, status=status, attempt=1, **details)


class Observed:
    """Records what the sender reports for metrics."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []
        self._called = asyncio.Event()

    def __call__(self, event_type: str, result: str, seconds: float, exemplar: Exemplar = None) -> None:
        self.calls.append((event_type, result, seconds))
        self._called.set()

    @property
    def results(self) -> list[str]:
        return [result for _, result, _ in self.calls]

    async def wait_for(self, result: str) -> None:
        async with asyncio.timeout(20):
            while result not in self.results:
                self._called.clear()
                await self._called.wait()


@pytest.fixture
def observed() -> Observed:
    return Observed()


async def deliver(settings: Settings, url: str, *events: Event, observed: Observed | None = None) -> None:
    """Send the events and wait until none is left."""
    async with WebhookSender(settings, observed) as sender:
        for one in events:
            sender.send(url, one)
        assert await sender.drain(5) == 0


def verify(received: ReceivedEvent, secret: str = SECRET) -> Any:
    return Webhook(secret).verify(received.body, received.headers)


# --- payload and signature ----------------------------------------------------------------------------------------


def job() -> Job:
    body = {"job_id": "job-1", "input": {"bucket": "media", "key": "a.mp4"}, "metadata": {"für": ["dich", 1]}}
    return parse_job(json.dumps(body), make_settings())


async def test_a_completed_event_arrives_whole_and_signed() -> None:
    done = Event.of(
        job(),
        "completed",
        attempt=2,
        output=EventOutput(
            bucket="results",
            prefix="transcripts/job-1/",
            manifest="transcripts/job-1/manifest.json",
            files={"json": "transcripts/job-1/transcript.json"},
        ),
        durations_seconds={"asr": 1.23456},
        warnings=(TranscriptWarning(code="alignment_fallback", stage="align", message="no model for xx"),),
    )
    async with Receiver() as receiver:
        await deliver(make_settings(), receiver.url, done)
    (received,) = receiver.events
    assert verify(received) == {
        "type": "job.completed",
        "timestamp": done.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": {
            "job_id": "job-1",
            "status": "completed",
            "attempt": 2,
            "input": {"bucket": "media", "key": "a.mp4", "version_id": None},
            "output": {
                "bucket": "results",
                "prefix": "transcripts/job-1/",
                "manifest": "transcripts/job-1/manifest.json",
                "files": {"json": "transcripts/job-1/transcript.json"},
            },
            "metadata": {"für": ["dich", 1]},
            "durations_seconds": {"asr": 1.235},
            "warnings": [{"code": "alignment_fallback", "stage": "align", "message": "no model for xx"}],
            "progress": None,
            "error": None,
        },
    }
    assert received.headers["webhook-id"] == done.id
    assert received.headers["content-type"] == "application/json"


def test_every_key_is_present_in_every_event() -> None:
    progress = Event.of(job(), "progress", attempt=1, progress=EventProgress(stage="asr", fraction=0.25))
    unknown_input = event("failed", error=EventError(code="invalid_message", message="no input"))
    first, second = (json.loads(one.body())["data"] for one in (progress, unknown_input))
    assert list(first) == list(second)
    assert first["progress"] == {"stage": "asr", "fraction": 0.25}
    assert first["output"] == {"bucket": "results", "prefix": "transcripts/job-1/", "manifest": None, "files": {}}
    assert second["input"] is None
    assert second["error"] == {"code": "invalid_message", "message": "no input", "traceback": None}


def test_the_payload_is_bounded() -> None:
    largest = event(
        "failed",
        job_id="j" * 128,
        metadata={"m": "x" * (16 * 1024 - 9)},
        input={"bucket": "b" * 63, "key": "k" * 1024, "version_id": "v" * 1024},
        output=EventOutput(
            bucket="b" * 63, prefix="p" * 640, manifest="m" * 653, files={"json": "j" * 655, "md": "m" * 653}
        ),
        durations_seconds={f"stage-{number}": 12345.678 for number in range(10)},
        warnings=(TranscriptWarning(code="c" * 99, stage="s" * 99, message="\x00" * 5000),) * 50,
        error=EventError(code="c" * 64, message="\x00" * 5000, traceback="first" + "漢" * 5000 + "last"),
    )
    assert len(largest.body()) <= 32 * 1024
    data = json.loads(largest.body())["data"]
    assert data["error"]["traceback"].endswith("漢last")
    assert len(data["warnings"]) == 11
    assert data["warnings"][-1]["message"] == "40 more warnings are in the manifest"


def test_an_ascii_traceback_keeps_its_last_4000_characters() -> None:
    error = EventError(code="c", message="m", traceback="a" * 1000 + "b" * 4000)
    assert error.traceback == "b" * 4000


def test_an_id_with_a_dot_is_refused() -> None:
    with pytest.raises(ValueError, match="id"):
        event("started", id="msg.1")


async def test_every_secret_signs_so_that_keys_can_be_rotated() -> None:
    secrets = (SecretStr(SECRET), SecretStr(OLD_SECRET))
    async with Receiver() as receiver:
        await deliver(make_settings(webhook_secret=secrets), receiver.url, event("started"))
    verify(receiver.events[0], SECRET)
    verify(receiver.events[0], OLD_SECRET)
    with pytest.raises(WebhookVerificationError):
        verify(receiver.events[0], "whsec_" + "B" * 44)


@pytest.mark.parametrize(
    "secret",
    [
        "PRIVATE" + "A" * 25,  # no prefix
        "whsec_PRIVATE=",  # too short
        "whsec_PRIVATE" + "A" * 85,  # too long
        "whsec_PRIVATE" + "A" * 24 + "-",  # another alphabet, whose characters a lenient decoder would skip
    ],
)
def test_a_bad_secret_is_a_config_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(ConfigError, match="24 to 64") as caught:
        WebhookSender(make_settings(webhook_secret=(SecretStr(SECRET), SecretStr(secret))))
    assert "secret 2" in caught.value.message
    assert "PRIVATE" not in caught.value.message


# --- attempts -----------------------------------------------------------------------------------------------------


async def test_attempts_share_the_id_and_are_signed_afresh(observed: Observed) -> None:
    async with Receiver(BAD, Behaviour(drop=True), Behaviour(status=404)) as receiver:
        settings = make_settings(webhook_backoff_min_seconds=0.4, webhook_backoff_max_seconds=0.6)
        await deliver(settings, receiver.url, event("completed"), observed=observed)
    assert len(receiver.events) == 4
    for received in receiver.events:
        verify(received)
    assert len({received.headers["webhook-id"] for received in receiver.events}) == 1
    assert len({received.body for received in receiver.events}) == 1
    assert len({received.headers["webhook-timestamp"] for received in receiver.events}) > 1
    assert len({received.headers["webhook-signature"] for received in receiver.events}) > 1
    assert observed.results == ["retried", "retried", "retried", "delivered"]
    assert all(event_type == "job.completed" and seconds > 0 for event_type, _, seconds in observed.calls)


async def test_gives_up_after_the_set_number_of_attempts(observed: Observed, caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver(default=BAD) as receiver:
        await deliver(make_settings(), receiver.url + "?token=hidden", event("failed"), observed=observed)
    assert len(receiver.events) == 5
    assert observed.results == ["retried"] * 4 + ["failed"]
    (given_up,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert given_up.name == "transcriptd.webhook"
    fields = {
        name: getattr(given_up, name) for name in ("job_id", "webhook_event", "webhook_attempt", "status", "error")
    }
    assert fields == {
        "job_id": "job-1",
        "webhook_event": "job.failed",
        "webhook_attempt": 5,
        "status": 500,
        "error": "HTTP 500",
    }
    assert "hidden" not in str([vars(record) for record in caplog.records if record.name.startswith("transcriptd")])


async def test_backoff_is_exponential_within_its_bounds() -> None:
    arrivals: list[float] = []

    async def note(count: int) -> None:
        for number in range(1, count + 1):
            await receiver.wait_for(number)
            arrivals.append(time.monotonic())

    async with Receiver(default=BAD) as receiver:
        settings = make_settings(webhook_backoff_min_seconds=0.1, webhook_backoff_max_seconds=0.3)
        await asyncio.gather(note(5), deliver(settings, receiver.url, event("failed")))
    pauses = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    for pause, least, most in zip(pauses, (0.1, 0.2, 0.3, 0.3), (0.2, 0.3, 0.3, 0.3), strict=True):
        assert least - 0.02 <= pause <= most + 0.4


async def test_gone_stops_at_once(observed: Observed) -> None:
    async with Receiver(default=Behaviour(status=410)) as receiver:
        await deliver(make_settings(), receiver.url, event("completed"), observed=observed)
    assert len(receiver.events) == 1
    assert observed.results == ["failed"]


async def test_redirects_are_failures_and_never_followed(observed: Observed) -> None:
    async with Receiver() as target, Receiver(default=Behaviour.redirect(target.url)) as receiver:
        await deliver(make_settings(webhook_attempts=2), receiver.url, event("completed"), observed=observed)
    assert len(receiver.events) == 2
    assert target.events == []
    assert observed.results == ["retried", "failed"]


@pytest.mark.parametrize(
    ("header", "status", "honoured"),
    [
        ("60", 429, True),
        pytest.param("9" * 400, 503, True, id="huge"),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 503, True),
        ("Thu, 01 Jan 2009 00:00:00 GMT", 503, False),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 503, False),
        ("soon", 503, False),
        ("60", 500, False),
    ],
    ids=str,
)
async def test_retry_after_is_honoured_up_to_the_longest_backoff(header: str, status: int, honoured: bool) -> None:
    async with Receiver(Behaviour(status=status, headers={"Retry-After": header})) as receiver:
        started_at = time.monotonic()
        await deliver(make_settings(webhook_backoff_max_seconds=0.3), receiver.url, event("completed"))
        elapsed_seconds = time.monotonic() - started_at
    assert len(receiver.events) == 2
    assert (elapsed_seconds >= 0.3) is honoured
    assert elapsed_seconds < 5


async def test_a_slow_receiver_is_a_failed_attempt(observed: Observed) -> None:
    async with Receiver(Behaviour(delay_seconds=5)) as receiver:
        await deliver(make_settings(webhook_timeout_seconds=0.1), receiver.url, event("completed"), observed=observed)
    assert observed.results == ["retried", "delivered"]


async def test_no_listener_and_no_tls_are_failed_attempts(observed: Observed) -> None:
    async with Receiver() as receiver:
        plain = receiver.url
        await deliver(
            make_settings(webhook_attempts=2), plain.replace("http:", "https:"), event("completed"), observed=observed
        )
    await deliver(make_settings(webhook_attempts=2), plain, event("completed"), observed=observed)
    assert observed.results == ["retried", "failed"] * 2


async def test_a_long_answer_is_not_read(observed: Observed) -> None:
    async with Receiver(default=Behaviour(status=200, body=b"x" * 10_000_000)) as receiver:
        await deliver(make_settings(), receiver.url, event("started"), event("completed"), observed=observed)
    assert observed.results[-1] == "delivered"


async def test_a_fault_of_ours_is_logged_with_its_traceback_and_the_next_event_goes_on(
    observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiver() as receiver:
        broken = event("started", metadata={"not JSON": float("inf")})
        await deliver(make_settings(), receiver.url, broken, event("progress"), observed=observed)
    assert receiver.types == ["job.progress"]
    assert observed.results == ["failed", "delivered"]
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


# --- order --------------------------------------------------------------------------------------------------------


async def test_events_of_a_job_arrive_in_order() -> None:
    async with Receiver(BAD, Behaviour(delay_seconds=0.1)) as receiver, WebhookSender(make_settings()) as sender:
        sender.send(receiver.url, event("started"))
        sender.send(receiver.url, event("progress"))
        await receiver.wait_for(3)
        sender.send(receiver.url, event("completed"))
        assert await sender.drain(5) == 0
    assert receiver.types == ["job.started", "job.started", "job.progress", "job.completed"]


async def test_a_final_event_drops_what_was_not_delivered_before_it(observed: Observed) -> None:
    async with Receiver(BAD) as receiver:
        settings = make_settings(webhook_backoff_min_seconds=20, webhook_backoff_max_seconds=30)
        async with WebhookSender(settings, observed) as sender:
            sender.send(receiver.url, event("started"))
            sender.send(receiver.url, event("progress"))
            await receiver.wait_for(1)
            await observed.wait_for("retried")  # its back-off is 20 s
            sender.send(receiver.url, event("completed"))
            sender.send(receiver.url, event("progress"))  # late: stale by the time it could be delivered
            assert await sender.drain(5) == 0
    assert receiver.types == ["job.started", "job.completed"]


async def test_a_final_event_waits_for_the_attempt_in_hand() -> None:
    slow = Behaviour(status=500, delay_seconds=0.3)
    async with Receiver(slow) as receiver, WebhookSender(make_settings()) as sender:
        sender.send(receiver.url, event("started"))
        await receiver.wait_for(1)
        sender.send(receiver.url, event("failed"))
        await asyncio.sleep(0.1)
        assert receiver.types == ["job.started"]
        assert await sender.drain(5) == 0
    assert receiver.types == ["job.started", "job.failed"]


async def test_newer_progress_replaces_older() -> None:
    async with Receiver(Behaviour(delay_seconds=0.2)) as receiver, WebhookSender(make_settings()) as sender:
        sender.send(receiver.url, event("started"))
        await receiver.wait_for(1)
        for percent in (10, 20, 30):
            await asyncio.sleep(0.001)  # longer than the throttle
            sender.send(receiver.url, event("progress", progress=EventProgress(stage="asr", fraction=percent / 100)))
        assert await sender.drain(5) == 0
    assert receiver.types == ["job.started", "job.progress"]
    assert receiver.events[1].event["data"]["progress"]["fraction"] == 0.3


async def test_progress_is_throttled_for_each_job() -> None:
    async with Receiver() as receiver, WebhookSender(make_settings(webhook_progress_seconds=0.3)) as sender:
        for _ in range(20):
            sender.send(receiver.url, event("progress", "job-1"))
            sender.send(receiver.url, event("progress", "job-2"))
            await asyncio.sleep(0.02)
        assert await sender.drain(5) == 0
    jobs = [received.event["data"]["job_id"] for received in receiver.events]
    assert sorted(jobs) == ["job-1", "job-1", "job-2", "job-2"]


async def test_a_dead_receiver_delays_nobody_else(observed: Observed) -> None:
    hung = Behaviour(delay_seconds=5)
    async with (
        Receiver(default=hung) as dead,
        Receiver() as alive,
        WebhookSender(make_settings(webhook_timeout_seconds=10), observed) as sender,
    ):
        for number in range(200):  # more than aiohttp's default limit of connections
            sender.send(dead.url, event("started", f"dead-{number}"))
        await dead.wait_for(200)
        sender.send(alive.url, event("completed", "alive"))
        await observed.wait_for("delivered")
        assert alive.types == ["job.completed"]
        assert await sender.drain(0) == 200


async def test_events_in_hand_are_bounded_and_progress_goes_first(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "MAX_PENDING_EVENTS", 3)
    async with Receiver(default=BAD) as receiver:
        settings = make_settings(webhook_backoff_min_seconds=20, webhook_backoff_max_seconds=30)
        async with WebhookSender(settings, observed) as sender:
            sender.send(receiver.url, event("started", "a"))
            await observed.wait_for("retried")  # in its back-off
            sender.send(receiver.url, event("started", "b"))
            sender.send(receiver.url, event("progress", "c"))
            assert observed.results == ["retried"]
            sender.send(receiver.url, event("completed", "d"))
            assert observed.calls[1:] == [("job.progress", "failed", 0.0)]
            receiver.default = OK
            sender.send(receiver.url, event("failed", "e"))
            assert [call[:2] for call in observed.calls[2:]] == [("job.started", "failed")]
            assert await sender.drain(5) == 0
    jobs = [received.event["data"]["job_id"] for received in receiver.events]
    assert sorted(jobs) == ["a", "b", "d", "e"]


# --- life ---------------------------------------------------------------------------------------------------------


async def test_no_url_sends_nothing() -> None:
    async with WebhookSender(make_settings()) as sender:
        sender.send(None, event("started"))
        assert await sender.drain(0) == 0


async def test_drain_waits_and_then_gives_up(observed: Observed, caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver(default=BAD) as receiver:
        settings = make_settings(webhook_backoff_min_seconds=20, webhook_backoff_max_seconds=30)
        async with WebhookSender(settings, observed) as sender:
            sender.send(receiver.url, event("started", "a"))
            sender.send(receiver.url, event("failed", "b"))
            sender.send(receiver.url, event("completed", "b"))
            started_at = time.monotonic()
            assert await sender.drain(0.3) == 3
            assert 0.25 <= time.monotonic() - started_at <= 1
            assert await sender.drain(0.3) == 0
    assert observed.results.count("failed") == 3
    lost = [vars(record)["job_id"] for record in caplog.records if record.levelno == logging.ERROR]
    assert lost == ["b", "b"], "a receiver can do without the event of job a"


async def test_leaving_gives_up_what_never_began(observed: Observed) -> None:
    async with WebhookSender(make_settings(), observed) as sender:
        sender.send("http://127.0.0.1:9/", event("started"))
    assert observed.results == ["failed"]


@pytest.mark.parametrize("secrets", [(), (SecretStr(SECRET),)])
async def test_a_sender_that_cannot_send_says_so_and_does_not_raise(
    secrets: tuple[SecretStr, ...], observed: Observed
) -> None:
    sender = WebhookSender(make_settings(webhook_url=None, webhook_secret=secrets), observed)
    sender.send(URL, event("started"))
    async with sender:
        pass
    sender.send(URL, event("started"))
    assert observed.results == ["failed", "failed"]


# --- the outbox and the record ------------------------------------------------------------------------------------


class FakeOutbox(Outbox):
    """Keeps what it is given; may fail or hang."""

    def __init__(self, failing: bool = False, hanging: bool = False) -> None:
        super().__init__(None, make_settings(outbox_url="http://localhost/outbox"), Metrics())  # type: ignore[arg-type]
        self.failing = failing
        self.hanging = hanging
        self.stored: list[tuple[str, Event, float]] = []
        self.taken = asyncio.Event()

    async def store(self, url: str, event: Event, first_attempt_at: datetime, wanted_seconds: float = 0) -> None:
        if self.hanging:
            await asyncio.sleep(3600)
        if self.failing:
            raise QueueUnavailable("switched off")
        assert timedelta() <= datetime.now(UTC) - first_attempt_at < timedelta(seconds=10)
        self.stored.append((url, event, wanted_seconds))
        self.taken.set()


class Records:
    """Takes down how final events ended; may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.endings: list[tuple[str, str, int | None]] = []

    async def __call__(self, event: Event, result: str, status: int | None) -> None:
        if self.error is not None:
            raise self.error
        self.endings.append((event.id, result, status))


SLOW = {"webhook_backoff_min_seconds": 20, "webhook_backoff_max_seconds": 30}


def final(status: Status = "completed", job_id: str = "job-1") -> Event:
    output = EventOutput(bucket="results", prefix=f"transcripts/{job_id}/")
    return event(status, job_id, output=output)


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_a_final_event_goes_to_the_outbox_when_its_tries_are_spent(
    status: Status, observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, records, one = FakeOutbox(), Records(), final(status)
    async with Receiver(default=BAD) as receiver:
        async with WebhookSender(make_settings(), observed, outbox=outbox, record=records) as sender:
            sender.send(receiver.url, one)
            assert await sender.drain(10) == 0
        assert outbox.stored == [(receiver.url, one, 0)]
    assert len(receiver.events) == 5
    assert observed.results == ["retried"] * 5
    assert records.endings == [], "it has not ended"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_other_events_never_go_to_the_outbox(observed: Observed) -> None:
    outbox, records = FakeOutbox(), Records()
    async with (
        Receiver(default=BAD) as receiver,
        WebhookSender(make_settings(), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, event("started"))
        await observed.wait_for("failed")
    assert (outbox.stored, records.endings) == ([], [])


@pytest.mark.parametrize(
    ("answer", "attempts", "ending"),
    [
        (Behaviour(status=204), 1, ("delivered", 204)),
        (Behaviour(status=410), 1, ("gone", 410)),
    ],
    ids=["delivered", "gone"],
)
async def test_an_answer_that_settles_it_is_recorded(
    answer: Behaviour, attempts: int, ending: tuple[str, int], observed: Observed
) -> None:
    outbox, records, one = FakeOutbox(), Records(), final()
    async with (
        Receiver(default=answer) as receiver,
        WebhookSender(make_settings(), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, event("started"))
        sender.send(receiver.url, one)
        assert await sender.drain(10) == 0
    assert [received.headers["webhook-id"] for received in receiver.events].count(one.id) == attempts
    assert records.endings == [(one.id, *ending)]
    assert outbox.stored == []


async def test_a_refused_address_is_recorded_and_not_stored(observed: Observed) -> None:
    outbox, records, one = FakeOutbox(), Records(), final()
    settings = make_settings(webhook_allow_http=False)
    async with WebhookSender(settings, observed, outbox=outbox, record=records) as sender:
        sender.send("https://127.0.0.1:9/", one)
        await observed.wait_for("refused")
        assert await sender.drain(10) == 0
    assert records.endings == [(one.id, "refused", None)]
    assert outbox.stored == []


@pytest.mark.parametrize("outbox", [None, FakeOutbox(failing=True)], ids=["none", "failing"])
async def test_without_an_outbox_it_is_given_up_and_recorded(outbox: FakeOutbox | None, observed: Observed) -> None:
    records, one = Records(), final("failed")
    async with (
        Receiver(default=BAD) as receiver,
        WebhookSender(make_settings(), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, one)
        await observed.wait_for("failed")
        assert await sender.drain(10) == 0
    assert observed.results == ["retried"] * 4 + ["failed"]
    assert records.endings == [(one.id, "failed", 500)]


async def test_an_event_without_output_is_not_recorded(observed: Observed) -> None:
    records = Records()
    async with Receiver() as receiver, WebhookSender(make_settings(), observed, record=records) as sender:
        sender.send(receiver.url, event("failed"))
        assert await sender.drain(10) == 0
    assert observed.results == ["delivered"]
    assert records.endings == []


@pytest.mark.parametrize("error", [StorageUnavailable("switched off"), KeyError("a fault of ours")], ids=repr)
async def test_a_record_that_fails_is_logged_and_changes_nothing(
    error: Exception, observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiver() as receiver, WebhookSender(make_settings(), observed, record=Records(error)) as sender:
        sender.send(receiver.url, final())
        assert await sender.drain(10) == 0
    assert observed.results == ["delivered"]
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.message == "webhook result not recorded"
    assert (line.exc_info is not None) is isinstance(error, KeyError)


async def test_a_drain_hands_final_events_over(observed: Observed) -> None:
    outbox, records = FakeOutbox(), Records()
    async with (
        Receiver(default=BAD) as receiver,
        WebhookSender(make_settings(**SLOW), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, event("started", "a"))
        sender.send(receiver.url, final("completed", "b"))
        sender.send(receiver.url, final("failed", "c"))  # never tried
        await receiver.wait_for(2)
        assert await sender.drain(0) == 1, "the started event is lost, the final ones are kept"
    assert sorted(str(one.job_id) for _, one, _ in outbox.stored) == ["b", "c"]
    assert records.endings == []


async def test_a_drain_delivers_first_and_keeps_time_to_hand_over(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "HAND_OVER_SECONDS", 0.5)
    outbox = FakeOutbox()
    async with (
        Receiver(default=Behaviour(delay_seconds=0.2)) as receiver,
        WebhookSender(make_settings(webhook_timeout_seconds=10), observed, outbox=outbox) as sender,
    ):
        sender.send(receiver.url, final("completed", "a"))
        await receiver.wait_for(1)
        receiver.default = Behaviour(delay_seconds=5)
        sender.send(receiver.url, final("completed", "b"))
        await receiver.wait_for(2)
        started_at = time.monotonic()
        assert await sender.drain(1.5) == 0
        assert time.monotonic() - started_at < 1.4
    assert observed.results == ["delivered", "retried"]
    assert [one.job_id for _, one, _ in outbox.stored] == ["b"]


async def test_an_outbox_that_hangs_does_not_hold_up_a_drain(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "HAND_OVER_SECONDS", 0.3)
    async with (
        Receiver(default=BAD) as receiver,
        WebhookSender(make_settings(**SLOW), observed, outbox=FakeOutbox(hanging=True)) as sender,
    ):
        sender.send(receiver.url, final())
        await receiver.wait_for(1)
        await observed.wait_for("retried")
        started_at = time.monotonic()
        assert await sender.drain(0) == 1
        assert time.monotonic() - started_at < 1
    assert observed.results == ["retried", "failed"]


async def test_a_longer_pause_than_we_make_here_is_left_to_the_outbox(observed: Observed) -> None:
    outbox, one = FakeOutbox(), final()
    throttle = Behaviour(status=429, headers={"Retry-After": "600"})
    async with (
        Receiver(default=throttle) as receiver,
        WebhookSender(make_settings(), observed, outbox=outbox) as sender,
    ):
        sender.send(receiver.url, one)
        await observed.wait_for("retried")
        assert await sender.drain(10) == 0
    assert len(receiver.events) == 1
    assert outbox.stored == [(receiver.url, one, 600.0)]


async def test_a_final_event_that_is_one_too_many_is_stored(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "MAX_PENDING_EVENTS", 2)
    outbox = FakeOutbox()
    async with (
        Receiver(default=BAD) as receiver,
        WebhookSender(make_settings(**SLOW), observed, outbox=outbox) as sender,
    ):
        for job_id in ("a", "b", "c"):
            sender.send(receiver.url, final("completed", job_id))
        await receiver.wait_for(2)
        async with asyncio.timeout(20):
            await outbox.taken.wait()
        assert [one.job_id for _, one, _ in outbox.stored] == ["a"]
        assert await sender.drain(0) == 0
    assert sorted(str(one.job_id) for _, one, _ in outbox.stored) == ["a", "b", "c"]


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),  # how IPv4 looks in an IPv6 network with DNS64
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::169.254.169.254", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("fd00:ec2::254", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff0e::1", False),
    ],
)
def test_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def resolving_to(*addresses: str) -> Callable[..., Awaitable[list[dict[str, Any]]]]:
    async def resolve(
        self: object, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[dict[str, Any]]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            {"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}
            for address, kind in zip(addresses, families, strict=True)
        ]

    return resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "127.1", "0x7f000001"])
async def test_a_private_address_is_refused_before_anything_is_sent(host: str, observed: Observed) -> None:
    async with Receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        await deliver(make_settings(webhook_allow_http=False), url, event("completed"), observed=observed)
    assert observed.results == ["refused"]
    assert receiver.events == []


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("10.0.0.1", "127.0.0.1", "::1")])
async def test_a_public_name_with_private_addresses_is_refused(
    addresses: tuple[str, ...], observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolving_to(*addresses))
    await deliver(make_settings(webhook_allow_http=False), URL, event("completed"), observed=observed)
    assert observed.results == ["refused"]


@pytest.mark.parametrize("url", ["gopher://hooks.example.com/", "http://", "hooks.example.com", "http://a:b:c/"])
async def test_an_unusable_url_is_refused(url: str, observed: Observed) -> None:
    await deliver(make_settings(), url, event("completed"), observed=observed)
    assert observed.results == ["refused"]
