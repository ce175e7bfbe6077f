"""The sinks of events: the receivers of webhooks, and the deployment's event bus.

Only `Sinks` decides which of them get an event. sender.py and outbox.py treat all alike.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from daemon.webhooks.events import WebhookEvent

SinkName = Literal["webhook", "event_bus"]  # metric labels

# The URL of the event bus in the sender and the outbox. It names no bus: stored events go to the bus of the current
# settings, so that an operator who corrects its name loses none.
EVENT_BUS_URL = "eventbridge:"


class DeliveryFailed(Exception):
    """An attempt failed. `result` says whether to retry.

    `failed`: a later attempt may succeed. `gone`: the receiver no longer accepts events (410). `refused`: the daemon must
    not call this address, or the sink can never accept this event.
    """

    def __init__(
        self,
        error: str,
        *,
        result: Literal["failed", "gone", "refused"] = "failed",
        status: int | None = None,
        wait_seconds: float = 0,
    ) -> None:
        super().__init__(error)
        self.result = result
        self.status = status
        self.wait_seconds = wait_seconds  # the receiver's Retry-After

    @property
    def retryable(self) -> bool:
        return self.result == "failed"


class EventSink(Protocol):
    """Makes single attempts to send an event. The sender and the outbox retry."""

    @property
    def name(self) -> SinkName: ...

    @property
    def ready(self) -> bool:
        """Whether it is open and can send."""
        ...

    async def post(self, url: str, event: WebhookEvent) -> int:
        """Make one attempt. Return the HTTP status. Raises DeliveryFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Sinks:
    """The sinks of this daemon."""

    webhook: EventSink
    event_bus: EventSink | None = None

    def urls(self, webhook_url: str | None) -> tuple[str, ...]:
        """Return where the events of a job go: to its webhook, if it has one, and to the event bus, if there is one."""
        webhook = () if webhook_url is None else (webhook_url,)
        return webhook if self.event_bus is None else (*webhook, EVENT_BUS_URL)

    def sink(self, url: str) -> EventSink:
        """Return the sink of a URL. Raises DeliveryFailed for the event bus if the settings have none."""
        if sink_of(url) == "webhook":
            return self.webhook
        if self.event_bus is None:  # another daemon of the deployment may have one
            raise DeliveryFailed("this daemon has no event bus: TRANSCRIPTD_EVENT_BUS is not set")
        return self.event_bus


def sink_of(url: str) -> SinkName:
    return "event_bus" if url == EVENT_BUS_URL else "webhook"
