"""The visibility lease: the right to work on a message, kept alive by a heartbeat, never assumed.

On a standard queue an extension with a stale handle is accepted and does nothing, or worse, moves the lease of the
worker that holds the message now. So acceptance proves nothing: ownership is judged from a local monotonic deadline,
counted from the *send* time of the last accepted call. When that deadline minus a margin passes, the lease is lost:
the work is cancelled, nothing is published, and no further call is made on the handle.
"""

import asyncio
import logging
import random
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.errors import Interrupted, LeaseLost, QueueUnavailable
from daemon.metrics import Metrics
from daemon.sqs import Received
from daemon.wording import words_of

log = logging.getLogger("transcriptd.lease")

# The lease is given up this share of its length before SQS ends it: room for a slow clock and for killing the work.
MARGIN_SHARE = 0.1
# SQS refuses extensions beyond 12 h from the receive: stay clear of the edge.
CAP_SECONDS = MAX_LEASE_SECONDS - 60

T = TypeVar("T")


class Extends(Protocol):
    async def extend(self, message: Received, seconds: float) -> None: ...


class Lease:
    """`async with Lease(…) as lease: await lease.hold(work(), leave)`, then `await lease.close()`, then the outcome call."""

    def __init__(self, queue: Extends, message: Received, settings: Settings, metrics: Metrics) -> None:
        self._queue = queue
        self._message = message
        self._length_seconds = settings.visibility_timeout_seconds
        self._period_seconds = settings.heartbeat_seconds
        self._margin_seconds = self._length_seconds * MARGIN_SHARE
        self._metrics = metrics
        self._last_accepted_at = message.leased_at
        self._deadline = message.leased_at + self._length_seconds
        self._lost = asyncio.Event()
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
        """Time in which the message is provably ours."""
        return self._deadline - self._margin_seconds - time.monotonic()

    def require(self) -> None:
        """Raises LeaseLost when the message is not provably ours. For the moment before a step that cannot be undone:
        a process that stood still wakes with its work done and its lease gone, before the heartbeat could tell.
        """
        if self.lost:
            raise LeaseLost(f"the lease on message {self._message.message_id} was lost; the work was given up")

    async def hold(self, work: Coroutine[Any, Any, T], leave: asyncio.Event) -> T:
        """The result of the work, done while the lease lives and we are not leaving.

        Raises LeaseLost when the lease ends first, Interrupted when `leave` is set first; the work is then cancelled
        and awaited. Finished work counts even when `leave` is set in the same moment; after a loss nothing counts.
        """
        if leave.is_set():
            work.close()
            raise Interrupted("the daemon is leaving; the message was released")
        task = asyncio.create_task(work)
        lost, leaving = asyncio.create_task(self._lost.wait()), asyncio.create_task(leave.wait())
        try:
            await asyncio.wait((task, lost, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
            leaving.cancel()
            if not task.done():
                task.cancel()
            await asyncio.wait((task,))
        if self.lost and not task.cancelled():
            task.exception()  # retrieved: what the work said no longer matters
        self.require()
        if task.cancelled():
            raise Interrupted("the daemon is leaving; the message was released")
        return task.result()

    async def close(self) -> None:
        """Stop and join the heartbeat: an extension that lands after an outcome call would undo it."""
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            await asyncio.wait((self._heartbeat,))
            if not self._heartbeat.cancelled() and (error := self._heartbeat.exception()):
                raise error
            self._heartbeat = None

    async def _beat(self) -> None:
        try:
            while not self.lost:
                await _sleep_until(
                    min(self._last_accepted_at + self._period_seconds, self._deadline - self._margin_seconds)
                )
                await self._extend()
        finally:
            if self.lost:
                self._lost.set()
        self._metrics.leases_lost.inc()
        log.warning("lease lost")

    async def _extend(self) -> None:
        """Extend once, retrying within what is left of the lease; returns when accepted or lost."""
        pause_seconds = self._period_seconds / 10
        failures, began_at = 0, time.monotonic()
        while (remaining := self.remaining_seconds) > 0:
            sent_at = time.monotonic()
            seconds = min(self._length_seconds, CAP_SECONDS - (sent_at - self._message.leased_at))
            if seconds <= self._margin_seconds:
                # At the 12 h cap nothing can be extended: let the deadline come.
                await _sleep_until(self._deadline - self._margin_seconds)
                return
            try:
                # A call that hangs must leave time for another.
                async with asyncio.timeout(min(self._period_seconds / 2, remaining)):
                    await self._queue.extend(self._message, seconds)
            except (QueueUnavailable, TimeoutError) as error:
                self._metrics.heartbeats.labels("failed").inc()
                failures += 1
                log.log(
                    logging.WARNING if failures == 1 else logging.DEBUG,  # told once, not once a try
                    "lease extension failed",
                    extra={"error": words_of(error), "remaining_seconds": round(self.remaining_seconds, 1)},
                )
                await asyncio.sleep(min(random.uniform(0, pause_seconds), max(0.0, self.remaining_seconds)))  # noqa: S311  # jitter
                # Never so long that what is left of the lease has room for one more try alone.
                pause_seconds = min(pause_seconds * 2, self._period_seconds / 2)
            else:
                self._metrics.heartbeats.labels("extended").inc()
                self._metrics.lease_margin_seconds.observe(max(0.0, self._deadline - sent_at))
                self._last_accepted_at = sent_at
                self._deadline = sent_at + seconds
                if failures:
                    down_seconds = round(time.monotonic() - began_at, 1)
                    log.warning("lease extended again", extra={"down_seconds": down_seconds, "failures": failures})
                return


async def _sleep_until(monotonic_seconds: float) -> None:
    await asyncio.sleep(max(0.0, monotonic_seconds - time.monotonic()))
