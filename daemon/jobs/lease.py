"""The lease: the exclusive right to work on a message, extended by a heartbeat.

On a standard queue, SQS accepts an extension with a stale receipt handle, which has no effect or, worse, changes the
lease of the current holder. So an accepted call proves nothing. Ownership is determined by a local monotonic deadline,
counted from the *send* time of the last accepted call. When that deadline minus a margin passes, the lease is lost: the
work is cancelled, nothing is published, and no further call is made with the handle.

If SQS answers within the lease that it has no such message, the message expired or was purged: no daemon can receive it
again. Then the work continues without extensions. The manifest is written only if there is none.
"""

import asyncio
import logging
import random
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from daemon.aws.sqs import ReceivedMessage
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.errors import Interrupted, LeaseLost, MessageGone, QueueUnavailable
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.lease")

# The lease counts as lost this share of its length before SQS ends it, to allow for clock drift and cancelling the work.
MARGIN_SHARE = 0.1
# SQS rejects extensions beyond 12 h after the receive; keep a margin.
CAP_SECONDS = MAX_LEASE_SECONDS - 60

T = TypeVar("T")


class LeaseExtender(Protocol):
    async def extend(self, message: ReceivedMessage, seconds: float) -> None: ...


class Lease:
    """`async with Lease(…) as lease: await lease.hold(work(), interrupt)`, then `await lease.close()`, then the outcome call."""

    def __init__(
        self,
        queue: LeaseExtender,
        message: ReceivedMessage,
        settings: Settings,
        metrics: Metrics,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._queue = queue
        self._message = message
        self._length_seconds = settings.queue(message.queue).visibility_timeout_seconds
        self._period_seconds = settings.heartbeat_seconds
        self._margin_seconds = self._length_seconds * MARGIN_SHARE
        self._metrics = metrics
        self._clock = clock
        self._last_accepted_at = message.leased_at
        self._deadline = message.leased_at + self._length_seconds
        self._lost = asyncio.Event()
        self.gone = False  # SQS has no message for the handle, although the lease is valid: no one else can receive it
        self._heartbeat: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._heartbeat = asyncio.create_task(self._beat(), name=f"lease {self._message.message_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def lost(self) -> bool:
        return self._lost.is_set() or self.remaining_seconds <= 0

    @property
    def remaining_seconds(self) -> float:
        """Seconds for which the lease is provably valid."""
        return self._deadline - self._margin_seconds - self._clock.monotonic()

    def require(self) -> None:
        """Raise LeaseLost unless the lease is still valid.

        Call before any irreversible step: after a suspend, the lease may have expired before the heartbeat task runs again.
        """
        if self.lost:
            raise LeaseLost(f"the lease on message {self._message.message_id} was lost; the job was cancelled")

    async def hold(self, work: Coroutine[Any, Any, T], interrupt: asyncio.Event) -> T:
        """Run the work while the lease is valid and `interrupt` is not set. Return its result.

        Raises LeaseLost if the lease ends first, Interrupted if `interrupt` is set first, and the heartbeat's exception if
        the heartbeat fails; the work is then cancelled and awaited. If the work finishes at the moment of the interrupt, its
        result counts; after a lost lease, it does not.
        """
        if interrupt.is_set():
            work.close()
            raise Interrupted("the daemon is stopping; the message was released")
        task = asyncio.create_task(work)
        lost, leaving = asyncio.create_task(self._lost.wait()), asyncio.create_task(interrupt.wait())
        heartbeat = (self._heartbeat,) if self._heartbeat else ()
        try:
            await asyncio.wait((task, lost, leaving, *heartbeat), return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            leaving.cancel()
            if not task.done():
                task.cancel()
            await asyncio.wait((task,))
        failure = self._heartbeat_failure()
        if (self.lost or failure) and not task.cancelled():
            task.exception()  # mark it retrieved: the work's own error no longer matters
        if failure:
            raise failure  # the lease is no longer extended: another daemon will receive the message
        self.require()
        if task.cancelled():
            raise Interrupted("the daemon is stopping; the message was released")
        return task.result()

    async def close(self) -> None:
        """Stop the heartbeat and wait for its end: an extension after an outcome call would undo that call."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait((self._heartbeat,))
            if failure := self._heartbeat_failure():
                raise failure
            self._heartbeat = None
        if self.gone:
            self.end_without_message()

    def end_without_message(self) -> None:
        """Note that SQS has no message for the handle. Call after `close()`: the end of the delivery has one lease length."""
        self.gone, self._deadline = True, self._clock.monotonic() + self._length_seconds

    def _heartbeat_failure(self) -> BaseException | None:
        """Return the exception that ended the heartbeat, if any."""
        task = self._heartbeat
        return task.exception() if task and task.done() and not task.cancelled() else None

    async def _beat(self) -> None:
        try:
            while not self.lost:
                if self.gone:  # no call to make; `hold` still needs this task
                    await self._sleep_until(self._deadline - self._margin_seconds)
                    continue
                await self._sleep_until(
                    min(self._last_accepted_at + self._period_seconds, self._deadline - self._margin_seconds)
                )
                await self._extend()
        finally:
            if self.lost:
                self._lost.set()
        self._metrics.leases_lost.inc()
        log.warning("lease lost")

    async def _extend(self) -> None:
        """Extend the lease once, with retries. Returns when a call is accepted, the message is gone or the lease is lost."""
        pause_seconds = self._period_seconds / 10
        failures, began_at = 0, self._clock.monotonic()
        while (remaining := self.remaining_seconds) > 0:
            sent_at = self._clock.monotonic()
            seconds = min(self._length_seconds, CAP_SECONDS - (sent_at - self._message.leased_at))
            if seconds <= self._margin_seconds:
                # At the 12 h limit no extension is possible: wait for the deadline.
                await self._sleep_until(self._deadline - self._margin_seconds)
                return
            try:
                # A hanging call must leave time for another.
                async with asyncio.timeout(min(self._period_seconds / 2, remaining)):
                    await self._queue.extend(self._message, seconds)
            except MessageGone as error:
                if self.remaining_seconds <= 0:
                    return  # suspended during the call: the lease may have ended before SQS answered
                # The message expired, was purged or deleted. The result is still wanted, and no one else will produce it.
                self.gone, self._deadline = True, self._clock.monotonic() + CAP_SECONDS
                self._metrics.heartbeats.labels("gone").inc()
                log.warning("message gone", extra={"error": safe_message(error)})
                return
            except (QueueUnavailable, TimeoutError) as error:
                self._metrics.heartbeats.labels("failed").inc()
                failures += 1
                log.log(
                    logging.WARNING if failures == 1 else logging.DEBUG,  # one warning per outage
                    "lease extension failed",
                    extra={"error": safe_message(error), "remaining_seconds": round(self.remaining_seconds, 1)},
                )
                await asyncio.sleep(min(random.uniform(0, pause_seconds), max(0.0, self.remaining_seconds)))  # noqa: S311  # jitter
                # Limited, so that several attempts fit into the rest of the lease.
                pause_seconds = min(pause_seconds * 2, self._period_seconds / 2)
            else:
                self._metrics.heartbeats.labels("extended").inc()
                self._metrics.lease_margin_seconds.observe(max(0.0, self._deadline - sent_at))
                self._last_accepted_at = sent_at
                self._deadline = sent_at + seconds
                if failures:
                    down_seconds = round(self._clock.monotonic() - began_at, 1)
                    log.warning("lease extended again", extra={"down_seconds": down_seconds, "failures": failures})
                return

    async def _sleep_until(self, monotonic_seconds: float) -> None:
        await asyncio.sleep(max(0.0, monotonic_seconds - self._clock.monotonic()))
