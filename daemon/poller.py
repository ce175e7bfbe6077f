"""The poller: receives as many messages as there is capacity for, passes each to the processor, backs off, drains."""

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Protocol

from daemon.aws.sqs import Queue, ReceivedMessage
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.jobs.receive_limiter import ReceiveLimiter, WorkEstimate
from daemon.jobs.tenant_limit import TenantLimit
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage

log = logging.getLogger("transcriptd.poller")

BACKOFF_BASE_SECONDS = 1.0
GATE_PERIOD_SECONDS = 1.0
FULL_PERIOD_SECONDS = 10.0
EMPTY_PERIOD_SECONDS = 1.0
CROWDED_PERIOD_SECONDS = 0.5  # another tenant waits for it, and each receive costs a message one of its receives


class MessageProcessor(Protocol):
    async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None: ...


class Poller:
    """`run()` until `stop_receiving()`, then `drain()`."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        processor: MessageProcessor,
        metrics: Metrics,
        gate: Callable[[], str | None],
        limiter: ReceiveLimiter,
        tenants: TenantLimit,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`gate` returns the reason not to receive now (a full disk, no runner), or None."""
        self._tenants = tenants
        self._crowded = False  # the last receive had a message of a tenant at its limit
        self._limiter = limiter
        self._clock = clock
        self._backoff_max_seconds = settings.queue_backoff_max_seconds
        self._queue = queue
        self._processor = processor
        self._metrics = metrics
        self._gate = gate
        self._outage = Outage(log, "queue unavailable", "queue available again", level=logging.ERROR)
        self._stopped_receiving = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._jobs: set[asyncio.Task[None]] = set()
        self._full = False  # the loop waits for capacity: no receive is due
        self._changed = asyncio.Event()  # a job ended, there is capacity again, or receiving stops
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_successful_poll: float | None = None  # Unix time
        self.last_error: str | None = None  # why the last receive failed
        self._progressed_at = self._clock.monotonic()
        self._busy_at = self._clock.monotonic()
        metrics.poll_stalled_seconds.set_function(lambda: self.stalled_seconds)
        metrics.receive_capacity.set_function(lambda: limiter.capacity)

    @property
    def jobs_in_flight(self) -> int:
        return len(self._jobs)

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the last successful receive while one is due. None is due without capacity."""
        due = not self._stopped_receiving.is_set() and not self._full
        return self._clock.monotonic() - self._progressed_at if due else 0.0

    async def idle(self, seconds: float) -> None:
        """Return once no message has been held for this long."""
        while True:
            rest = self._busy_at + seconds - self._clock.monotonic()
            if rest <= 0 and not self._jobs:
                return
            await asyncio.sleep(max(rest, GATE_PERIOD_SECONDS))

    async def run(self) -> None:
        """Receive and dispatch until receiving stops. A receive then in flight completes, and its messages are released."""
        closed, closed_at = None, 0.0
        while not self._stopped_receiving.is_set():
            self._raise_if_crashed()
            reason = self._gate()
            if reason != closed:
                now = self._clock.monotonic()
                if reason:
                    closed_at = now if closed is None else closed_at
                    log.warning("receiving paused", extra={"reason": reason})
                else:
                    down_seconds = round(now - closed_at, 1)
                    log.warning("receiving resumed", extra={"reason": closed, "down_seconds": down_seconds})
                closed = reason
            if reason is not None:
                self._progressed_at = self._clock.monotonic()
                await self._wait(GATE_PERIOD_SECONDS)
            elif self._limiter.capacity == 0:
                self._full = True
                await self._wait(FULL_PERIOD_SECONDS)
                self._full, self._progressed_at = False, self._clock.monotonic()
            else:
                await self._receive()
        self._raise_if_crashed()

    def stop_receiving(self) -> None:
        self._stopped_receiving.set()
        self._changed.set()

    async def join(self) -> None:
        """Wait for the jobs in progress. Call after `stop_receiving()` and the end of `run()`."""
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def resume_receiving(self) -> None:
        """Undo `stop_receiving()`. Call `run()` again afterwards."""
        self._stopped_receiving.clear()
        self._progressed_at = self._busy_at = self._clock.monotonic()

    def interrupt(self) -> None:
        """Interrupt the jobs in progress. Their messages are released for another daemon."""
        self._interrupted.set()

    async def drain(self, timeout_seconds: float, force_stop: asyncio.Event) -> bool:
        """Wait for the jobs in progress, then interrupt the rest at the timeout or at `force_stop`.

        Return whether all jobs finished.
        """
        finished = asyncio.gather(*self._jobs, return_exceptions=True)
        forced = asyncio.create_task(force_stop.wait())
        await asyncio.wait((finished, forced), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        clean = finished.done()
        self.interrupt()
        await finished
        return clean

    async def _receive(self) -> None:
        backoff_seconds = BACKOFF_BASE_SECONDS
        while not self._stopped_receiving.is_set() and (capacity := self._limiter.capacity):
            asked_at = self._clock.monotonic()
            await self._tenants.recall()
            try:
                # Each receive of a message that cannot run here counts for SQS, so only look whether another tenant has one.
                messages = await self._queue.receive(1 if self._crowded else capacity)
            except QueueUnavailable as error:
                self._metrics.receive_calls.labels("error").inc()
                self.last_error = error.message
                self._outage.failed(error)
                await self._wait(random.uniform(0.1, backoff_seconds))  # noqa: S311  # jitter
                backoff_seconds = min(backoff_seconds * 2, self._backoff_max_seconds)
                continue
            self._outage.worked()
            self._polled(len(messages))
            dispatched = await self._dispatch_all(messages)
            self._crowded = dispatched < len(messages)
            if not dispatched:
                # A long poll that returns early, or a short poll, must not become a busy loop.
                period_seconds = CROWDED_PERIOD_SECONDS if messages else EMPTY_PERIOD_SECONDS
                await self._wait(asked_at + period_seconds - self._clock.monotonic())
            return

    def _polled(self, count: int) -> None:
        self.last_successful_poll = self._clock.unix()
        self.last_error = None
        self._progressed_at = self._clock.monotonic()
        self._metrics.last_successful_poll_timestamp_seconds.set(self.last_successful_poll)
        self._metrics.receive_calls.labels("messages" if count else "empty").inc()
        self._metrics.messages_received.inc(count)

    async def _dispatch_all(self, messages: list[ReceivedMessage]) -> int:
        """Dispatch messages, and return those of tenants at their limit to the queue. Return the number dispatched."""
        too_many = []
        for message in messages:
            if self._stopped_receiving.is_set() or self._tenants.has_place(message.tenant):
                self._dispatch(message)
            else:
                too_many.append(message)
        overdue = await self._tenants.give_back(too_many)
        for message in overdue:
            self._dispatch(message)
        return len(messages) - len(too_many) + len(overdue)

    def _dispatch(self, message: ReceivedMessage) -> None:
        interrupt = self._interrupted
        if self._stopped_receiving.is_set():
            # Received after stop_receiving(), by a receive that was in flight: release it.
            interrupt = asyncio.Event()
            interrupt.set()
        estimate = self._limiter.add(self._estimate_changed)
        self._tenants.add(message.tenant)
        task = asyncio.create_task(
            self._processor.process(message, interrupt, estimate), name=f"message {message.message_id}"
        )
        self._jobs.add(task)
        self._metrics.jobs_in_flight.set(len(self._jobs))
        task.add_done_callback(partial(self._ended, estimate, message.tenant))

    def _estimate_changed(self) -> None:
        if self._full and self._limiter.capacity:
            self._changed.set()

    def _ended(self, estimate: WorkEstimate, tenant: str | None, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._limiter.remove(estimate)
        self._tenants.remove(tenant)
        self._busy_at = self._clock.monotonic()
        self._metrics.jobs_in_flight.set(len(self._jobs))
        self._changed.set()
        # The processor turns every job failure into an outcome: an exception here is a bug in the daemon.
        if not task.cancelled() and (error := task.exception()) and not self._crashed.done():
            self._crashed.set_exception(error)

    def _raise_if_crashed(self) -> None:
        if self._crashed.done():
            self._crashed.result()

    async def _wait(self, seconds: float) -> None:
        """Wait for a change, at most `seconds`."""
        self._changed.clear()
        if self._stopped_receiving.is_set() or seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
