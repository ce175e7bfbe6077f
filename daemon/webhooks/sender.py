"""Sends job events to their sinks (sinks.py). Each job has a lane for each sink, so that an unavailable receiver delays
neither other jobs' events nor the event bus.

Events are delivered at least once: the same ID may arrive twice, but never an older event after the job's final
one. Sending never blocks a job or makes it fail. A final event whose quick attempts all fail is stored in the outbox, if
there is one.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.telemetry.metrics import Exemplar
from daemon.telemetry.outage import Outage
from daemon.telemetry.spans import Tracer
from daemon.webhooks.client import WebhookClient
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.lanes import Delivery, Lane, Result, SentEvent
from daemon.webhooks.outbox import Outbox
from daemon.webhooks.outbox_entry import RecordDelivery, write_record
from daemon.webhooks.sinks import DeliveryFailed, EventSink, SinkName, Sinks

log = logging.getLogger("transcriptd.webhook")

MAX_PENDING_EVENTS = 1000
PATIENCE_SECONDS = 5.0  # time for a receiver to accept a final event before it is stored in the outbox
STORE_TIMEOUT_SECONDS = 30.0
HANDOVER_TIMEOUT_SECONDS = 5.0  # part of a drain reserved for storing undelivered events

Observe = Callable[[SinkName, str, Result, float, Exemplar], None]

# Result of an attempt → log message, level for a final event, level for other events, which are less important. client.py
# and event_bus.py log an outage once.
_LOG_MESSAGES: dict[Result, tuple[str, int, int]] = {
    "delivered": ("event delivered", logging.INFO, logging.DEBUG),
    "retried": ("event attempt failed", logging.DEBUG, logging.DEBUG),
    "failed": ("event given up", logging.ERROR, logging.DEBUG),
    "refused": ("event refused", logging.ERROR, logging.DEBUG),
}


class EventSender:
    """Sends events in the background.

    `observe(sink, event_type, result, seconds, exemplar)` is called with the result of every attempt and must not raise:
    `delivered`; `retried`, if another attempt (here or from the outbox) or a newer event follows; `failed`, if the event is
    given up; `refused`, if the daemon must not call the address.

    `record(url, event, ending, status)` is called with the result of a final webhook, unless the event is in the outbox.

    `event_bus` is a sink that its caller opens and closes; the sender has its own client for webhooks.

    Raises ConfigError for an invalid secret.
    """

    def __init__(
        self,
        settings: Settings,
        observe: Observe | None = None,
        *,
        event_bus: EventSink | None = None,
        outbox: Outbox | None = None,
        record: RecordDelivery | None = None,
        tracer: Tracer | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._outbox = outbox
        self._record = record
        self._clock = clock
        self._client = WebhookClient(settings, tracer)
        self._sinks = Sinks(self._client, event_bus)
        self._lanes: dict[str, Lane] = {}
        self._outage = Outage(log, "outbox not storing", "outbox storing again", level=logging.ERROR)
        self._endings: set[asyncio.Task[bool]] = set()  # events being stored or recorded
        self._progress_at: dict[str, float] = {}  # job → time of its last progress event

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(0)
        await self._client.__aexit__()

    def send(self, webhook_url: str | None, event: WebhookEvent) -> SentEvent | None:
        """Queue an event for each of its sinks and return it for `secure`. Never blocks or raises. Call on the event loop.

        Returns None if it goes nowhere. Progress events of a job that follow another one within webhook_progress_seconds
        are dropped.
        """
        urls = self._sinks.urls(webhook_url)
        if not urls or (event.status == "progress" and self._throttled(event.lane)):
            return None
        deliveries = tuple(Delivery(self._sinks.sink(url), url, event) for url in urls)
        for delivery in deliveries:
            self._queue(delivery)
        return SentEvent(deliveries)

    def _queue(self, delivery: Delivery) -> None:
        if not delivery.sink.ready:
            self._record_outcome(delivery, "failed", "the sink is not open, or has no secret")
            delivery.ended.set()
            return
        lane = self._lanes.setdefault(delivery.lane, Lane())
        lane.add(delivery)
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(delivery.lane, lane), name=f"events of {delivery.lane}")
        self._drop_excess()

    async def secure(self, sent: SentEvent | None, timeout_seconds: float) -> bool:
        """Wait until the event is delivered or stored, for each sink. Return whether the job's message may be deleted.

        If a sink does not respond within a few seconds, the event is stored in the outbox while its quick attempts
        continue. Without an outbox, nothing more can be done, so the message may be deleted. Never raises.
        """
        deliveries = () if sent is None else sent.deliveries
        return all(await asyncio.gather(*(self._secure(delivery, timeout_seconds) for delivery in deliveries)))

    async def _secure(self, delivery: Delivery, timeout_seconds: float) -> bool:
        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                limit_seconds = min(PATIENCE_SECONDS, timeout_seconds / 2)
                with suppress(TimeoutError):
                    async with asyncio.timeout(limit_seconds):
                        await delivery.ended.wait()
                        return not delivery.lost
                if self._outbox is None:
                    return True
                return await self._store(delivery, DeliveryFailed("the receiver has not answered yet"))
        except TimeoutError:
            if not limit.expired():
                raise
            return False

    async def attempt(self, url: str, event: WebhookEvent) -> int:
        """Make one request for the outbox. Return the HTTP status. Raises DeliveryFailed."""
        return await self._sinks.sink(url).post(url, event)

    async def drain(self, timeout_seconds: float) -> int:
        """Wait until every event is delivered, stored or given up. Return the number given up.

        The last part of the time, at least HANDOVER_TIMEOUT_SECONDS, is reserved for storing and recording events.
        """
        keep_seconds = HANDOVER_TIMEOUT_SECONDS if self._outbox else 0
        deadline = self._clock.monotonic() + timeout_seconds - keep_seconds
        while self._lanes and (left := deadline - self._clock.monotonic()) > 0:
            await asyncio.wait([lane.task for lane in self._lanes.values() if lane.task is not None], timeout=left)
        lanes, self._lanes = self._lanes, {}
        undelivered = [delivery for lane in lanes.values() for delivery in lane.undelivered()]
        tasks = [lane.task for lane in lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stopping = DeliveryFailed("the daemon is stopping")
        endings = [self._fail(delivery, stopping) for delivery in undelivered]
        if self._endings:
            _, late = await asyncio.wait(self._endings, timeout=HANDOVER_TIMEOUT_SECONDS)
            for ending in late:
                ending.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return sum(ending is None or ending.cancelled() or not ending.result() for ending in endings)

    def is_progress_due(self, webhook_url: str | None, job_id: str) -> bool:
        """Return whether `send` would send a progress event now: the pipeline reports far more often than that."""
        sent_at = self._progress_at.get(job_id)
        period = self._settings.webhook_progress_seconds
        return bool(self._sinks.urls(webhook_url)) and (sent_at is None or self._clock.monotonic() - sent_at >= period)

    def _throttled(self, job_id: str) -> bool:
        now, period = self._clock.monotonic(), self._settings.webhook_progress_seconds
        # Remove expired entries, or a job that ends in another daemon would stay forever.
        self._progress_at = {job: at for job, at in self._progress_at.items() if now - at < period}
        throttled = job_id in self._progress_at
        self._progress_at.setdefault(job_id, now)
        return throttled

    def _drop_excess(self) -> None:
        """Limit memory while receivers are down: drop progress events first, then start events, oldest first."""
        in_hand = [(lane, delivery) for lane in self._lanes.values() for delivery in lane.undelivered()]
        if len(in_hand) > MAX_PENDING_EVENTS:
            lane, victim = min(in_hand, key=lambda item: item[1].event.weight)
            lane.drop(victim)
            self._fail(victim, DeliveryFailed("too many events are pending"))

    async def _run(self, name: str, lane: Lane) -> None:
        try:
            while lane.pending:
                lane.current = lane.pending.pop(0)
                await self._deliver(lane.current)
                lane.current = None
        finally:
            if self._lanes.get(name) is lane:
                del self._lanes[name]

    # --- one event ------------------------------------------------------------------------------------------------

    async def _deliver(self, delivery: Delivery) -> None:
        """Make attempts until the event is delivered, given up or superseded. Never raises."""

        async def pause(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await delivery.superseded.wait()
                raise _Superseded

        def before_pause(state: RetryCallState) -> None:
            failure = _failure(state)
            self._record_outcome(delivery, "retried", str(failure), failure.status)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._settings.webhook_attempts),
            retry=retry_if_exception(self._is_worth_another),
            wait=self._pause_seconds,
            before_sleep=before_pause,
            sleep=pause,
            reraise=True,
        )
        try:
            await retrying(self._attempt, delivery)
        except _Superseded:
            log.debug("event superseded", extra=_fields(delivery))
            delivery.ended.set()
        except DeliveryFailed as failure:
            self._fail(delivery, failure)
        except Exception as error:
            log.exception("event failed unexpectedly", extra=_fields(delivery))
            self._fail(delivery, DeliveryFailed(type(error).__name__))

    def _is_worth_another(self, error: BaseException) -> bool:
        """Return whether to make another attempt here."""
        if not isinstance(error, DeliveryFailed) or not error.retryable:
            return False
        # The outbox handles a Retry-After that is longer than the maximum backoff.
        return self._outbox is None or error.wait_seconds <= self._settings.webhook_backoff_max_seconds

    def _pause_seconds(self, state: RetryCallState) -> float:
        """Return the exponential backoff with jitter, or a longer Retry-After, up to the maximum backoff."""
        lowest, highest = self._settings.webhook_backoff_min_seconds, self._settings.webhook_backoff_max_seconds
        backoff = wait_exponential(multiplier=lowest, max=highest) + wait_random(0, lowest)
        return min(max(float(backoff(state)), _failure(state).wait_seconds), highest)

    async def _attempt(self, delivery: Delivery) -> None:
        """Make one request. Raises DeliveryFailed."""
        delivery.attempt += 1
        started_at = self._clock.monotonic()
        try:
            status = await delivery.sink.post(delivery.url, delivery.event)
        finally:
            delivery.seconds = self._clock.monotonic() - started_at
        self._record_outcome(delivery, "delivered", status=status)
        if delivery.event.final and self._record is not None:
            self._end(delivery, None, status)
        else:
            delivery.ended.set()

    # --- the end of an event --------------------------------------------------------------------------------------

    def _fail(self, delivery: Delivery, failure: DeliveryFailed) -> asyncio.Task[bool] | None:
        """Handle an undelivered event. A final event is stored or recorded in a task; others are given up."""
        if delivery.event.final and (self._outbox is not None or self._record is not None):
            return self._end(delivery, failure, failure.status)
        self._record_failure(delivery, failure)
        delivery.ended.set()
        return None

    def _end(self, delivery: Delivery, failure: DeliveryFailed | None, status: int | None) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._finalize(delivery, failure, status), name=f"end of {delivery.event.id}")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _finalize(self, delivery: Delivery, failure: DeliveryFailed | None, status: int | None) -> bool:
        """Store or record a final event. Return whether it was delivered or stored. Never raises."""
        try:
            return await self._put_away(delivery, failure, status)
        finally:
            delivery.ended.set()

    async def _put_away(self, delivery: Delivery, failure: DeliveryFailed | None, status: int | None) -> bool:
        event = delivery.event
        if failure is None:
            await write_record(self._record, delivery.url, event, "delivered", status)
            return True
        if failure.retryable and (delivery.stored or await self._store(delivery, failure)):
            self._record_outcome(delivery, "retried", f"{failure}; it is in the outbox", failure.status)
            return True
        delivery.lost = failure.retryable and self._outbox is not None
        self._record_failure(delivery, failure)
        await write_record(self._record, delivery.url, event, failure.result, status)
        return False

    async def _store(self, delivery: Delivery, failure: DeliveryFailed) -> bool:
        if self._outbox is None:
            return False
        try:
            async with asyncio.timeout(STORE_TIMEOUT_SECONDS):
                await self._outbox.store(delivery.url, delivery.event, delivery.taken_at, failure.wait_seconds)
        except asyncio.CancelledError:
            self._record_outcome(delivery, "failed", "the daemon is stopping, and the event was not stored in time")
            raise
        except (QueueUnavailable, TimeoutError) as error:
            self._outage.failed(error)
            return False
        except Exception:
            log.exception("event not stored", extra=_fields(delivery))
            return False
        self._outage.worked()
        delivery.stored = True
        return True

    def _record_failure(self, delivery: Delivery, failure: DeliveryFailed) -> None:
        result: Result = "refused" if failure.result == "refused" else "failed"
        self._record_outcome(delivery, result, str(failure), failure.status)

    def _record_outcome(
        self, delivery: Delivery, result: Result, error: str | None = None, status: int | None = None
    ) -> None:
        delivery.result = result
        message, final_level, level = _LOG_MESSAGES[result]
        log.log(
            final_level if delivery.event.final else level,
            message,
            extra={**_fields(delivery), "status": status, "error": error},
        )
        if self._observe is not None:
            self._observe(delivery.sink.name, delivery.event.type, result, delivery.seconds, delivery.event.exemplar)


class _Superseded(Exception):
    """A newer event superseded this one before it was delivered."""


def _failure(state: RetryCallState) -> DeliveryFailed:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, DeliveryFailed):
        raise TypeError(f"retried without a failed attempt: {error!r}")
    return error


def _fields(delivery: Delivery) -> dict[str, Any]:
    """Log fields. Excludes the payload, and the URL, whose query may contain a token."""
    return {
        **delivery.event.log_fields,
        "sink": delivery.sink.name,
        "event_type": delivery.event.type,
        "event_attempt": delivery.attempt,
    }
