"""The poller: receives as many messages as there is capacity for, passes each to the processor, backs off, drains.

It does the I/O; queue_policy.py decides which queue to receive from, and how many messages.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from daemon.aws.sqs import ReceivedMessage
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.job_queues import JobQueue
from daemon.jobs.queue_policy import HEAD_START_SECONDS, QueuePolicy
from daemon.jobs.receive_limiter import ReceiveLimiter, WorkEstimate
from daemon.jobs.tenant_limit import TenantLimit
from daemon.protocol.priority import Priority
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


class ReceiveQueue(Protocol):
    @property
    def about(self) -> JobQueue: ...

    async def receive(self, max_messages: int) -> list[ReceivedMessage]: ...


class _Intake:
    """State of receiving from one queue."""

    def __init__(self, queue: ReceiveQueue, tenants: TenantLimit, clock: Clock) -> None:
        self.queue = queue
        self.about = queue.about
        self.tenants = tenants
        self.is_crowded = False  # the last receive had a message of a tenant at its limit
        self.outage = Outage(
            log, "queue unavailable", "queue available again", level=logging.ERROR, queue=queue.about.name
        )
        self.full = False  # its loop waits for capacity or for the queues before it: no receive is due
        self.closed: str | None = None  # why receiving is paused
        self.closed_at = 0.0
        self.progressed_at = clock.monotonic()
        self.last_error: str | None = None


class Poller:
    """`run()` until `stop_receiving()`, then `drain()`. Each queue has its own loop; queue_policy.py decides between them."""

    def __init__(
        self,
        settings: Settings,
        queues: Iterable[ReceiveQueue],
        processor: MessageProcessor,
        metrics: Metrics,
        gate: Callable[[str], str | None],
        limiter: ReceiveLimiter,
        tenants: Mapping[Priority, TenantLimit],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`gate` returns the reason not to receive from the named queue now (a full disk, no runner), or None. `tenants` are the
        limits of each queue."""
        self._limiter = limiter
        self._clock = clock
        self._backoff_max_seconds = settings.queue_backoff_max_seconds
        self._intakes = [_Intake(queue, tenants[queue.about.priority], clock) for queue in queues]
        self._policy = QueuePolicy([intake.about for intake in self._intakes], limiter, clock)
        self._processor = processor
        self._metrics = metrics
        self._gate = gate
        self._stopped_receiving = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._jobs: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # a job ended, there is capacity again, or receiving stops
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_successful_poll: float | None = None  # Unix time
        self._busy_at = self._clock.monotonic()
        for intake in self._intakes:
            name = intake.about.name
            metrics.poll_stalled_seconds.labels(name).set_function(partial(self._stalled_seconds, intake))
            metrics.receive_capacity.labels(name).set_function(partial(self._policy.capacity, intake.about))
            metrics.jobs_in_flight.labels(name).set_function(partial(limiter.held, intake.about.priority))

    @property
    def jobs_in_flight(self) -> int:
        return len(self._jobs)

    @property
    def last_error(self) -> str | None:
        """Why the last receive of a queue failed, the most urgent queue first."""
        return next((intake.last_error for intake in self._intakes if intake.last_error), None)

    @property
    def stalled_seconds(self) -> float:
        """Seconds since the last successful receive while one is due, of the queue with the most. None is due without
        capacity."""
        return max(map(self._stalled_seconds, self._intakes))

    @property
    def silent_seconds(self) -> float:
        """The same of the queue with the least: while it is low, the daemon works."""
        return min(map(self._stalled_seconds, self._intakes))

    def _stalled_seconds(self, intake: _Intake) -> float:
        due = not self._stopped_receiving.is_set() and not intake.full
        return self._clock.monotonic() - intake.progressed_at if due else 0.0

    async def idle(self, seconds: float) -> None:
        """Return once no message has been held for this long."""
        while True:
            rest = self._busy_at + seconds - self._clock.monotonic()
            if rest <= 0 and not self._jobs:
                return
            await asyncio.sleep(max(rest, GATE_PERIOD_SECONDS))

    async def run(self) -> None:
        """Receive and dispatch until receiving stops. Receives then in flight complete, and their messages are released."""
        await asyncio.gather(*(self._poll(intake) for intake in self._intakes))
        self._raise_if_crashed()

    async def _poll(self, intake: _Intake) -> None:
        try:
            while not self._stopped_receiving.is_set() and not self._crashed.done():
                await self._step(intake)
        except Exception as error:  # noqa: BLE001  # a bug in the daemon: the other queues' loops must end as well
            self._crash(error)

    async def _step(self, intake: _Intake) -> None:
        """Receive from the queue once, or wait for a reason to do so."""
        if self._is_paused(intake):
            self._policy.skip(intake.about)
            intake.progressed_at = self._clock.monotonic()
            await self._wait(GATE_PERIOD_SECONDS)
        elif self._policy.capacity(intake.about) == 0:
            await self._wait_idle(intake, FULL_PERIOD_SECONDS)
        elif self._policy.is_held_back(intake.about):
            await self._wait_idle(intake, HEAD_START_SECONDS)
        else:
            await self._receive(intake)

    def _is_paused(self, intake: _Intake) -> bool:
        reason = self._gate(intake.about.name)
        if reason != intake.closed:
            now, queue = self._clock.monotonic(), intake.about.name
            if reason:
                intake.closed_at = now if intake.closed is None else intake.closed_at
                log.warning("receiving paused", extra={"reason": reason, "queue": queue})
            else:
                down_seconds = round(now - intake.closed_at, 1)
                log.warning(
                    "receiving resumed", extra={"reason": intake.closed, "queue": queue, "down_seconds": down_seconds}
                )
            intake.closed = reason
        return reason is not None

    async def _wait_idle(self, intake: _Intake, seconds: float) -> None:
        """Wait while no receive is due."""
        intake.full = True
        await self._wait(seconds)
        intake.full, intake.progressed_at = False, self._clock.monotonic()

    def stop_receiving(self) -> None:
        self._stopped_receiving.set()
        self._changed.set()

    async def join(self) -> None:
        """Wait for the jobs in progress. Call after `stop_receiving()` and the end of `run()`."""
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def resume_receiving(self) -> None:
        """Undo `stop_receiving()`. Call `run()` again afterwards."""
        self._stopped_receiving.clear()
        self._busy_at = self._clock.monotonic()
        for intake in self._intakes:
            intake.progressed_at = self._busy_at

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

    async def _receive(self, intake: _Intake) -> None:
        backoff_seconds = BACKOFF_BASE_SECONDS
        queue = intake.about
        while not self._stopped_receiving.is_set() and (count := self._policy.request_size(queue)):
            asked_at = self._clock.monotonic()
            await intake.tenants.recall()
            # Each receive of a message that cannot run here counts for SQS, so only look whether another tenant has one.
            count = 1 if intake.is_crowded else count
            self._policy.asking(queue, count)
            try:
                messages = await intake.queue.receive(count)
            except QueueUnavailable as error:
                self._policy.answered(queue, 0)
                self._metrics.receive_calls.labels(queue.name, "error").inc()
                intake.last_error = error.message
                intake.outage.failed(error)
                await self._wait(random.uniform(0.1, backoff_seconds))  # noqa: S311  # jitter
                backoff_seconds = min(backoff_seconds * 2, self._backoff_max_seconds)
                continue
            intake.outage.worked()
            self._polled(intake, len(messages))
            dispatched = await self._dispatch_all(messages, intake)
            # A queue whose tenants are all at their limits holds back no other queue.
            self._policy.answered(queue, dispatched)
            intake.is_crowded = dispatched < len(messages)
            if not dispatched:
                # A long poll that returns early, or a short poll, must not become a busy loop.
                period_seconds = CROWDED_PERIOD_SECONDS if messages else EMPTY_PERIOD_SECONDS
                await self._wait(asked_at + period_seconds - self._clock.monotonic())
            return

    def _polled(self, intake: _Intake, count: int) -> None:
        queue = intake.about.name
        self.last_successful_poll = self._clock.unix()
        intake.last_error = None
        intake.progressed_at = self._clock.monotonic()
        self._metrics.last_successful_poll_timestamp_seconds.set(self.last_successful_poll)
        self._metrics.receive_calls.labels(queue, "messages" if count else "empty").inc()
        self._metrics.messages_received.labels(queue).inc(count)

    async def _dispatch_all(self, messages: list[ReceivedMessage], intake: _Intake) -> int:
        """Dispatch messages, and return those of tenants at their limit to the queue. Return the number dispatched."""
        too_many = []
        for message in messages:
            if self._stopped_receiving.is_set() or intake.tenants.has_place(message.tenant):
                self._dispatch(message, intake)
            else:
                too_many.append(message)
        overdue = await intake.tenants.give_back(too_many)
        for message in overdue:
            self._dispatch(message, intake)
        return len(messages) - len(too_many) + len(overdue)

    def _dispatch(self, message: ReceivedMessage, intake: _Intake) -> None:
        interrupt = self._interrupted
        if self._stopped_receiving.is_set():
            # Received after stop_receiving(), by a receive that was in flight: release it.
            interrupt = asyncio.Event()
            interrupt.set()
        estimate = self._limiter.add(self._estimate_changed, intake.about.priority)
        intake.tenants.add(message.tenant)
        task = asyncio.create_task(
            self._processor.process(message, interrupt, estimate), name=f"message {message.message_id}"
        )
        self._jobs.add(task)
        task.add_done_callback(partial(self._ended, estimate, message.tenant, intake.tenants))

    def _estimate_changed(self) -> None:
        if any(intake.full and self._policy.capacity(intake.about) for intake in self._intakes):
            self._changed.set()

    def _ended(
        self, estimate: WorkEstimate, tenant: str | None, tenants: TenantLimit, task: asyncio.Task[None]
    ) -> None:
        self._jobs.discard(task)
        self._limiter.remove(estimate)
        tenants.remove(tenant)
        self._busy_at = self._clock.monotonic()
        self._changed.set()
        # The processor turns every job failure into an outcome: an exception here is a bug in the daemon.
        if not task.cancelled() and (error := task.exception()):
            self._crash(error)

    def _crash(self, error: BaseException) -> None:
        if not self._crashed.done():
            self._crashed.set_exception(error)
        self._changed.set()

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
