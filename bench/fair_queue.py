"""A model of SQS's fair queues, for measurements: the embedded AWS has standard queues without them.

It follows https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html: a tenant
is noisy with more than 10 % of the messages in flight and at least 30 of its own, or with more than 10 % of the recent
processing time. Messages of quiet tenants come first, then those of the noisy tenant with the fewest in flight. A tenant
without a backlog is quiet again. SQS is distributed: its thresholds are approximate, and its order is not exact.
"""

import time
import uuid
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sqs.models import Message, Queue, SQSBackend, sqs_backends

from daemon.demo.aws import EmbeddedAws

NOISY_SHARE = 0.1
NOISY_IN_FLIGHT = 30
RECENT_SECONDS = 300.0  # AWS does not say what is recent


@dataclass
class Fairness:
    """What a queue knows about its tenants."""

    looked_at: float = field(default_factory=time.monotonic)
    busy_seconds: dict[str, float] = field(default_factory=dict)  # of recent processing, by tenant

    def ordered(self, waiting: list[Any], in_flight: list[Any]) -> list[Any]:
        """Return the waiting messages in the order in which a fair queue hands them out."""
        held = Counter(map(tenant_of, in_flight))
        self._add_time(held)
        backlog = set(map(tenant_of, waiting))
        self.busy_seconds = {tenant: seconds for tenant, seconds in self.busy_seconds.items() if tenant in backlog}
        noisy = {tenant for tenant in backlog if self._is_noisy(tenant, held)}
        # A sort is stable: the messages of a class keep their order.
        return sorted(waiting, key=lambda each: held[tenant_of(each)] + 1 if tenant_of(each) in noisy else 0)

    def _is_noisy(self, tenant: str, held: Counter[str]) -> bool:
        many = held[tenant] >= NOISY_IN_FLIGHT and held[tenant] > NOISY_SHARE * held.total()
        return many or self.busy_seconds.get(tenant, 0.0) > NOISY_SHARE * sum(self.busy_seconds.values())

    def _add_time(self, held: Counter[str]) -> None:
        now = time.monotonic()
        seconds, self.looked_at = now - self.looked_at, now
        share = max(0.0, 1 - seconds / RECENT_SECONDS)
        for tenant in self.busy_seconds.keys() | held.keys():
            self.busy_seconds[tenant] = self.busy_seconds.get(tenant, 0.0) * share + seconds * held[tenant]


def tenant_of(message: Any) -> str:
    """Return the message's group; without one, each message is a tenant of its own."""
    return str(message.group_id or message.id)


class FairAws(EmbeddedAws):
    """An embedded AWS whose queues are fair."""

    def fill(self, bodies: list[str], tenant: str) -> None:
        """Put messages into the job queue at once: thousands of calls would take longer than the measurement."""
        name = self.queue_url.rpartition("/")[2]
        queue = sqs_backends[DEFAULT_ACCOUNT_ID][self.region].queues[name]
        for body in bodies:
            message = Message(str(uuid.uuid4()), body)
            message.group_id = tenant
            message.mark_sent()
            queue.add_message(message)

    def __enter__(self) -> Self:
        states = dict[str, Fairness]()

        def messages(queue: Any) -> list[Any]:
            waiting: list[Any] = []
            in_flight: list[Any] = []
            now = time.time() * 1000
            for each in queue._messages:
                (waiting if each.visible_at < now and each.delayed_until <= now else in_flight).append(each)
            return states.setdefault(queue.name, Fairness()).ordered(waiting, in_flight)

        with ExitStack() as stack:
            stack.enter_context(patch.object(Queue, "messages", property(messages)))
            # No message of a measurement expires. Moto counts all messages of the queue to find that out.
            expires = "is_message_valid_based_on_retention_period"
            stack.enter_context(patch.object(SQSBackend, expires, lambda *_: True))
            super().__enter__()
            self._patches = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._patches.close()
