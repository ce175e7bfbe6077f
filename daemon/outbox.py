"""The webhook outbox: final events that their receiver did not take yet wait on an SQS queue, beyond any one daemon.

A message is tried on a schedule that counts from the first attempt, so it needs no state but its own body: whichever
daemon receives it knows what is due. Between attempts it is invisible; if a daemon dies, it comes back by itself.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from aiobotocore.config import AioConfig

from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.errors import QueueUnavailable, StorageUnavailable, WebhookNotAllowed
from daemon.events import Event
from daemon.job import check_webhook_url
from daemon.logs import bind, log_context
from daemon.metrics import Metrics
from daemon.outage import Outage
from daemon.outbox_entry import Ending, Entry, Record, next_due, write_record
from daemon.sqs import CONNECT_TIMEOUT_SECONDS, Depth, depth_of, open_client, wrapped
from daemon.tracecontext import TRACEPARENT, TRACESTATE, TraceContext, from_attributes
from daemon.webhook_client import Undelivered

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
class Waiting:
    """One delivery of an outbox message to us."""

    receipt_handle: str
    body: str
    receive_count: int
    received_at: float  # monotonic: when the receive was sent
    trace: TraceContext | None = None


@asynccontextmanager
async def open_outbox(settings: Settings, metrics: Metrics) -> AsyncIterator["Outbox"]:
    """An Outbox with its own connections; each call is tried a few times by the client."""
    config = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT_SECONDS, settings.queue_timeout_seconds),
        read_timeout=max(1, settings.receive_wait_seconds) + settings.queue_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=DELIVERIES_AT_ONCE * 2,
    )
    async with open_client(config, metrics) as client:
        yield Outbox(client, settings, metrics)


class Outbox:
    """The outbox queue. Every error leaves as QueueUnavailable."""

    def __init__(self, client: "SQSClient", settings: Settings, metrics: Metrics) -> None:
        if settings.outbox_url is None:
            raise ValueError("there is no outbox without outbox_url")
        self._client = client
        self._url = settings.outbox_url
        self._metrics = metrics
        self._schedule = settings.webhook_schedule_seconds
        self._wait_seconds = max(1, settings.receive_wait_seconds)  # 0 would be a busy loop
        # An attempt, the record and the delete must fit, or another daemon would send the event meanwhile.
        self._visibility_seconds = math.ceil(settings.webhook_timeout_seconds * 2 + 30)

    async def store(self, url: str, event: Event, first_attempt_at: datetime, wanted_seconds: float = 0) -> None:
        """Keep an event until it is due. Where the schedule is over already, one more attempt is made at once."""
        now = datetime.now(UTC)
        due = next_due(self._schedule, first_attempt_at, now, wanted_seconds) or now
        entry = Entry(url=url, event=event, first_attempt_at=first_attempt_at, not_before=due)
        with wrapped("SendMessage on the outbox"):
            await self._client.send_message(
                QueueUrl=self._url,
                MessageBody=entry.body(),
                DelaySeconds=min(MAX_DELAY_SECONDS, math.ceil((due - now).total_seconds())),
                # Not in the body, which earlier releases would not understand.
                MessageAttributes=event.trace.attributes() if event.trace else {},
            )
        self._metrics.webhook_outbox.labels("stored").inc()

    async def depth(self) -> Depth:
        return await depth_of(self._client, self._url)

    async def receive(self, max_messages: int) -> list[Waiting]:
        received_at = time.monotonic()
        with wrapped("ReceiveMessage on the outbox"):
            response = await self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(max_messages, MAX_MESSAGES_PER_RECEIVE),
                WaitTimeSeconds=self._wait_seconds,
                VisibilityTimeout=self._visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
                MessageAttributeNames=[TRACEPARENT, TRACESTATE],
            )
        return [
            Waiting(
                receipt_handle=message["ReceiptHandle"],
                body=message["Body"],
                receive_count=int(message["Attributes"]["ApproximateReceiveCount"]),
                received_at=received_at,
                trace=from_attributes(message.get("MessageAttributes") or {}),
            )
            for message in response.get("Messages", [])
        ]

    async def put_off(self, message: Waiting, seconds: float) -> None:
        """Hide the message for so long, or as long as SQS allows: 12 h from its receive."""
        longest = MAX_LEASE_SECONDS - (time.monotonic() - message.received_at) - 60
        with wrapped("ChangeMessageVisibility on the outbox"):
            await self._client.change_message_visibility(
                QueueUrl=self._url,
                ReceiptHandle=message.receipt_handle,
                VisibilityTimeout=math.ceil(max(0.0, min(seconds, longest))),
            )

    async def delete(self, message: Waiting) -> None:
        with wrapped("DeleteMessage on the outbox"):
            await self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message.receipt_handle)


class OutboxWorker:
    """`async with OutboxWorker(...)`: delivers what is due, in the background. It never ends the daemon.

    `attempt` makes one signed request: the status, or Undelivered. `known` tells whether an event is on record as
    delivered: events are stored while their quick attempts still go on.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        attempt: Callable[[str, Event], Awaitable[int]],
        metrics: Metrics,
        record: Record | None = None,
        known: Callable[[Event], Awaitable[bool]] | None = None,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._attempt = attempt
        self._metrics = metrics
        self._record = record
        self._known = known
        self._outage = Outage(log, "outbox unavailable", "outbox available again", level=logging.ERROR)
        self._calls = Outage(log, "outbox calls failing", "outbox calls working again", level=logging.ERROR)
        self._stop = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.run(), name="outbox")
        return self

    async def __aexit__(self, *_: object) -> None:
        """What is in hand may finish; what cannot in time comes back to another daemon by itself."""
        self.stop()
        await asyncio.wait((self._running,), timeout=self._settings.receive_wait_seconds + STOP_TIMEOUT_SECONDS)
        tasks = [self._running, *self._deliveries]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Take no more. A receive in flight is finished, for SQS may have handed events out; they are released."""
        self._stop.set()

    async def run(self) -> None:
        backoff_seconds = BACKOFF_BASE_SECONDS
        while not self._stop.is_set():
            if len(self._deliveries) >= DELIVERIES_AT_ONCE:
                await asyncio.wait(self._deliveries, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                messages = await self._outbox.receive(DELIVERIES_AT_ONCE - len(self._deliveries))
            except Exception as error:  # noqa: BLE001  # whatever it is, undelivered webhooks must not end the daemon
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

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    # --- one event ------------------------------------------------------------------------------------------------

    async def _handle(self, message: Waiting) -> None:
        with log_context():
            try:
                await self._settle(message)
            except (QueueUnavailable, StorageUnavailable) as error:
                # It comes back when its visibility timeout ends, perhaps before its turn: one attempt too many, none less.
                self._calls.failed(error)
            except Exception:
                log.exception("outbox event failed unexpectedly")
            else:
                self._calls.worked()

    async def _settle(self, message: Waiting) -> None:
        if self._stop.is_set():
            await self._outbox.put_off(message, 0)
            return
        try:
            entry = Entry.parse(message.body, message.trace)
        except ValueError as error:
            # Perhaps a newer release wrote it: never deleted here, the queue's retention or redrive ends it.
            log.error("outbox message not understood", extra={"error": type(error).__name__})
            self._metrics.webhook_outbox.labels("malformed").inc()
            await self._outbox.put_off(message, UNREADABLE_PAUSE_SECONDS)
            return
        bind(**entry.event.log_fields)
        age_seconds = (datetime.now(UTC) - entry.first_attempt_at).total_seconds()
        self._metrics.webhook_outbox_age_seconds.observe(max(0.0, age_seconds))
        early_seconds = (entry.not_before - datetime.now(UTC)).total_seconds()
        if early_seconds > 1:
            await self._defer(message, early_seconds)
            return
        if self._known is not None and await self._known(entry.event):
            self._metrics.webhook_outbox.labels("known").inc()
            await self._outbox.delete(message)
            return
        await self._deliver(message, entry)

    async def _deliver(self, message: Waiting, entry: Entry) -> None:
        event, started_at = entry.event, time.monotonic()
        failure: Undelivered | None = None
        status: int | None = None
        try:
            check_webhook_url(entry.url, self._settings)  # the allow-list may have changed meanwhile
            status = await self._attempt(entry.url, event)
        except WebhookNotAllowed:
            failure = Undelivered("the URL is not one that this deployment may call", result="refused")
        except Undelivered as error:
            failure, status = error, error.status
        seconds = time.monotonic() - started_at
        fields = {
            "webhook_event": event.type,
            "webhook_attempt": message.receive_count,
            "status": status,
            "error": str(failure) if failure else None,
        }
        if failure is not None and failure.retryable:
            now, schedule = datetime.now(UTC), self._settings.webhook_schedule_seconds
            if due := next_due(schedule, entry.first_attempt_at, now, failure.wait_seconds):
                log.debug("webhook attempt failed", extra={**fields, "due": due.isoformat(timespec="seconds")})
                self._metrics.observe_webhook(event.type, "retried", seconds, event.exemplar)
                await self._defer(message, (due - now).total_seconds())
                return
        ending: Ending = "delivered" if failure is None else "exhausted" if failure.retryable else failure.result
        level = logging.INFO if failure is None else logging.ERROR
        log.log(
            level,
            "webhook delivered" if failure is None else "webhook given up",
            extra={**fields, "webhook_result": ending},
        )
        observed = {"gone": "failed", "exhausted": "failed"}.get(ending, ending)
        self._metrics.observe_webhook(event.type, observed, seconds, event.exemplar)
        self._metrics.webhook_outbox.labels(ending).inc()
        await write_record(self._record, event, ending, status)
        await self._outbox.delete(message)

    async def _defer(self, message: Waiting, seconds: float) -> None:
        await self._outbox.put_off(message, seconds)
        self._metrics.webhook_outbox.labels("deferred").inc()
