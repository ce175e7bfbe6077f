"""The queue adapter: the only module that calls SQS. Every error leaves as QueueUnavailable."""

import json
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)
from botocore.model import OperationModel

from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.dead_letter import attributes_of_copy
from daemon.errors import QueueUnavailable, TranscriptdError
from daemon.metrics import Metrics

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.literals import QueueAttributeNameType

log = logging.getLogger("transcriptd.sqs")

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_MESSAGES_PER_RECEIVE = 10

MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
CONNECT_TIMEOUT_SECONDS = 5.0

# In the order of Depth.
DEPTH_ATTRIBUTES: list["QueueAttributeNameType"] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery of a message."""

    message_id: str
    receipt_handle: str
    body: str
    attributes: dict[str, Any]  # as the producer set them, in SQS's own shape
    receive_count: int  # ApproximateReceiveCount: this delivery included
    sent_at: float  # Unix time
    leased_at: float  # monotonic: when the receive was *sent*, the earliest moment the lease can have begun


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages a queue has, as SQS counts them: nearly."""

    visible: int
    in_flight: int
    delayed: int


@asynccontextmanager
async def open_queue(settings: Settings, metrics: Metrics) -> AsyncIterator["Queue"]:
    """A Queue with its own connections.

    The client does not retry: a heartbeat's retries are bounded by the lease, a receive's by the poller's back-off.
    """
    config = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT_SECONDS, settings.queue_timeout_seconds),
        read_timeout=settings.receive_wait_seconds + settings.queue_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=settings.jobs_in_flight * 2 + 4,
    )
    async with open_client(config, metrics) as client:
        yield Queue(client, settings)


@asynccontextmanager
async def open_client(config: AioConfig, metrics: Metrics) -> AsyncIterator["SQSClient"]:
    """An SQS client that takes for an answer only what can be one, and compares the clocks."""

    def compare_clocks(response_dict: dict[str, Any], **_: Any) -> None:
        with suppress(TypeError, ValueError):  # no date, or none that can be understood
            told = parsedate_to_datetime(response_dict["headers"].get("Date")).timestamp()
            metrics.clock_skew_seconds.set(time.time() - told)

    async with aioboto3.Session().client("sqs", config=config) as client:
        # First: an answer that refuses us because our clock is wrong has the right time on it.
        client.meta.events.register("before-parse.sqs", compare_clocks)
        client.meta.events.register("before-parse.sqs", refuse_garbage)
        yield client


def refuse_garbage(response_dict: dict[str, Any], operation_model: OperationModel, **_: Any) -> None:
    """Raise HTTPClientError unless the body is a JSON object, or empty where nothing is due.

    Botocore reads everything else, such as a proxy's page with status 200, as an answer without content: as an empty
    receive, or as proof that a dead letter was stored.
    """
    status, body = response_dict["status_code"], response_dict["body"]
    try:
        understood = isinstance(json.loads(body), dict) if body else operation_model.output_shape is None
    except ValueError:
        understood = False
    if understood:
        return
    if status < HTTPStatus.MULTIPLE_CHOICES:
        raise HTTPClientError(error=f"HTTP {status} with an answer that is not of SQS")
    response_dict["body"] = b""  # the status of an error says enough, whoever sent it


class Queue:
    """The job queue and its dead-letter queue."""

    def __init__(self, client: "SQSClient", settings: Settings) -> None:
        self._client = client
        self._queue_url = settings.queue_url
        self._dlq_url = settings.dlq_url
        self._wait_seconds = settings.receive_wait_seconds
        self._visibility_seconds = round(settings.visibility_timeout_seconds)
        self._worker_id = settings.worker_id

    async def receive(self, max_messages: int) -> list[Received]:
        """Wait for up to `max_messages`. Never cancel it: SQS may have handed messages out already."""
        leased_at = time.monotonic()
        with wrapped("ReceiveMessage"):
            response = await self._client.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=min(max_messages, MAX_MESSAGES_PER_RECEIVE),
                WaitTimeSeconds=self._wait_seconds,
                VisibilityTimeout=self._visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                MessageAttributeNames=["All"],
            )
        received = [_received(message, leased_at) for message in response.get("Messages", [])]
        return [message for message in received if message is not None]

    async def extend(self, message: Received, seconds: float) -> None:
        """Make the lease last `seconds` from now. Accepted is not proof of ownership: see lease.py."""
        await self._change_visibility(message, seconds)

    async def release(self, message: Received) -> None:
        """Make the message visible at once."""
        await self._change_visibility(message, 0)

    async def retry(self, message: Received, delay_seconds: float) -> None:
        """Make the message visible after the delay, in whole seconds, not before."""
        rest = MAX_LEASE_SECONDS - (time.monotonic() - message.leased_at) - 60
        await self._change_visibility(message, max(0.0, min(math.ceil(delay_seconds), rest)))

    async def delete(self, message: Received) -> None:
        with wrapped("DeleteMessage"):
            await self._client.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message.receipt_handle)

    async def dead_letter(self, message: Received, error: TranscriptdError, attempt: int) -> None:
        """Copy the message to the dead-letter queue with the reason. The caller deletes the original afterwards."""
        failure = {
            "code": error.code,
            "message": error.message[:MAX_MESSAGE_CHARS],
            "traceback": (error.detail or "")[-MAX_TRACEBACK_CHARS:],
            "attempt": attempt,
            "receive_count": message.receive_count,
            "worker_id": self._worker_id,
            "original_message_id": message.message_id,
            "failed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        attributes = attributes_of_copy(message.body, message.attributes, failure)
        with wrapped("SendMessage"):
            await self._client.send_message(
                QueueUrl=self._dlq_url, MessageBody=message.body, MessageAttributes=attributes
            )

    async def ping(self) -> None:
        """Prove that both the queue and the credentials work. Raises QueueUnavailable."""
        with wrapped("GetQueueAttributes"):
            await self._client.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["QueueArn"])

    async def depth(self) -> Depth:
        return await depth_of(self._client, self._queue_url)

    async def dead_letter_depth(self) -> Depth:
        return await depth_of(self._client, self._dlq_url)

    async def _change_visibility(self, message: Received, seconds: float) -> None:
        with wrapped("ChangeMessageVisibility"):
            await self._client.change_message_visibility(
                QueueUrl=self._queue_url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=round(seconds)
            )


async def depth_of(client: "SQSClient", url: str) -> Depth:
    """Ask how many messages a queue has. Raises QueueUnavailable."""
    with wrapped("GetQueueAttributes"):
        answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=DEPTH_ATTRIBUTES)
    try:
        return Depth(*(int(answer["Attributes"][name]) for name in DEPTH_ATTRIBUTES))
    except (KeyError, TypeError, ValueError) as error:
        raise QueueUnavailable(f"SQS GetQueueAttributes answered without numbers: {error!r}") from error


def _received(message: Any, leased_at: float) -> Received | None:
    """A message that lacks what SQS always sends is left alone: it comes back, or the queue's redrive takes it."""
    try:
        return Received(
            message_id=message["MessageId"],
            receipt_handle=message["ReceiptHandle"],
            body=message["Body"],
            attributes=dict(message.get("MessageAttributes") or {}),
            receive_count=int(message["Attributes"]["ApproximateReceiveCount"]),
            sent_at=int(message["Attributes"]["SentTimestamp"]) / 1000,
            leased_at=leased_at,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        log.error(
            "message not understood",
            extra={"message_id": message.get("MessageId"), "error": f"{type(error).__name__}: {error}"},
        )
        return None


@contextmanager
def wrapped(call: str) -> Iterator[None]:
    """Turn botocore's errors into ours, naming the call."""
    try:
        yield
    except (
        BotoCoreError,
        ClientError,
        OSError,  # this and the next: aiohttp's, not wrapped by botocore
        TimeoutError,
        AttributeError,  # this and the next: botocore's parser, over JSON of another shape than SQS's
        TypeError,
    ) as error:
        raise QueueUnavailable(f"SQS {call} failed: {error}", may_have_worked=_may_have_worked(error)) from error


def _may_have_worked(error: Exception) -> bool:
    """Whether a failed call may have been carried out all the same: its answer was lost, or SQS failed over it."""
    if isinstance(error, ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        return status >= 500
    return not isinstance(error, EndpointConnectionError | ConnectTimeoutError)
