"""The outbox: an SQS queue, shared by all daemons, of final events that a sink has not accepted yet.

Events are retried on a schedule that counts from the first attempt. The message body is the only state, so any daemon
that receives the message knows when its next attempt is due. Between attempts the message is invisible; if a daemon
crashes, SQS delivers the message again.
"""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiobotocore.config import AioConfig

from daemon.aws.sqs import (
    CONNECT_TIMEOUT_SECONDS,
    Depth,
    find_queue,
    in_group,
    open_client,
    read_depth,
    translate_errors,
)
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.errors import ObjectRefused, QueueUnavailable, StorageRefused, StorageUnavailable, WebhookNotAllowed
from daemon.telemetry.logs import bind, log_context
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage
from daemon.telemetry.tracecontext import TRACEPARENT, TRACESTATE, TraceContext, from_attributes
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.outbox_entry import Ending, Entry, RecordDelivery, next_due, write_record
from daemon.webhooks.seal import SEAL, Seal
from daemon.webhooks.sinks import DeliveryFailed, sink_of
from daemon.webhooks.ssrf import check_webhook_url

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

log = logging.getLogger("transcriptd.outbox")

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_DELAY_SECONDS = 900
MAX_MESSAGES_PER_RECEIVE = 10

DELIVERIES_AT_ONCE = 10
BACKOFF_BASE_SECONDS = 1.0
STOP_TIMEOUT_SECONDS = 10.0
UNREADABLE_PAUSE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A received outbox message."""

    receipt_handle: str
    body: str
    receive_count: int
    received_at: float  # monotonic: when the receive was sent
    sealed: bool = False  # by a daemon with the same webhook secret
    trace: TraceContext | None = None


@asynccontextmanager
async def open_outbox(settings: Settings, metrics: Metrics) -> AsyncIterator["Outbox"]:
    """Open an Outbox with its own connections. The client attempts each call up to three times."""
    config = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT_SECONDS, settings.queue_timeout_seconds),
        read_timeout=max(1, settings.receive_wait_time_seconds) + settings.queue_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=DELIVERIES_AT_ONCE * 2,
    )
    async with open_client(config, metrics, settings.outbox_url) as client:
        yield Outbox(client, settings, metrics)


class Outbox:
    """The outbox queue. All errors are raised as QueueUnavailable."""

    def __init__(self, client: "SQSClient", settings: Settings, metrics: Metrics, clock: Clock = SYSTEM_CLOCK) -> None:
        if settings.outbox_url is None:
            raise ValueError("the outbox needs outbox_url")
        self._client = client
        self._url = settings.outbox_url
        self._metrics = metrics
        self._clock = clock
        self._seal = Seal(settings.webhook_secret)
        self._schedule = settings.outbox_retry_schedule_seconds
        self._wait_seconds = max(1, settings.receive_wait_time_seconds)  # 0 would be a busy loop
        # Long enough for an attempt, the record and the delete; otherwise another daemon would also send the event.
        self._visibility_seconds = math.ceil(settings.webhook_timeout_seconds * 2 + 30)

    async def store(self, url: str, event: WebhookEvent, first_attempt_at: datetime, wanted_seconds: float = 0) -> None:
        """Store an event until its next attempt is due. If the schedule has ended, the last attempt is due at once."""
        now = _utc(self._clock)
        due = next_due(self._schedule, first_attempt_at, now, wanted_seconds) or now
        entry = Entry(url=url, event=event, first_attempt_at=first_attempt_at, not_before=due)
        body = entry.body()
        with translate_errors("SendMessage on the outbox"):
            await self._client.send_message(
                QueueUrl=self._url,
                MessageBody=body,
                DelaySeconds=min(MAX_DELAY_SECONDS, math.ceil((due - now).total_seconds())),
                MessageAttributes=self._seal.attributes(body) | (event.trace.attributes() if event.trace else {}),
                **in_group(event.tenant),
            )
        self._metrics.outbox_events.labels(sink_of(url), "stored").inc()

    async def ping(self) -> None:
        """Check that the outbox queue exists and responds, but not the permission to send. Raises QueueUnavailable."""
        await find_queue(self._client, self._url)

    async def depth(self) -> Depth:
        return await read_depth(self._client, self._url)

    async def receive(self, max_messages: int) -> list[OutboxMessage]:
        received_at = self._clock.monotonic()
        with translate_errors("ReceiveMessage on the outbox"):
            response = await self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(max_messages, MAX_MESSAGES_PER_RECEIVE),
                WaitTimeSeconds=self._wait_seconds,
                VisibilityTimeout=self._visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=[SEAL, TRACEPARENT, TRACESTATE],
            )
        return [
            OutboxMessage(
                receipt_handle=message["ReceiptHandle"],
                body=message["Body"],
                receive_count=int(message["Attributes"]["ApproximateReceiveCount"]),
                received_at=received_at,
                sealed=self._seal.fits(message["Body"], message.get("MessageAttributes") or {}),
                trace=from_attributes(message.get("MessageAttributes") or {}),
            )
            for message in response.get("Messages", [])
        ]

    async def defer(self, message: OutboxMessage, seconds: float) -> None:
        """Hide the message for this time, or for as long as SQS allows: 12 h from its receive."""
        longest = MAX_LEASE_SECONDS - (self._clock.monotonic() - message.received_at) - 60
        with translate_errors("ChangeMessageVisibility on the outbox"):
            await self._client.change_message_visibility(
                QueueUrl=self._url,
                ReceiptHandle=message.receipt_handle,
                VisibilityTimeout=math.ceil(max(0.0, min(seconds, longest))),
            )

    async def delete(self, message: OutboxMessage) -> None:
        with translate_errors("DeleteMessage on the outbox"):
            await self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message.receipt_handle)


class OutboxWorker:
    """Delivers due events: `run()` in the background until `close()`. Its failures never end the daemon.

    `attempt` makes one attempt at a URL of sinks.py and returns the status or raises DeliveryFailed. `known` returns whether an event is
    recorded as delivered: an event may be stored while its quick attempts continue.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        attempt: Callable[[str, WebhookEvent], Awaitable[int]],
        metrics: Metrics,
        record: RecordDelivery | None = None,
        known: Callable[[str, WebhookEvent], Awaitable[bool]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._attempt = attempt
        self._metrics = metrics
        self._record = record
        self._known = known
        self._clock = clock
        self._outage = Outage(log, "outbox unavailable", "outbox available again", level=logging.ERROR)
        self._calls = Outage(log, "outbox calls failing", "outbox calls working again", level=logging.ERROR)
        self._stop = asyncio.Event()
        self._ended = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Stop receiving. A receive in flight completes, since SQS may have delivered messages; they are released."""
        self._stop.set()

    async def close(self) -> None:
        """Stop, and wait for `run()` to end, up to a time limit. SQS delivers unfinished events again."""
        self.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.receive_wait_time_seconds + STOP_TIMEOUT_SECONDS):
                await self._ended.wait()
        deliveries = list(self._deliveries)
        for task in deliveries:
            task.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)

    async def run(self) -> None:
        """Deliver due events until `stop()`, then finish those in progress. May be called again after a failure."""
        backoff_seconds = BACKOFF_BASE_SECONDS
        while not self._stop.is_set():
            if len(self._deliveries) >= DELIVERIES_AT_ONCE:
                await asyncio.wait(self._deliveries, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                messages = await self._outbox.receive(DELIVERIES_AT_ONCE - len(self._deliveries))
            except Exception as error:  # noqa: BLE001  # undelivered events must never end the daemon
                self._outage.failed(error, unexpected=not isinstance(error, QueueUnavailable))
                await self._pause(random.uniform(0, backoff_seconds))  # noqa: S311  # jitter
                backoff_seconds = min(backoff_seconds * 2, self._settings.queue_backoff_max_seconds)
                continue
            self._outage.worked()
            backoff_seconds = BACKOFF_BASE_SECONDS
            for message in messages:
                task = asyncio.create_task(self._handle(message), name="outbox event")
                self._deliveries.add(task)
                task.add_done_callback(self._deliveries.discard)
        if self._deliveries:
            await asyncio.wait(self._deliveries)
        self._ended.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    # --- one event ------------------------------------------------------------------------------------------------

    async def _handle(self, message: OutboxMessage) -> None:
        with log_context():
            try:
                await self._process_message(message)
            except (QueueUnavailable, StorageUnavailable, StorageRefused, ObjectRefused) as error:
                # SQS delivers it again after its visibility timeout, possibly early: an extra attempt, never a missing one.
                self._calls.failed(error)
            except Exception:
                log.exception("outbox event failed unexpectedly")
            else:
                self._calls.worked()

    async def _process_message(self, message: OutboxMessage) -> None:
        if self._stop.is_set():
            await self._outbox.defer(message, 0)
            return
        # Neither kind is deleted: a newer release or a daemon with another secret may have written it. The queue's
        # retention or redrive removes it.
        if not message.sealed:
            problem = "its seal is missing or of another WEBHOOK_SECRET"
            log.error("outbox message not trusted", extra={"error": problem})
            self._metrics.outbox_events.labels("unknown", "untrusted").inc()
            await self._outbox.defer(message, UNREADABLE_PAUSE_SECONDS)
            return
        try:
            entry = Entry.parse(message.body, message.trace)
        except ValueError as error:
            log.error("outbox message not understood", extra={"error": type(error).__name__})
            self._metrics.outbox_events.labels("unknown", "malformed").inc()
            await self._outbox.defer(message, UNREADABLE_PAUSE_SECONDS)
            return
        bind(**entry.event.log_fields)
        now = _utc(self._clock)
        age_seconds = (now - entry.first_attempt_at).total_seconds()
        self._metrics.outbox_event_age_seconds.observe(max(0.0, age_seconds))
        early_seconds = (entry.not_before - now).total_seconds()
        if early_seconds > 1:
            await self._defer(message, entry, early_seconds)
            return
        if self._known is not None and self._is_recorded(entry) and await self._known(entry.url, entry.event):
            self._metrics.outbox_events.labels("webhook", "known").inc()
            await self._outbox.delete(message)
            return
        await self._deliver(message, entry)

    async def _deliver(self, message: OutboxMessage, entry: Entry) -> None:
        event, sink, started_at = entry.event, sink_of(entry.url), self._clock.monotonic()
        failure: DeliveryFailed | None = None
        status: int | None = None
        try:
            if sink == "webhook":
                check_webhook_url(
                    entry.url, self._settings
                )  # the allow-list may have changed since the event was stored
            status = await self._attempt(entry.url, event)
        except WebhookNotAllowed:
            failure = DeliveryFailed("this deployment is not allowed to call the URL", result="refused")
        except DeliveryFailed as error:
            failure, status = error, error.status
        seconds = self._clock.monotonic() - started_at
        fields = {
            "sink": sink,
            "event_type": event.type,
            "event_attempt": message.receive_count,
            "status": status,
            "error": str(failure) if failure else None,
        }
        if failure is not None and failure.retryable:
            now, schedule = _utc(self._clock), self._settings.outbox_retry_schedule_seconds
            if due := next_due(schedule, entry.first_attempt_at, now, failure.wait_seconds):
                log.debug("event attempt failed", extra={**fields, "due": due.isoformat(timespec="seconds")})
                self._metrics.observe_event(sink, event.type, "retried", seconds, event.exemplar)
                await self._defer(message, entry, (due - now).total_seconds())
                return
        ending: Ending = "delivered" if failure is None else "exhausted" if failure.retryable else failure.result
        level = logging.INFO if failure is None else logging.ERROR
        log.log(
            level,
            "event delivered" if failure is None else "event given up",
            extra={**fields, "event_result": ending},
        )
        observed = {"gone": "failed", "exhausted": "failed"}.get(ending, ending)
        self._metrics.observe_event(sink, event.type, observed, seconds, event.exemplar)
        self._metrics.outbox_events.labels(sink, ending).inc()
        if self._is_recorded(entry):
            await write_record(self._record, entry.url, event, ending, status)
        await self._outbox.delete(message)

    def _is_recorded(self, entry: Entry) -> bool:
        """Return whether the result is recorded: of a webhook, next to results where jobs may place them; the settings may
        have changed since."""
        place = entry.event.record_place
        return (
            sink_of(entry.url) == "webhook"
            and place is not None
            and self._settings.allows_output(place.bucket, place.prefix)
        )

    async def _defer(self, message: OutboxMessage, entry: Entry, seconds: float) -> None:
        await self._outbox.defer(message, seconds)
        self._metrics.outbox_events.labels(sink_of(entry.url), "deferred").inc()


def _utc(clock: Clock) -> datetime:
    return datetime.fromtimestamp(clock.unix(), UTC)
