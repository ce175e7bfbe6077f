"""The webhook sender against a real HTTP receiver."""

import asyncio
import itertools
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError
from tenacity import RetryCallState

from bench.waiting import PATIENCE_SECONDS
from daemon.config import Settings
from daemon.errors import ConfigError, QueueUnavailable, StorageUnavailable
from daemon.jobs.validation import parse_job
from daemon.schema.job import Job
from daemon.schema.transcript import TranscriptWarning
from daemon.telemetry.metrics import Exemplar, Metrics
from daemon.webhooks import sender as webhook
from daemon.webhooks.events import EventError, EventOutput, EventProgress, EventStatus, WebhookEvent
from daemon.webhooks.outbox import Outbox
from daemon.webhooks.sender import EventSender
from daemon.webhooks.sinks import SinkName
from daemon.webhooks.ssrf import is_public
from tests.support.time.virtual import VirtualTime
from tests.support.webhooks.receiver import OK, Behaviour, ReceivedEvent, Receiver

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_" + "A" * 44
URL = "https://hooks.example.com/transcripts"

BAD = Behaviour(status=500)
SLOW = {"webhook_backoff_min_seconds": 3600, "webhook_backoff_max_seconds": 3600}  # the first backoff never ends


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
        "webhook_timeout_seconds": PATIENCE_SECONDS,
        "webhook_progress_seconds": 0.0001,
    }
    return Settings(**{**values, **changes})


def event(status: EventStatus, job_id: str = "job-1", **details: Any) -> WebhookEvent:
    return WebhookEvent(job_id=job_id, status=status, attempt=1, **details)


class Observed:
    """Recorder of what the sender reports for metrics."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float]] = []
        self._called = asyncio.Event()

    def __call__(self, sink: SinkName, event_type: str, result: str, seconds: float, exemplar: Exemplar = None) -> None:
        self.calls.append((event_type, result, seconds))
        self._called.set()

    @property
    def results(self) -> list[str]:
        return [result for _, result, _ in self.calls]

    async def wait_for(self, result: str) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while result not in self.results:
                self._called.clear()
                await self._called.wait()


@pytest.fixture
def observed() -> Observed:
    return Observed()


class Sender(EventSender):
    """A sender that records the backoffs it chose."""

    def __init__(self, settings: Settings, observed: Observed | None = None) -> None:
        super().__init__(settings, observed)
        self.pauses: list[float] = []

    def _pause_seconds(self, state: RetryCallState) -> float:
        self.pauses.append(super()._pause_seconds(state))
        return self.pauses[-1]


async def deliver(settings: Settings, url: str, *events: WebhookEvent, observed: Observed | None = None) -> list[float]:
    """Send the events, wait until none is pending, and return the backoffs."""
    async with Sender(settings, observed) as sender:
        for one in events:
            sender.send(url, one)
        assert await sender.drain(PATIENCE_SECONDS) == 0
        return sender.pauses


def verify(received: ReceivedEvent, secret: str = SECRET) -> Any:
    return Webhook(secret).verify(received.body, received.headers)


# --- payload and signature ----------------------------------------------------------------------------------------


def job() -> Job:
    body = {"job_id": "job-1", "input": {"bucket": "media", "key": "a.mp4"}, "metadata": {"für": ["dich", 1]}}
    return parse_job(json.dumps(body), make_settings())


async def test_completed_event_arrives_complete_and_signed() -> None:
    done = WebhookEvent.of(
        job(),
        "completed",
        tenant="acme",
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
        "id": done.id,
        "type": "job.completed",
        "timestamp": done.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "data": {
            "job_id": "job-1",
            "tenant": "acme",
            "status": "completed",
            "attempt": 2,
            "input": {
                "bucket": "media",
                "key": "a.mp4",
                "version_id": None,
                "start_seconds": None,
                "end_seconds": None,
                "words_of": None,
            },
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
            "usage": None,
            "error": None,
        },
    }
    assert received.headers["webhook-id"] == done.id
    assert received.headers["content-type"] == "application/json"


def test_every_key_is_present_in_every_event() -> None:
    progress = WebhookEvent.of(
        job(),
        "progress",
        attempt=1,
        progress=EventProgress(stage="asr", fraction=0.25, overall_fraction=0.2, remaining_seconds=9.5),
    )
    unknown_input = event("failed", error=EventError(code="invalid_message", message="no input"))
    first, second = (json.loads(one.body())["data"] for one in (progress, unknown_input))
    assert list(first) == list(second)
    assert first["progress"] == {"stage": "asr", "fraction": 0.25, "overall_fraction": 0.2, "remaining_seconds": 9.5}
    assert first["output"] == {"bucket": "results", "prefix": "transcripts/job-1/", "manifest": None, "files": {}}
    assert second["input"] is None
    assert second["error"] == {"code": "invalid_message", "message": "no input", "traceback": None}


def test_payload_is_bounded() -> None:
    largest = event(
        "failed",
        job_id="j" * 128,
        tenant='"' * 128,
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


def test_ascii_traceback_keeps_its_last_4000_characters() -> None:
    error = EventError(code="c", message="m", traceback="a" * 1000 + "b" * 4000)
    assert error.traceback == "b" * 4000


def test_id_with_a_dot_is_rejected() -> None:
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
def test_invalid_secret_is_a_config_error_that_does_not_show_it(secret: str) -> None:
    with pytest.raises(ConfigError, match="24 to 64") as caught:
        EventSender(make_settings(webhook_secret=(SecretStr(SECRET), SecretStr(secret))))
    assert "secret 2" in caught.value.message
    assert "PRIVATE" not in caught.value.message


# --- attempts -----------------------------------------------------------------------------------------------------


async def test_attempts_share_the_id_and_are_signed_individually(observed: Observed) -> None:
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
    fields = {name: getattr(given_up, name) for name in ("job_id", "event_type", "event_attempt", "status", "error")}
    assert fields == {
        "job_id": "job-1",
        "event_type": "job.failed",
        "event_attempt": 5,
        "status": 500,
        "error": "HTTP 500",
    }
    assert "hidden" not in str([vars(record) for record in caplog.records if record.name.startswith("transcriptd")])


async def test_backoff_is_exponential_within_its_bounds() -> None:
    async with Receiver(default=BAD) as receiver:
        settings = make_settings(webhook_backoff_min_seconds=0.1, webhook_backoff_max_seconds=0.3)
        *pauses, _ = await deliver(settings, receiver.url, event("failed"))  # one is chosen after the last attempt, too
    for pause, least, most in zip(pauses, (0.1, 0.2, 0.3, 0.3), (0.2, 0.3, 0.3, 0.3), strict=True):
        assert least <= pause <= most
    arrivals = [received.at for received in receiver.events]
    for pause, (earlier, later) in zip(pauses, itertools.pairwise(arrivals), strict=True):
        assert later - earlier > pause - 0.01, "the loop's clock is coarser than time.monotonic"


async def test_backoff_has_jitter_below_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(webhook_attempts=6, webhook_backoff_min_seconds=0.01, webhook_backoff_max_seconds=0.05)
    for share, expected in ((0.0, [0.01, 0.02, 0.04, 0.05, 0.05]), (0.5, [0.015, 0.025, 0.045, 0.05, 0.05])):
        monkeypatch.setattr("random.random", lambda share=share: share)
        async with Receiver(default=BAD) as receiver:
            pauses = await deliver(settings, receiver.url, event("failed"))
        assert pauses[:5] == pytest.approx(expected)


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
        (pause,) = await deliver(make_settings(webhook_backoff_max_seconds=0.3), receiver.url, event("completed"))
    assert len(receiver.events) == 2
    assert (pause == 0.3) is honoured


async def test_slow_receiver_is_a_failed_attempt(observed: Observed) -> None:
    async with Receiver(Behaviour(hold=asyncio.Event())) as receiver:
        settings = make_settings(
            webhook_timeout_seconds=0.3, webhook_attempts=100
        )  # on a busy machine others fail, too
        await deliver(settings, receiver.url, event("completed"), observed=observed)
    assert observed.results[0] == "retried"
    assert observed.results[-1] == "delivered"


async def test_no_listener_and_no_tls_are_failed_attempts(observed: Observed) -> None:
    async with Receiver() as receiver:
        plain = receiver.url
        await deliver(
            make_settings(webhook_attempts=2), plain.replace("http:", "https:"), event("completed"), observed=observed
        )
    nobody = "http://127.0.0.1:9/"
    await deliver(make_settings(webhook_attempts=2), nobody, event("completed"), observed=observed)
    assert observed.results == ["retried", "failed"] * 2


async def test_body_of_a_long_response_is_not_read(observed: Observed) -> None:
    async with Receiver(default=Behaviour(status=200, body=b"x" * 10_000_000)) as receiver:
        await deliver(make_settings(), receiver.url, event("started"), event("completed"), observed=observed)
    assert observed.results[-1] == "delivered"


async def test_internal_error_is_logged_with_its_traceback_and_the_next_event_is_sent(
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
    async with Receiver(BAD, Behaviour(delay_seconds=0.1)) as receiver, EventSender(make_settings()) as sender:
        sender.send(receiver.url, event("started"))
        sender.send(receiver.url, event("progress"))
        await receiver.wait_for(3)
        sender.send(receiver.url, event("completed"))
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert receiver.types == ["job.started", "job.started", "job.progress", "job.completed"]


async def test_final_event_drops_undelivered_earlier_ones(observed: Observed) -> None:
    async with Receiver(BAD) as receiver:
        settings = make_settings(**SLOW)
        async with EventSender(settings, observed) as sender:
            sender.send(receiver.url, event("started"))
            sender.send(receiver.url, event("progress"))
            await receiver.wait_for(1)
            await observed.wait_for("retried")
            sender.send(receiver.url, event("completed"))
            sender.send(receiver.url, event("progress"))  # late: stale by the time it could be delivered
            assert await sender.drain(PATIENCE_SECONDS) == 0
    assert receiver.types == ["job.started", "job.completed"]


async def test_final_event_waits_for_the_attempt_in_progress() -> None:
    slow = Behaviour(status=500, hold=asyncio.Event())
    assert slow.hold is not None
    async with Receiver(slow) as receiver, EventSender(make_settings()) as sender:
        sender.send(receiver.url, event("started"))
        await receiver.wait_for(1)
        sender.send(receiver.url, event("failed"))
        await asyncio.sleep(0.1)
        assert receiver.types == ["job.started"]
        slow.hold.set()
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert receiver.types == ["job.started", "job.failed"]


async def test_newer_progress_replaces_older() -> None:
    answer = asyncio.Event()
    async with Receiver(Behaviour(hold=answer)) as receiver, EventSender(make_settings()) as sender:
        sender.send(receiver.url, event("started"))
        await receiver.wait_for(1)
        for percent in (10, 20, 30):
            await asyncio.sleep(0.001)  # longer than the throttle interval
            sender.send(
                receiver.url,
                event(
                    "progress",
                    progress=EventProgress(
                        stage="asr", fraction=percent / 100, overall_fraction=0, remaining_seconds=None
                    ),
                ),
            )
        answer.set()
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert receiver.types == ["job.started", "job.progress"]
    assert receiver.events[1].event["data"]["progress"]["fraction"] == 0.3


async def test_progress_is_throttled_for_each_job() -> None:
    clock, settings = VirtualTime(), make_settings(webhook_progress_seconds=0.3)
    async with Receiver() as receiver, EventSender(settings, clock=clock) as sender:
        for number in range(20):
            clock.now = 0.02 * number
            for job_id in ("job-1", "job-2"):
                due = sender.is_progress_due(receiver.url, job_id)
                assert due is (sender.send(receiver.url, event("progress", job_id)) is not None)
            assert not sender.is_progress_due(None, "job-3")
            await receiver.wait_for(2)  # a pending older event would be replaced
        assert await sender.drain(PATIENCE_SECONDS) == 0
    jobs = [received.event["data"]["job_id"] for received in receiver.events]
    assert sorted(jobs) == ["job-1", "job-1", "job-2", "job-2"]


async def test_dead_receiver_delays_no_other(observed: Observed) -> None:
    hung = Behaviour(hold=asyncio.Event())
    async with (
        Receiver(default=hung) as dead,
        Receiver() as alive,
        EventSender(make_settings(), observed) as sender,
    ):
        for number in range(200):  # more than aiohttp's default limit of connections
            sender.send(dead.url, event("started", f"dead-{number}"))
        await dead.wait_for(200)
        sender.send(alive.url, event("completed", "alive"))
        await observed.wait_for("delivered")
        assert alive.types == ["job.completed"]
        assert await sender.drain(0) == 200


async def test_pending_events_are_bounded_and_progress_is_dropped_first(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "MAX_PENDING_EVENTS", 3)
    async with Receiver(default=BAD) as receiver:
        settings = make_settings(**SLOW)
        async with EventSender(settings, observed) as sender:
            sender.send(receiver.url, event("started", "a"))
            await observed.wait_for("retried")  # in its backoff
            sender.send(receiver.url, event("started", "b"))
            sender.send(receiver.url, event("progress", "c"))
            assert observed.results == ["retried"]
            sender.send(receiver.url, event("completed", "d"))
            assert observed.calls[1:] == [("job.progress", "failed", 0.0)]
            receiver.default = OK
            sender.send(receiver.url, event("failed", "e"))
            assert [call[:2] for call in observed.calls[2:]] == [("job.started", "failed")]
            assert await sender.drain(PATIENCE_SECONDS) == 0
    jobs = [received.event["data"]["job_id"] for received in receiver.events]
    assert sorted(jobs) == ["a", "b", "d", "e"]


# --- shutdown -----------------------------------------------------------------------------------------------------


async def test_without_a_url_nothing_is_sent() -> None:
    async with EventSender(make_settings()) as sender:
        sender.send(None, event("started"))
        assert await sender.drain(0) == 0


async def test_drain_waits_and_then_gives_up(observed: Observed, caplog: pytest.LogCaptureFixture) -> None:
    async with Receiver(default=BAD) as receiver:
        settings = make_settings(**SLOW)
        async with EventSender(settings, observed) as sender:
            sender.send(receiver.url, event("started", "a"))
            sender.send(receiver.url, event("failed", "b"))
            sender.send(receiver.url, event("completed", "b"))
            loop = asyncio.get_running_loop()
            began_at = loop.time()
            async with asyncio.timeout(PATIENCE_SECONDS):  # the backoffs take an hour
                assert await sender.drain(0.3) == 3
            assert loop.time() - began_at > 0.25
            assert await sender.drain(0.3) == 0
    assert observed.results.count("failed") == 3
    lost = [vars(record)["job_id"] for record in caplog.records if record.levelno == logging.ERROR]
    assert lost == ["b", "b"], "the event of job a is dispensable"


async def test_leaving_drops_events_that_were_never_attempted(observed: Observed) -> None:
    async with EventSender(make_settings(), observed) as sender:
        sender.send("http://127.0.0.1:9/", event("started"))
    assert observed.results == ["failed"]


@pytest.mark.parametrize("secrets", [(), (SecretStr(SECRET),)])
async def test_sender_that_cannot_send_logs_it_and_does_not_raise(
    secrets: tuple[SecretStr, ...], observed: Observed
) -> None:
    sender = EventSender(make_settings(webhook_url=None, webhook_secret=secrets), observed)
    sender.send(URL, event("started"))
    async with sender:
        pass
    sender.send(URL, event("started"))
    assert observed.results == ["failed", "failed"]


# --- outbox and record --------------------------------------------------------------------------------------------


class FakeOutbox(Outbox):
    """An outbox in memory that can fail or hang."""

    def __init__(self, failing: bool = False, hanging: bool = False) -> None:
        super().__init__(None, make_settings(outbox_url="http://localhost/outbox"), Metrics())  # type: ignore[arg-type]
        self.failing = failing
        self.hanging = hanging
        self.stored: list[tuple[str, WebhookEvent, float]] = []
        self.taken = asyncio.Event()

    async def store(self, url: str, event: WebhookEvent, first_attempt_at: datetime, wanted_seconds: float = 0) -> None:
        if self.hanging:
            await asyncio.sleep(3600)
        if self.failing:
            raise QueueUnavailable("switched off")
        assert timedelta() <= datetime.now(UTC) - first_attempt_at < timedelta(seconds=PATIENCE_SECONDS)
        self.stored.append((url, event, wanted_seconds))
        self.taken.set()


class Records:
    """Recorder of the results of final events; it can fail."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.endings: list[tuple[str, str, int | None]] = []

    async def __call__(self, url: str, event: WebhookEvent, result: str, status: int | None) -> None:
        if self.error is not None:
            raise self.error
        self.endings.append((event.id, result, status))


def final(status: EventStatus = "completed", job_id: str = "job-1") -> WebhookEvent:
    output = EventOutput(bucket="results", prefix=f"transcripts/{job_id}/")
    return event(status, job_id, output=output)


@pytest.mark.parametrize("status", ["completed", "failed"])
async def test_final_event_goes_to_the_outbox_after_its_last_attempt(
    status: EventStatus, observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, records, one = FakeOutbox(), Records(), final(status)
    async with Receiver(default=BAD) as receiver:
        async with EventSender(make_settings(), observed, outbox=outbox, record=records) as sender:
            sender.send(receiver.url, one)
            assert await sender.drain(PATIENCE_SECONDS) == 0
        assert outbox.stored == [(receiver.url, one, 0)]
    assert len(receiver.events) == 5
    assert observed.results == ["retried"] * 5
    assert records.endings == [], "the event is still pending"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_other_events_never_go_to_the_outbox(observed: Observed) -> None:
    outbox, records = FakeOutbox(), Records()
    async with (
        Receiver(default=BAD) as receiver,
        EventSender(make_settings(), observed, outbox=outbox, record=records) as sender,
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
async def test_conclusive_response_is_recorded(
    answer: Behaviour, attempts: int, ending: tuple[str, int], observed: Observed
) -> None:
    outbox, records, one = FakeOutbox(), Records(), final()
    async with (
        Receiver(default=answer) as receiver,
        EventSender(make_settings(), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, event("started"))
        sender.send(receiver.url, one)
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert [received.headers["webhook-id"] for received in receiver.events].count(one.id) == attempts
    assert records.endings == [(one.id, *ending)]
    assert outbox.stored == []


async def test_forbidden_address_is_recorded_and_not_stored(observed: Observed) -> None:
    outbox, records, one = FakeOutbox(), Records(), final()
    settings = make_settings(webhook_allow_http=False)
    async with EventSender(settings, observed, outbox=outbox, record=records) as sender:
        sender.send("https://127.0.0.1:9/", one)
        await observed.wait_for("refused")
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert records.endings == [(one.id, "refused", None)]
    assert outbox.stored == []


@pytest.mark.parametrize("outbox", [None, FakeOutbox(failing=True)], ids=["none", "failing"])
async def test_without_an_outbox_the_event_is_dropped_and_recorded(
    outbox: FakeOutbox | None, observed: Observed
) -> None:
    records, one = Records(), final("failed")
    async with (
        Receiver(default=BAD) as receiver,
        EventSender(make_settings(), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, one)
        await observed.wait_for("failed")
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert observed.results == ["retried"] * 4 + ["failed"]
    assert records.endings == [(one.id, "failed", 500)]


async def test_an_event_without_output_is_not_recorded(observed: Observed) -> None:
    records = Records()
    async with Receiver() as receiver, EventSender(make_settings(), observed, record=records) as sender:
        sender.send(receiver.url, event("failed"))
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert observed.results == ["delivered"]
    assert records.endings == []


@pytest.mark.parametrize("error", [StorageUnavailable("switched off"), KeyError("internal error")], ids=repr)
async def test_failure_to_record_is_logged_and_changes_nothing(
    error: Exception, observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    async with Receiver() as receiver, EventSender(make_settings(), observed, record=Records(error)) as sender:
        sender.send(receiver.url, final())
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert observed.results == ["delivered"]
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.message == "webhook result not recorded"
    assert (line.exc_info is not None) is isinstance(error, KeyError)


async def test_drain_moves_final_events_to_the_outbox(observed: Observed) -> None:
    outbox, records = FakeOutbox(), Records()
    async with (
        Receiver(default=BAD) as receiver,
        EventSender(make_settings(**SLOW), observed, outbox=outbox, record=records) as sender,
    ):
        sender.send(receiver.url, event("started", "a"))
        sender.send(receiver.url, final("completed", "b"))
        sender.send(receiver.url, final("failed", "c"))  # never attempted
        await receiver.wait_for(2)
        assert await sender.drain(0) == 1, "the started event is lost, the final ones are kept"
    assert sorted(str(one.job_id) for _, one, _ in outbox.stored) == ["b", "c"]
    assert records.endings == []


async def test_drain_waits_for_attempts_in_progress(observed: Observed) -> None:
    outbox, answer = FakeOutbox(), asyncio.Event()
    async with (
        Receiver(default=Behaviour(hold=answer)) as receiver,
        EventSender(make_settings(), observed, outbox=outbox) as sender,
    ):
        sender.send(receiver.url, final())
        await receiver.wait_for(1)
        drain = asyncio.create_task(sender.drain(PATIENCE_SECONDS))
        await asyncio.sleep(0.1)
        assert not drain.done()
        answer.set()
        assert await drain == 0
    assert observed.results == ["delivered"]
    assert outbox.stored == []


async def test_drain_reserves_time_for_the_outbox(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "HANDOVER_TIMEOUT_SECONDS", PATIENCE_SECONDS)
    outbox, loop = FakeOutbox(), asyncio.get_running_loop()
    async with (
        Receiver(default=Behaviour(hold=asyncio.Event())) as receiver,
        EventSender(make_settings(webhook_timeout_seconds=3600), observed, outbox=outbox) as sender,
    ):
        sender.send(receiver.url, final("completed", "b"))
        await receiver.wait_for(1)
        began_at = loop.time()
        assert await sender.drain(PATIENCE_SECONDS + 0.5) == 0
        assert 0.5 - 0.05 < loop.time() - began_at < PATIENCE_SECONDS
    assert observed.results == ["retried"]
    assert [one.job_id for _, one, _ in outbox.stored] == ["b"]


async def test_hung_outbox_does_not_delay_a_drain(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "HANDOVER_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(webhook, "STORE_TIMEOUT_SECONDS", 3600.0)
    async with (
        Receiver(default=BAD) as receiver,
        EventSender(make_settings(**SLOW), observed, outbox=FakeOutbox(hanging=True)) as sender,
    ):
        sender.send(receiver.url, final())
        await receiver.wait_for(1)
        await observed.wait_for("retried")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await sender.drain(0) == 1
    assert observed.results == ["retried", "failed"]


async def test_long_pause_is_left_to_the_outbox(observed: Observed) -> None:
    outbox, one = FakeOutbox(), final()
    throttle = Behaviour(status=429, headers={"Retry-After": "600"})
    async with (
        Receiver(default=throttle) as receiver,
        EventSender(make_settings(), observed, outbox=outbox) as sender,
    ):
        sender.send(receiver.url, one)
        await observed.wait_for("retried")
        assert await sender.drain(PATIENCE_SECONDS) == 0
    assert len(receiver.events) == 1
    assert outbox.stored == [(receiver.url, one, 600.0)]


async def test_final_event_beyond_the_limit_goes_to_the_outbox(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "MAX_PENDING_EVENTS", 2)
    outbox = FakeOutbox()
    async with (
        Receiver(default=BAD) as receiver,
        EventSender(make_settings(**SLOW), observed, outbox=outbox) as sender,
    ):
        for job_id in ("a", "b", "c"):
            sender.send(receiver.url, final("completed", job_id))
        await receiver.wait_for(2)
        async with asyncio.timeout(PATIENCE_SECONDS):
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
        ("64:ff9b::8.8.8.8", True),  # the form of IPv4 addresses in an IPv6 network with DNS64
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
async def test_private_address_is_rejected_before_anything_is_sent(host: str, observed: Observed) -> None:
    async with Receiver() as receiver:
        url = receiver.url.replace("127.0.0.1", host)
        await deliver(make_settings(webhook_allow_http=False), url, event("completed"), observed=observed)
    assert observed.results == ["refused"]
    assert receiver.events == []


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("10.0.0.1", "127.0.0.1", "::1")])
async def test_public_name_with_private_addresses_is_rejected(
    addresses: tuple[str, ...], observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolving_to(*addresses))
    await deliver(make_settings(webhook_allow_http=False), URL, event("completed"), observed=observed)
    assert observed.results == ["refused"]


@pytest.mark.parametrize("url", ["gopher://hooks.example.com/", "http://", "hooks.example.com", "http://a:b:c/"])
async def test_unusable_url_is_rejected(url: str, observed: Observed) -> None:
    await deliver(make_settings(), url, event("completed"), observed=observed)
    assert observed.results == ["refused"]
