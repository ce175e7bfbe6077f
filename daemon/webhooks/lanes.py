"""Events on their way: one delivery for each sink, in lanes that keep the order of a job's events."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.sinks import EventSink

Result = Literal["delivered", "retried", "failed", "refused"]


@dataclass(eq=False, slots=True)
class Delivery:
    """An event on its way to one sink."""

    sink: EventSink
    url: str
    event: WebhookEvent
    superseded: asyncio.Event = field(default_factory=asyncio.Event)  # stale, or removed from its lane
    taken_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: asyncio.Event = field(default_factory=asyncio.Event)  # delivered, stored or given up, and recorded
    stored: bool = False  # in the outbox
    lost: bool = False  # retryable, but storing it in the outbox failed
    result: Result | None = None  # of the last attempt
    attempt: int = 0
    seconds: float = 0.0  # of the last attempt

    @property
    def lane(self) -> str:
        return f"{self.event.lane} for {self.sink.name}"

    @property
    def status(self) -> str:
        """Current status."""
        return "stored" if self.stored else self.result if self.result and self.ended.is_set() else "pending"


@dataclass(eq=False, slots=True)
class Lane:
    """The events of one job for one sink, delivered in order."""

    pending: list[Delivery] = field(default_factory=list)
    current: Delivery | None = None
    task: asyncio.Task[None] | None = None

    def undelivered(self) -> list[Delivery]:
        """Return the undelivered events in order, the current one first, without superseded ones."""
        all_of_them = [self.current, *self.pending] if self.current else self.pending
        return [delivery for delivery in all_of_them if not delivery.superseded.is_set()]

    def drop(self, delivery: Delivery) -> None:
        """Remove an event. If it is the current one, its attempt in progress is the last."""
        delivery.superseded.set()
        self.pending = [other for other in self.pending if other is not delivery]

    def add(self, delivery: Delivery) -> None:
        """Add an event and drop the ones that it supersedes: a final event all others, progress older progress."""
        ahead = self.undelivered()
        if delivery.event.status == "progress" and ahead and ahead[-1].event.final:
            return
        for other in ahead:
            if not other.event.final and (delivery.event.final or other.event.status == delivery.event.status):
                self.drop(other)
        self.pending.append(delivery)


@dataclass(frozen=True, slots=True)
class EventStatus:
    """Status of an event by sink. `none`: the event does not go there."""

    webhook: str = "none"
    event_bus: str = "none"


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event on its way to all of its sinks."""

    deliveries: tuple[Delivery, ...]

    @property
    def status(self) -> EventStatus:
        """Current status."""
        return EventStatus(**{delivery.sink.name: delivery.status for delivery in self.deliveries})
