"""The sink of the deployment's EventBridge event bus. It needs the permission events:PutEvents on the bus, and no other.

https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from daemon.aws.session import open_session
from daemon.aws.sqs import CONNECT_TIMEOUT_SECONDS, refuse_garbage
from daemon.config import Settings
from daemon.settings_rules import queue_region
from daemon.telemetry.outage import Outage
from daemon.telemetry.redaction import MAX_ERROR_CHARS, describe, redact_urls
from daemon.telemetry.spans import Tracer
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.sinks import DeliveryFailed, SinkName

log = logging.getLogger("transcriptd.event_bus")

SOURCE = "transcriptd"
MAX_CONNECTIONS = 10

# The only error that no retry and no operator can cure. Access, throttling and a missing account are the deployment's, and
# may be corrected before the last attempt.
# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsResultEntry.html
MALFORMED = "MalformedDetail"


class EventsClient(Protocol):
    """What is used of an aioboto3 client for `events`."""

    @property
    def meta(self) -> Any: ...

    async def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]: ...  # noqa: N803  # as in botocore

    async def describe_event_bus(self, *, Name: str) -> dict[str, Any]: ...  # noqa: N803


@asynccontextmanager
async def open_event_bus(settings: Settings, tracer: Tracer) -> AsyncIterator["EventBus"]:
    """Open the event bus with its own connections. The sender retries, so the client does not."""
    config = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT_SECONDS, settings.webhook_timeout_seconds),
        read_timeout=settings.webhook_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=MAX_CONNECTIONS,
    )
    async with open_events_client(config, settings) as client:
        yield EventBus(client, settings, tracer)


@asynccontextmanager
async def open_events_client(config: AioConfig, settings: Settings) -> AsyncIterator[EventsClient]:
    """Open a client in the region of the bus: that of its ARN, and otherwise that of the job queues."""
    bus = settings.event_bus or ""
    region = bus.split(":")[3] if bus.startswith("arn:") else queue_region(settings.queues[0].url)
    session = await open_session()
    async with session.client("events", region_name=region, config=config) as client:
        client.meta.events.register("before-parse.eventbridge", refuse_garbage)
        yield client


class EventBus:
    """Puts one event per call, so that a refused event affects no other."""

    name: SinkName = "event_bus"
    ready = True

    def __init__(self, client: EventsClient, settings: Settings, tracer: Tracer | None = None) -> None:
        if settings.event_bus is None:
            raise ValueError("the event bus needs event_bus")
        self._client = client
        self._bus = settings.event_bus
        self._timeout_seconds = settings.webhook_timeout_seconds
        self._tracer = tracer or Tracer()
        self._outage = Outage(log, "event bus failing", "event bus working again", level=logging.ERROR)

    async def post(self, url: str, event: WebhookEvent) -> int:  # noqa: ARG002  # there is one bus
        """Put an event, as a span of its trace. Return the HTTP status. Raises DeliveryFailed."""
        with self._tracer.span(
            f"put {event.type}", event.trace, "client", {"transcriptd.job_id": event.job_id}
        ) as span:
            try:
                status = await self._put(event)
            except DeliveryFailed as failure:
                self._outage.failed(str(failure))
                span.set({"http.response.status_code": failure.status})
                span.fail(str(failure.status or failure.result))
                raise
            span.set({"http.response.status_code": status})
        self._outage.worked()
        return status

    async def _put(self, event: WebhookEvent) -> int:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._client.put_events(Entries=[self._entry(event)])
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            raise DeliveryFailed(_bounded(str(error)), status=status) from error
        except (
            BotoCoreError,
            OSError,  # this and the next: from aiohttp, not wrapped by botocore
            TimeoutError,
            AttributeError,  # this and the next: from botocore's parser, for JSON in an unexpected format
            TypeError,
        ) as error:
            raise DeliveryFailed(_bounded(describe(error))) from error
        return _judge(answer)

    def _entry(self, event: WebhookEvent) -> dict[str, Any]:
        return {
            "EventBusName": self._bus,
            "Source": SOURCE,
            "DetailType": event.type,
            "Time": event.at,
            "Detail": _detail(event),
            "Resources": self._resources(event),
        }

    def _resources(self, event: WebhookEvent) -> list[str]:
        """Return the ARN of the manifest of a completed job. Other events have no result."""
        output = event.output
        if output is None or output.manifest is None:
            return []
        return [f"arn:{self._client.meta.partition}:s3:::{output.bucket}/{output.manifest}"]


def _detail(event: WebhookEvent) -> str:
    """Return the body of the webhook. Half a surrogate pair, which metadata may contain, becomes U+FFFD: it is not Unicode."""
    text = json.dumps(json.loads(event.body()), separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _judge(answer: dict[str, Any]) -> int:
    """Return the HTTP status of a call that put its only entry. Raises DeliveryFailed.

    A call whose entries are all refused succeeds: FailedEntryCount and the error codes are in its answer.
    """
    status: int = answer["ResponseMetadata"]["HTTPStatusCode"]
    entry: dict[str, Any] = next(iter(answer.get("Entries") or ()), {})
    code = entry.get("ErrorCode")
    if code is None and not answer.get("FailedEntryCount") and entry.get("EventId"):
        return status
    problem = f"{code}: {entry.get('ErrorMessage', '')}" if code else "the answer does not say that the event was put"
    raise DeliveryFailed(_bounded(problem), status=status, result="refused" if code == MALFORMED else "failed")


def _bounded(error: str) -> str:
    return redact_urls(error)[:MAX_ERROR_CHARS]
