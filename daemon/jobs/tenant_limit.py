"""Limits how many messages of one tenant the daemon holds, so that there is always a place for the others.

Each job queue has a limit of its own: a tenant's backlog in one must not delay its urgent messages in another.

SQS has no receive that leaves a tenant out. So the daemon receives a message of a tenant at its limit, and returns it:
SQS hides it for a while, and another daemon or a later receive gets it. The job was not started, so this is no attempt. SQS
does count the receive, and after `maxReceiveCount` of them it moves a message to the dead-letter queue. So a message is
returned only during the first half of its receives and of its time; after that it runs, and the tenant exceeds its limit.

When a job of the tenant ends, the daemon makes the oldest returned message visible again, so that the place is not empty
until the time is over.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from daemon.aws.sqs import QueueLimits, ReceivedMessage
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.errors import QueueUnavailable
from daemon.jobs.disposition import MAX_AGE_SECONDS, MAX_RECEIVES
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.tenants")

RETURN_BASE_SECONDS = 30.0
RETURN_MAX_SECONDS = 300.0
MAX_REMEMBERED = 1000  # returned messages; with one or a few in a second, the time of the oldest is over before
# SQS may apply a call with a stale receipt handle to the message's next receive. No call is sent this close to the end of the
# time, or takes longer.
MARGIN_SECONDS = 5.0


class ReturnQueue(Protocol):
    async def limits(self) -> QueueLimits: ...

    async def retry(self, message: ReceivedMessage, delay_seconds: float) -> None: ...

    async def release(self, message: ReceivedMessage) -> None: ...


@dataclass(frozen=True, slots=True)
class _Returned:
    """A message that SQS hides, without its content."""

    message: ReceivedMessage
    ours_until: float  # monotonic


def may_return(message: ReceivedMessage, limits: QueueLimits, now: float) -> bool:
    """Return whether a message has enough receives and time left to wait. `now` is the Unix time. Pure.

    The other halves are for interruptions and failed attempts: see `is_last_delivery` in disposition.py.
    """
    receives = min(limits.max_receives or MAX_RECEIVES, MAX_RECEIVES)
    lifetime_seconds = min(limits.retention_seconds or MAX_AGE_SECONDS, MAX_AGE_SECONDS)
    return message.receive_count < receives / 2 and now - message.sent_at < lifetime_seconds / 2


def return_seconds(receive_count: int) -> float:
    """Return for how long to hide a message: longer each time, with jitter, so that few receives are spent on it."""
    longest = min(RETURN_MAX_SECONDS, RETURN_BASE_SECONDS * 2.0 ** min(receive_count - 1, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311  # jitter


class TenantLimit:
    """Call `add` for each message of the queue that the daemon works on, and `remove` after its outcome.

    Messages without a tenant are not limited: to SQS, each is a tenant of its own.
    """

    def __init__(
        self, max_jobs: int, queue: ReturnQueue, metrics: Metrics, timeout_seconds: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`max_jobs` of 0 is no limit. `timeout_seconds` is that of a call to the queue."""
        self._max_jobs = max_jobs
        self._queue = queue
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._held: Counter[str] = Counter()
        self._returned: list[_Returned] = []  # in the order of their return
        self._reached: set[str] = set()  # tenants at their limit, to log this once

    def has_place(self, tenant: str | None) -> bool:
        """Return whether the daemon may work on another message of the tenant."""
        return self._places(tenant) > 0 if tenant and self._max_jobs else True

    @property
    def jobs_at_limit(self) -> int:
        """Number of messages held of tenants at their limit."""
        if not self._max_jobs:
            return 0
        return sum(number for number in self._held.values() if number >= self._max_jobs)

    def add(self, tenant: str | None) -> None:
        self._metrics.tenants.jobs_in_flight.labels(self._metrics.tenants.label(tenant)).inc()
        if tenant:
            self._held[tenant] += 1

    def remove(self, tenant: str | None) -> None:
        self._metrics.tenants.jobs_in_flight.labels(self._metrics.tenants.label(tenant)).dec()
        if tenant:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]
                self._reached.discard(tenant)

    async def give_back(self, messages: Iterable[ReceivedMessage]) -> list[ReceivedMessage]:
        """Return messages of tenants at their limit to the queue. Return those that must run all the same.

        If a call fails, SQS delivers the message again after its visibility timeout.
        """
        messages = list(messages)
        if not messages:
            return []
        limits, now = await self._queue.limits(), self._clock.unix()
        waiting = [message for message in messages if may_return(message, limits, now)]
        await asyncio.gather(*(self._give_back(message) for message in waiting))
        return [message for message in messages if message not in waiting]

    async def recall(self) -> None:
        """Make the oldest returned messages visible again, as many as there are places for their tenants now."""
        if not self._returned:
            return
        now = self._clock.monotonic()
        self._returned = [each for each in self._returned if each.ours_until - now > MARGIN_SECONDS][-MAX_REMEMBERED:]
        places = Counter({each.message.tenant: 0 for each in self._returned})
        for tenant in places:
            places[tenant] = self._places(tenant)
        recalled = []
        for each in sorted(self._returned, key=lambda each: each.message.sent_at):
            if places[each.message.tenant] > 0:
                places[each.message.tenant] -= 1
                recalled.append(each)
        self._returned = [each for each in self._returned if each not in recalled]
        await asyncio.gather(*(self._release(each.message) for each in recalled))

    def _places(self, tenant: str | None) -> int:
        return self._max_jobs - self._held[tenant] if tenant else 0

    async def _give_back(self, message: ReceivedMessage) -> None:
        seconds, asked_at = return_seconds(message.receive_count), self._clock.monotonic()
        self._metrics.tenants.messages_returned.labels(self._metrics.tenants.label(message.tenant)).inc()
        known = {
            "message_id": message.message_id,
            "queue": message.queue,
            "tenant": message.tenant,
            "receive_count": message.receive_count,
        }
        if message.tenant and message.tenant not in self._reached:
            self._reached.add(message.tenant)
            log.info("tenant at its limit", extra={**known, "jobs_in_flight": self._max_jobs})
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._queue.retry(message, seconds)
        except (QueueUnavailable, TimeoutError) as error:
            log.warning("message not returned", extra={**known, "error": safe_message(error)})
            return
        log.debug("message returned", extra={**known, "seconds": round(seconds, 1)})
        self._returned.append(_Returned(replace(message, body="", attributes={}), asked_at + seconds))

    async def _release(self, message: ReceivedMessage) -> None:
        try:
            async with asyncio.timeout(MARGIN_SECONDS):
                await self._queue.release(message)
        except (QueueUnavailable, TimeoutError) as error:  # it becomes visible at the end of its time
            log.debug("message not recalled", extra={"message_id": message.message_id, "error": safe_message(error)})
