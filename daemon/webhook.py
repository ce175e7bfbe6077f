"""Job events over HTTP: quick attempts, in a lane for each job, so that a dead receiver delays nobody else's events.

At least once: the same `webhook-id` may arrive twice, but never an older event after a job's final one. Nothing here
blocks or fails a job. A final event that the quick attempts do not deliver goes to the outbox, if there is one.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.events import Event
from daemon.metrics import Exemplar
from daemon.outage import Outage
from daemon.outbox import Outbox
from daemon.outbox_entry import Record, write_record
from daemon.spans import Tracer
from daemon.webhook_client import Undelivered, WebhookClient

log = logging.getLogger("transcriptd.webhook")

MAX_PENDING_EVENTS = 1000
PATIENCE_SECONDS = 5.0  # with a receiver, before a job's message is deleted
STORE_TIMEOUT_SECONDS = 30.0
HAND_OVER_SECONDS = 5.0  # what a drain keeps for putting undelivered events into the outbox

Result = Literal["delivered", "retried", "failed", "refused"]
Observe = Callable[[str, Result, float, Exemplar], None]

# Result of a try → event, its level for a job's final event, and for the others, which a receiver can do without. That a
# receiver is down is told once, by webhook_client.py.
_NOTES: dict[Result, tuple[str, int, int]] = {
    "delivered": ("webhook delivered", logging.INFO, logging.DEBUG),
    "retried": ("webhook attempt failed", logging.DEBUG, logging.DEBUG),
    "failed": ("webhook given up", logging.ERROR, logging.DEBUG),
    "refused": ("webhook refused", logging.ERROR, logging.DEBUG),
}


@dataclass(eq=False, slots=True)
class _Delivery:
    url: str
    event: Event
    superseded: asyncio.Event = field(default_factory=asyncio.Event)  # it is stale, or taken from its lane
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # delivered, stored or given up, and on record
    stored: bool = False  # in the outbox
    result: Result | None = None  # of the last attempt
    attempt: int = 0
    seconds: float = 0.0  # of the last attempt

    @property
    def standing(self) -> str:
        """What has become of it so far."""
        return "stored" if self.stored else self.result if self.result and self.ended.is_set() else "pending"


@dataclass(eq=False, slots=True)
class _Lane:
    """The events of one job, delivered one after the other."""

    pending: list[_Delivery] = field(default_factory=list)
    current: _Delivery | None = None
    task: asyncio.Task[None] | None = None

    def undelivered(self) -> list[_Delivery]:
        """In order, the one in hand first; without what has become stale meanwhile."""
        all_of_them = [self.current, *self.pending] if self.current else self.pending
        return [delivery for delivery in all_of_them if not delivery.superseded.is_set()]

    def drop(self, delivery: _Delivery) -> None:
        """Forget an event; of the one in hand the attempt in progress is the last."""
        delivery.superseded.set()
        self.pending = [other for other in self.pending if other is not delivery]

    def add(self, delivery: _Delivery) -> None:
        """Take an event, and drop those that it makes stale: a final one all others, progress older progress."""
        ahead = self.undelivered()
        if delivery.event.status == "progress" and ahead and ahead[-1].event.final:
            return
        for other in ahead:
            if not other.event.final and (delivery.event.final or other.event.status == delivery.event.status):
                self.drop(other)
        self.pending.append(delivery)


class WebhookSender:
    """Sends events in the background.

    `observe(event_type, result, seconds, exemplar)`, which must not raise, is called with the result of every attempt:
    `delivered`; `retried`, it failed and another one, here or from the outbox, or a newer event, follows; `failed`, the
    event was given up; `refused`, the address is one that we do not call.

    `record(event, ending, status)` is told what became of a final event, unless the outbox has it.

    Raises ConfigError for a secret that is none.
    """

    def __init__(
        self,
        settings: Settings,
        observe: Observe | None = None,
        *,
        outbox: Outbox | None = None,
        record: Record | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._outbox = outbox
        self._record = record
        self._client = WebhookClient(settings, tracer)
        self._lanes: dict[str, _Lane] = {}
        self._outage = Outage(log, "outbox not storing", "outbox storing again", level=logging.ERROR)
        self._endings: set[asyncio.Task[bool]] = set()  # events on their way to the outbox or the record
        self._progress_at: dict[str, float] = {}  # job → when its last progress event was taken

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain(0)
        await self._client.__aexit__()

    def send(self, url: str | None, event: Event) -> _Delivery | None:
        """Queue an event; returns at once and never raises. To be called on the event loop. For `secure`.

        Without a url nothing is sent. Progress is throttled: of a job's progress events that come closer together than
        webhook_progress_seconds only the first is sent.
        """
        if url is None or (event.status == "progress" and self._throttled(event.lane)):
            return None
        delivery = _Delivery(url, event)
        if not self._client.ready:
            self._note(delivery, "failed", "the sender is not open, or has no secret")
            return None
        lane = self._lanes.setdefault(event.lane, _Lane())
        lane.add(delivery)
        if lane.task is None:
            lane.task = asyncio.create_task(self._run(event.lane, lane), name=f"webhooks of {event.lane}")
        self._shed()
        return delivery

    async def secure(self, delivery: _Delivery | None, timeout_seconds: float) -> bool:
        """Whether an event can be lost no more, or nothing further can be done: then the message may be deleted.

        A receiver that answers is waited for. Of one that does not, the event is stored in the outbox while its quick
        attempts go on; without an outbox the wait is all there is. Never raises.
        """
        if delivery is None:
            return True
        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                limit_seconds = min(PATIENCE_SECONDS, timeout_seconds / 2)
                with suppress(TimeoutError):
                    async with asyncio.timeout(limit_seconds):
                        await delivery.ended.wait()
                        return True
                if self._outbox is None:
                    return True
                return await self._store(delivery, Undelivered("the receiver has not answered yet"))
        except TimeoutError:
            if not limit.expired():
                raise
            return False

    async def attempt(self, url: str, event: Event) -> int:
        """One request, for the outbox; the status. Raises Undelivered."""
        return await self._client.post(url, event)

    async def drain(self, timeout_seconds: float) -> int:
        """Wait until every event is delivered, stored or given up; returns how many had to be given up.

        The end of the time, and never less than HAND_OVER_SECONDS, is for the outbox and the records.
        """
        keep_seconds = HAND_OVER_SECONDS if self._outbox else 0
        deadline = time.monotonic() + timeout_seconds - keep_seconds
        while self._lanes and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait([lane.task for lane in self._lanes.values() if lane.task is not None], timeout=left)
        lanes, self._lanes = self._lanes, {}
        undelivered = [delivery for lane in lanes.values() for delivery in lane.undelivered()]
        tasks = [lane.task for lane in lanes.values() if lane.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stopping = Undelivered("the daemon stops")
        endings = [self._fail(delivery, stopping) for delivery in undelivered]
        if self._endings:
            _, late = await asyncio.wait(self._endings, timeout=HAND_OVER_SECONDS)
            for ending in late:
                ending.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        return sum(ending is None or ending.cancelled() or not ending.result() for ending in endings)

    def _throttled(self, job_id: str) -> bool:
        now, period = time.monotonic(), self._settings.webhook_progress_seconds
        # Entries that throttle nothing any more leave, or a job that ends elsewhere would stay for ever.
        self._progress_at = {job: at for job, at in self._progress_at.items() if now - at < period}
        throttled = job_id in self._progress_at
        self._progress_at.setdefault(job_id, now)
        return throttled

    def _shed(self) -> None:
        """Keep memory bounded while receivers are down: progress goes first, then starts, the oldest of each first."""
        in_hand = [(lane, delivery) for lane in self._lanes.values() for delivery in lane.undelivered()]
        if len(in_hand) > MAX_PENDING_EVENTS:
            lane, victim = min(in_hand, key=lambda item: item[1].event.weight)
            lane.drop(victim)
            self._fail(victim, Undelivered("too many events are pending"))

    async def _run(self, name: str, lane: _Lane) -> None:
        try:
            while lane.pending:
                lane.current = lane.pending.pop(0)
                await self._deliver(lane.current)
                lane.current = None
        finally:
            if self._lanes.get(name) is lane:
                del self._lanes[name]

    # --- one event ------------------------------------------------------------------------------------------------

    async def _deliver(self, delivery: _Delivery) -> None:
        """Try until the event is delivered, given up or superseded. Never raises."""

        async def pause(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await delivery.superseded.wait()
                raise _Superseded

        def before_pause(state: RetryCallState) -> None:
            failure = _failure(state)
            self._note(delivery, "retried", str(failure), failure.status)

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
            log.debug("webhook superseded", extra=_fields(delivery))
            delivery.ended.set()
        except Undelivered as failure:
            self._fail(delivery, failure)
        except Exception as error:
            log.exception("webhook failed unexpectedly", extra=_fields(delivery))
            self._fail(delivery, Undelivered(type(error).__name__))

    def _is_worth_another(self, error: BaseException) -> bool:
        """Whether a further attempt here makes sense."""
        if not isinstance(error, Undelivered) or not error.retryable:
            return False
        # A receiver that asks for a longer pause than we make gets it from the outbox.
        return self._outbox is None or error.wait_seconds <= self._settings.webhook_backoff_max_seconds

    def _pause_seconds(self, state: RetryCallState) -> float:
        """Exponential with jitter, or as long as the receiver asks for; never above the longest back-off."""
        lowest, highest = self._settings.webhook_backoff_min_seconds, self._settings.webhook_backoff_max_seconds
        backoff = wait_exponential(multiplier=lowest, max=highest) + wait_random(0, lowest)
        return min(max(float(backoff(state)), _failure(state).wait_seconds), highest)

    async def _attempt(self, delivery: _Delivery) -> None:
        """One request. Raises Undelivered."""
        delivery.attempt += 1
        started_at = time.monotonic()
        try:
            status = await self._client.post(delivery.url, delivery.event)
        finally:
            delivery.seconds = time.monotonic() - started_at
        self._note(delivery, "delivered", status=status)
        if delivery.event.final and self._record is not None:
            self._end(delivery, None, status)
        else:
            delivery.ended.set()

    # --- the end of an event --------------------------------------------------------------------------------------

    def _fail(self, delivery: _Delivery, failure: Undelivered) -> asyncio.Task[bool] | None:
        """It is not delivered. A final event is stored or recorded, which takes a task; others are just given up."""
        if delivery.event.final and (self._outbox is not None or self._record is not None):
            return self._end(delivery, failure, failure.status)
        self._note_failure(delivery, failure)
        delivery.ended.set()
        return None

    def _end(self, delivery: _Delivery, failure: Undelivered | None, status: int | None) -> asyncio.Task[bool]:
        task = asyncio.create_task(self._settle(delivery, failure, status), name=f"end of {delivery.event.id}")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _settle(self, delivery: _Delivery, failure: Undelivered | None, status: int | None) -> bool:
        """Store or record a final event; whether it is in good hands. Never raises."""
        try:
            return await self._put_away(delivery, failure, status)
        finally:
            delivery.ended.set()

    async def _put_away(self, delivery: _Delivery, failure: Undelivered | None, status: int | None) -> bool:
        event = delivery.event
        if failure is None:
            await write_record(self._record, event, "delivered", status)
            return True
        if failure.retryable and (delivery.stored or await self._store(delivery, failure)):
            self._note(delivery, "retried", f"{failure}; it is in the outbox", failure.status)
            return True
        self._note_failure(delivery, failure)
        await write_record(self._record, event, failure.result, status)
        return False

    async def _store(self, delivery: _Delivery, failure: Undelivered) -> bool:
        if self._outbox is None:
            return False
        try:
            async with asyncio.timeout(STORE_TIMEOUT_SECONDS):
                await self._outbox.store(delivery.url, delivery.event, delivery.taken_at, failure.wait_seconds)
        except asyncio.CancelledError:
            self._note(delivery, "failed", "the daemon stops, and the outbox did not take it in time")
            raise
        except (QueueUnavailable, TimeoutError) as error:
            self._outage.failed(error)
            return False
        except Exception:
            log.exception("webhook not stored", extra=_fields(delivery))
            return False
        self._outage.worked()
        delivery.stored = True
        return True

    def _note_failure(self, delivery: _Delivery, failure: Undelivered) -> None:
        result: Result = "refused" if failure.result == "refused" else "failed"
        self._note(delivery, result, str(failure), failure.status)

    def _note(self, delivery: _Delivery, result: Result, error: str | None = None, status: int | None = None) -> None:
        delivery.result = result
        message, final_level, level = _NOTES[result]
        log.log(
            final_level if delivery.event.final else level,
            message,
            extra={**_fields(delivery), "status": status, "error": error},
        )
        if self._observe is not None:
            self._observe(delivery.event.type, result, delivery.seconds, delivery.event.exemplar)


class _Superseded(Exception):
    """A newer event made this one stale before it was delivered."""


def _failure(state: RetryCallState) -> Undelivered:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, Undelivered):
        raise TypeError(f"retried without a failed attempt: {error!r}")
    return error


def _fields(delivery: _Delivery) -> dict[str, Any]:
    """For the log: neither URL, whose query may hold a token, nor payload."""
    return {**delivery.event.log_fields, "webhook_event": delivery.event.type, "webhook_attempt": delivery.attempt}
