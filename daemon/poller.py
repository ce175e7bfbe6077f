"""The poller: receives no more messages than there is room for, hands each to the processor, backs off, drains."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.intake import Intake, Load
from daemon.metrics import Metrics
from daemon.outage import Outage
from daemon.sqs import Queue, Received

log = logging.getLogger("transcriptd.poller")

BACKOFF_BASE_SECONDS = 1.0
GATE_PERIOD_SECONDS = 1.0
FULL_PERIOD_SECONDS = 10.0
EMPTY_PERIOD_SECONDS = 1.0


class Processes(Protocol):
    async def process(self, message: Received, leave: asyncio.Event, load: Load) -> None: ...


class Poller:
    """`run()` until `quiet()`, then `drain()`."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        processor: Processes,
        metrics: Metrics,
        gate: Callable[[], str | None],
        intake: Intake,
    ) -> None:
        """`gate` says why no message may be received now (a full disk, no runner), or None."""
        self._intake = intake
        self._backoff_max_seconds = settings.queue_backoff_max_seconds
        self._queue = queue
        self._processor = processor
        self._metrics = metrics
        self._gate = gate
        self._outage = Outage(log, "queue unavailable", "queue available again", level=logging.ERROR)
        self._quiet = asyncio.Event()
        self._leave = asyncio.Event()
        self._jobs: set[asyncio.Task[None]] = set()
        self._full = False  # the loop waits for room: no receive is due
        self._changed = asyncio.Event()  # a job ended, there is room again, or we go quiet
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.last_successful_poll: float | None = None  # Unix time
        self.trouble: str | None = None  # why the last receive failed
        self._progressed_at = time.monotonic()
        self._busy_at = time.monotonic()
        metrics.poll_stalled_seconds.set_function(lambda: self.stalled_seconds)
        metrics.jobs_in_flight_room.set_function(lambda: intake.room)

    @property
    def jobs_in_flight(self) -> int:
        return len(self._jobs)

    @property
    def stalled_seconds(self) -> float:
        """How long a receive has been due and none has succeeded. Without room for a message none is due."""
        due = not self._quiet.is_set() and not self._full
        return time.monotonic() - self._progressed_at if due else 0.0

    async def idle(self, seconds: float) -> None:
        """Return once no message was held for so long."""
        while True:
            rest = self._busy_at + seconds - time.monotonic()
            if rest <= 0 and not self._jobs:
                return
            await asyncio.sleep(max(rest, GATE_PERIOD_SECONDS))

    async def run(self) -> None:
        """Receive and dispatch until quiet. A receive in flight then is finished, and what it brought is released."""
        closed, closed_at = None, 0.0
        while not self._quiet.is_set():
            self._raise_if_crashed()
            reason = self._gate()
            if reason != closed:
                now = time.monotonic()
                if reason:
                    closed_at = now if closed is None else closed_at
                    log.warning("receiving paused", extra={"reason": reason})
                else:
                    down_seconds = round(now - closed_at, 1)
                    log.warning("receiving resumed", extra={"reason": closed, "down_seconds": down_seconds})
                closed = reason
            if reason is not None:
                self._progressed_at = time.monotonic()
                await self._wait(GATE_PERIOD_SECONDS)
            elif self._intake.room == 0:
                self._full = True
                await self._wait(FULL_PERIOD_SECONDS)
                self._full, self._progressed_at = False, time.monotonic()
            else:
                await self._receive()
        self._raise_if_crashed()

    def quiet(self) -> None:
        """Take no more messages."""
        self._quiet.set()
        self._changed.set()

    async def emptied(self) -> None:
        """After `quiet()` and the end of `run()`: wait for what is in hand."""
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def resume(self) -> None:
        """Undo `quiet()`; then `run()` again."""
        self._quiet.clear()
        self._progressed_at = self._busy_at = time.monotonic()

    def leave(self) -> None:
        """Interrupt the jobs in hand: each is released for another daemon."""
        self._leave.set()

    async def drain(self, timeout_seconds: float, hurry: asyncio.Event) -> bool:
        """Wait for the jobs in hand, until the deadline or `hurry`; then interrupt the rest. True if none was."""
        finished = asyncio.gather(*self._jobs, return_exceptions=True)
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait((finished, hurried), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        clean = finished.done()
        self.leave()
        await finished
        return clean

    async def _receive(self) -> None:
        backoff_seconds = BACKOFF_BASE_SECONDS
        while not self._quiet.is_set() and (room := self._intake.room):
            asked_at = time.monotonic()
            try:
                messages = await self._queue.receive(room)
            except QueueUnavailable as error:
                self._metrics.receives.labels("error").inc()
                self.trouble = error.message
                self._outage.failed(error)
                await self._wait(random.uniform(0.1, backoff_seconds))  # noqa: S311  # jitter
                backoff_seconds = min(backoff_seconds * 2, self._backoff_max_seconds)
                continue
            self._outage.worked()
            self._polled(len(messages))
            for message in messages:
                self._dispatch(message)
            if not messages:
                # A poll that ends before its time, or is no long poll at all, must not become a busy loop.
                await self._wait(asked_at + EMPTY_PERIOD_SECONDS - time.monotonic())
            return

    def _polled(self, count: int) -> None:
        self.last_successful_poll = time.time()
        self.trouble = None
        self._progressed_at = time.monotonic()
        self._metrics.last_successful_poll_timestamp_seconds.set(self.last_successful_poll)
        self._metrics.receives.labels("messages" if count else "empty").inc()
        self._metrics.messages_received.inc(count)

    def _dispatch(self, message: Received) -> None:
        leave = self._leave
        if self._quiet.is_set():
            # It came with a receive that was in flight when we were told to stop: give it back.
            leave = asyncio.Event()
            leave.set()
        load = self._intake.take(self._load_changed)
        task = asyncio.create_task(self._processor.process(message, leave, load), name=f"message {message.message_id}")
        self._jobs.add(task)
        self._metrics.jobs_in_flight.set(len(self._jobs))
        task.add_done_callback(partial(self._ended, load))

    def _load_changed(self) -> None:
        if self._full and self._intake.room:
            self._changed.set()

    def _ended(self, load: Load, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._intake.end(load)
        self._busy_at = time.monotonic()
        self._metrics.jobs_in_flight.set(len(self._jobs))
        self._changed.set()
        # The processor turns every failure of a job into an outcome: what escapes it is a fault of ours.
        if not task.cancelled() and (error := task.exception()) and not self._crashed.done():
            self._crashed.set_exception(error)

    def _raise_if_crashed(self) -> None:
        if self._crashed.done():
            self._crashed.result()

    async def _wait(self, seconds: float) -> None:
        """Until something changed, at most so long."""
        self._changed.clear()
        if self._quiet.is_set() or seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
