"""The SQS adapter for a job queue and its dead-letter queue. All errors are raised as QueueUnavailable."""

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

from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
)
from botocore.model import OperationModel

from daemon.aws.dead_letter import (
    MAX_MESSAGE_BYTES,
    OLDER_MESSAGE_BYTES,
    attributes_of_copy,
    message_bytes,
    shortened,
)
from daemon.aws.faults import Fault, fault_of_response
from daemon.aws.session import open_session
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import MAX_LEASE_SECONDS, Settings
from daemon.errors import MessageGone, QueueRefused, QueueUnavailable, TranscriptdError
from daemon.job_queues import DEFAULT_NAME, JobQueue
from daemon.schema.tenant import valid_tenant
from daemon.settings_rules import queue_region
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import describe, describe_with_type, safe_message

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient
    from types_aiobotocore_sqs.literals import QueueAttributeNameType

log = logging.getLogger("transcriptd.sqs")

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
MAX_MESSAGES_PER_RECEIVE = 10

MAX_MESSAGE_CHARS = 2_000
MAX_TRACEBACK_CHARS = 8_000
CONNECT_TIMEOUT_SECONDS = 5.0
LIMITS_PERIOD_SECONDS = 300.0

# In the order of Depth.
DEPTH_ATTRIBUTES: list["QueueAttributeNameType"] = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One delivery of a message."""

    message_id: str
    receipt_handle: str
    body: str
    attributes: dict[str, Any]  # as set by the producer, in SQS's format
    receive_count: int  # ApproximateReceiveCount, including this delivery
    sent_at: float  # Unix time
    leased_at: float  # monotonic: when the receive was *sent*, the earliest possible start of the lease
    tenant: str | None = None  # the message group ID
    queue: str = DEFAULT_NAME  # name of the job queue that it came from


@dataclass(frozen=True, slots=True)
class Depth:
    """Approximate number of messages in a queue, as reported by SQS."""

    visible: int
    in_flight: int
    delayed: int


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """When SQS itself ends a message, without a reason."""

    max_receives: int | None = None  # then SQS moves it to the dead-letter queue
    retention_seconds: float | None = None  # since it was sent; then SQS deletes it


@asynccontextmanager
async def open_client(config: AioConfig, metrics: Metrics, queue_url: str | None) -> AsyncIterator["SQSClient"]:
    """Open an SQS client that rejects invalid responses and measures the clock skew.

    Its region is that of the queue's URL; a URL that names none, as of another SQS, leaves it to the environment.
    """

    def compare_clocks(response_dict: dict[str, Any], **_: Any) -> None:
        with suppress(TypeError, ValueError):  # no date, or an invalid one
            server_time = parsedate_to_datetime(response_dict["headers"].get("Date")).timestamp()
            metrics.clock_skew_seconds.set(time.time() - server_time)

    session = await open_session()
    async with session.client("sqs", region_name=queue_region(queue_url), config=config) as client:
        # First: even a response that rejects the call because of clock skew has the correct time.
        client.meta.events.register("before-parse.sqs", compare_clocks)
        client.meta.events.register("before-parse.sqs", refuse_garbage)
        yield client


def refuse_garbage(response_dict: dict[str, Any], operation_model: OperationModel, **_: Any) -> None:
    """Raise HTTPClientError unless the body is a JSON object, or empty for a call without output.

    Botocore treats any other body, such as a proxy's page with status 200, as an empty response: as an empty receive, or
    as confirmation that a dead letter was stored.
    """
    status, body = response_dict["status_code"], response_dict["body"]
    try:
        understood = isinstance(json.loads(body), dict) if body else operation_model.output_shape is None
    except ValueError:
        understood = False
    if understood:
        return
    if status < HTTPStatus.MULTIPLE_CHOICES:
        raise HTTPClientError(error=f"HTTP {status} with a response that is not from SQS")
    response_dict["body"] = b""  # for an error, the status is enough


class Queue:
    """A job queue and its dead-letter queue."""

    def __init__(self, client: "SQSClient", settings: Settings, about: JobQueue, clock: Clock = SYSTEM_CLOCK) -> None:
        self.about = about
        self._client = client
        self._clock = clock
        self._queue_url = about.url
        self._dlq_url = about.dlq_url
        self._wait_seconds = settings.receive_wait_time_seconds
        self._visibility_seconds = round(about.visibility_timeout_seconds)
        self._worker_id = settings.worker_id
        self._limits = QueueLimits()
        self._limits_read_at = -math.inf

    async def limits(self) -> QueueLimits:
        """Return the queue's limits, read at most every few minutes. If they cannot be read, return the last known ones."""
        now = self._clock.monotonic()
        if now - self._limits_read_at < LIMITS_PERIOD_SECONDS:
            return self._limits
        try:
            with translate_errors("GetQueueAttributes"):
                answer = await self._client.get_queue_attributes(
                    QueueUrl=self._queue_url, AttributeNames=["RedrivePolicy", "MessageRetentionPeriod"]
                )
        except QueueUnavailable as error:
            log.debug("queue limits unknown", extra={"error": safe_message(error)})
            return self._limits
        self._limits, self._limits_read_at = _limits(answer.get("Attributes", {})), now
        return self._limits

    async def receive(self, max_messages: int) -> list[ReceivedMessage]:
        """Receive up to `max_messages`. Never cancel this call: SQS may have delivered messages already."""
        leased_at = self._clock.monotonic()
        with translate_errors("ReceiveMessage"):
            response = await self._client.receive_message(
                QueueUrl=self._queue_url,
                MaxNumberOfMessages=min(max_messages, MAX_MESSAGES_PER_RECEIVE),
                WaitTimeSeconds=self._wait_seconds,
                VisibilityTimeout=self._visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
                MessageAttributeNames=["All"],
            )
        received = [_received(message, leased_at, self.about.name) for message in response.get("Messages", [])]
        return [message for message in received if message is not None]

    async def extend(self, message: ReceivedMessage, seconds: float) -> None:
        """Extend the lease to `seconds` from now. An accepted call does not prove ownership: see lease.py."""
        await self._change_visibility(message, seconds)

    async def release(self, message: ReceivedMessage) -> None:
        """Make the message visible at once."""
        await self._change_visibility(message, 0)

    async def retry(self, message: ReceivedMessage, delay_seconds: float) -> None:
        """Make the message visible after the delay, rounded up to whole seconds."""
        rest = MAX_LEASE_SECONDS - (self._clock.monotonic() - message.leased_at) - 60
        await self._change_visibility(message, max(0.0, min(math.ceil(delay_seconds), rest)))

    async def delete(self, message: ReceivedMessage) -> None:
        with translate_errors("DeleteMessage"):
            await self._client.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message.receipt_handle)

    async def dead_letter(self, message: ReceivedMessage, error: TranscriptdError, attempt: int) -> None:
        """Copy the message to the dead-letter queue with the reason. The caller deletes the original afterwards."""
        failure = {
            "code": error.code,
            "message": error.message[:MAX_MESSAGE_CHARS],
            "traceback": (error.detail or "")[-MAX_TRACEBACK_CHARS:],
            "attempt": attempt,
            "receive_count": message.receive_count,
            "worker_id": self._worker_id,
            "original_message_id": message.message_id,
            "queue": message.queue,
            "failed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        body, attributes = message.body, attributes_of_copy(message.body, message.attributes, failure)
        if "ErrorCode" not in attributes:
            body, attributes = shortened(message.body, message.attributes, failure, MAX_MESSAGE_BYTES)
        try:
            await self._send_dead_letter(body, attributes, message.tenant)
        except QueueRefused as error:
            if "InvalidParameterValue" not in _code(error) or message_bytes(body, attributes) <= OLDER_MESSAGE_BYTES:
                raise
            # The dead-letter queue has the older limit, and the job queue the newer one.
            shorter = shortened(message.body, message.attributes, failure, OLDER_MESSAGE_BYTES)
            await self._send_dead_letter(*shorter, message.tenant)

    async def _send_dead_letter(self, body: str, attributes: dict[str, Any], tenant: str | None) -> None:
        with translate_errors("SendMessage"):
            await self._client.send_message(
                QueueUrl=self._dlq_url, MessageBody=body, MessageAttributes=attributes, **in_group(tenant)
            )

    async def ping(self) -> None:
        """Check that the queue and the credentials work. Raises QueueUnavailable."""
        with translate_errors("GetQueueAttributes"):
            await self._client.get_queue_attributes(QueueUrl=self._queue_url, AttributeNames=["QueueArn"])

    async def ping_dead_letters(self) -> None:
        """Check that the dead-letter queue exists, but not the permission to send. Raises QueueUnavailable."""
        await find_queue(self._client, self._dlq_url)

    async def probe_delete(self) -> None:
        """Check the permission to delete messages. Raises QueueUnavailable.

        Uses an invalid receipt handle, so nothing is deleted: SQS checks permissions first, then rejects the handle.
        """
        try:
            with translate_errors("DeleteMessage"):
                await self._client.delete_message(QueueUrl=self._queue_url, ReceiptHandle="transcriptd-probe")
        except MessageGone:
            return

    async def depth(self) -> Depth:
        return await read_depth(self._client, self._queue_url)

    async def dead_letter_depth(self) -> Depth:
        return await read_depth(self._client, self._dlq_url)

    async def _change_visibility(self, message: ReceivedMessage, seconds: float) -> None:
        with translate_errors("ChangeMessageVisibility"):
            await self._client.change_message_visibility(
                QueueUrl=self._queue_url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=round(seconds)
            )


def in_group(tenant: str | None) -> dict[str, Any]:
    """Return the parameters of SendMessage that keep a message in its tenant's group."""
    return {"MessageGroupId": tenant} if tenant else {}


async def find_queue(client: "SQSClient", url: str) -> None:
    """Check that a queue exists and responds. Denied access is accepted: the daemon does not need this permission.

    Raises QueueUnavailable.
    """
    try:
        with translate_errors("GetQueueAttributes"):
            await client.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    except QueueUnavailable as error:
        if "AccessDenied" not in _code(error):
            raise


async def read_depth(client: "SQSClient", url: str) -> Depth:
    """Return the number of messages in a queue. Raises QueueUnavailable."""
    with translate_errors("GetQueueAttributes"):
        answer = await client.get_queue_attributes(QueueUrl=url, AttributeNames=DEPTH_ATTRIBUTES)
    try:
        return Depth(*(int(answer["Attributes"][name]) for name in DEPTH_ATTRIBUTES))
    except (KeyError, TypeError, ValueError) as error:
        raise QueueUnavailable(f"SQS GetQueueAttributes returned no numbers: {error!r}") from error


def _limits(attributes: Any) -> QueueLimits:
    try:
        policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        receives, retention = policy.get("maxReceiveCount"), attributes.get("MessageRetentionPeriod")
        return QueueLimits(int(receives) if receives else None, float(retention) if retention else None)
    except (AttributeError, TypeError, ValueError):
        return QueueLimits()


def _received(message: Any, leased_at: float, queue: str) -> ReceivedMessage | None:
    """Parse a received message. Returns None if required fields are missing: SQS then delivers it again or redrives it."""
    try:
        return ReceivedMessage(
            message_id=message["MessageId"],
            receipt_handle=message["ReceiptHandle"],
            body=message["Body"],
            attributes=dict(message.get("MessageAttributes") or {}),
            receive_count=int(message["Attributes"]["ApproximateReceiveCount"]),
            sent_at=int(message["Attributes"]["SentTimestamp"]) / 1000,
            leased_at=leased_at,
            tenant=_tenant(message),
            queue=queue,
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        log.error(
            "message not understood",
            extra={"message_id": message.get("MessageId"), "error": describe_with_type(error)},
        )
        return None


def _tenant(message: Any) -> str | None:
    group_id = message["Attributes"].get("MessageGroupId")
    tenant = valid_tenant(group_id)
    if group_id is not None and tenant is None:
        # SQS itself never returns one, and would refuse it on the dead letter.
        log.warning("message group ID ignored", extra={"message_id": message["MessageId"], "error": "SQS forbids it"})
    return tenant


@contextmanager
def translate_errors(call: str) -> Iterator[None]:
    """Translate botocore errors into errors that name the call: MessageGone, QueueRefused, or else QueueUnavailable."""
    try:
        yield
    except ClientError as error:
        problem, may_have_worked = f"SQS {call} failed: {error}", _may_have_worked(error)
        match fault_of_response("sqs", error.response):
            case Fault.JOB:
                raise MessageGone(problem) from error
            case Fault.DEPLOYMENT:
                raise QueueRefused(problem, may_have_worked=may_have_worked) from error
            case Fault.DEPENDENCY:
                raise QueueUnavailable(problem, may_have_worked=may_have_worked) from error
    except NoCredentialsError as error:
        raise QueueRefused(f"SQS {call} failed: {error}") from error
    except (
        BotoCoreError,
        OSError,  # this and the next: from aiohttp, not wrapped by botocore
        TimeoutError,
        AttributeError,  # this and the next: from botocore's parser, for JSON in an unexpected format
        TypeError,
    ) as error:
        raise QueueUnavailable(
            f"SQS {call} failed: {describe(error)}", may_have_worked=_may_have_worked(error)
        ) from error


def _code(error: QueueUnavailable) -> str:
    """Return SQS's code of a translated error."""
    cause = error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


def _may_have_worked(error: Exception) -> bool:
    """Return whether a failed call may still have taken effect: its response was lost, or SQS failed during the call."""
    if isinstance(error, ClientError):
        status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        return status >= 500
    return not isinstance(error, EndpointConnectionError | ConnectTimeoutError)
