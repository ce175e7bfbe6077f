"""Fake queue with explicit lease semantics and injectable faults, for behaviour that no emulator can produce on
demand."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, ReadTimeoutError

from daemon.aws.s3 import MAX_READ_BYTES, Storage, StoredObject
from daemon.aws.sqs import QueueLimits, ReceivedMessage
from daemon.config import MAX_LEASE_SECONDS
from daemon.errors import QueueUnavailable, StorageUnavailable, TranscriptdError
from daemon.job_queues import DEFAULT_NAME, JobQueue
from daemon.protocol.priority import ONLY, Priority
from tests.support.time.virtual import EPOCH, VirtualTime


def received(
    body: str = "{}",
    *,
    receive_count: int = 1,
    leased_at: float | None = None,
    tenant: str | None = None,
    message_id: str = "m-1",
    **attributes: Any,
) -> ReceivedMessage:
    """Return a message received just now."""
    return ReceivedMessage(
        message_id=message_id,
        receipt_handle="r-1",
        body=body,
        attributes=attributes,
        receive_count=receive_count,
        sent_at=time.time(),
        leased_at=time.monotonic() if leased_at is None else leased_at,
        tenant=tenant,
    )


@dataclass
class FakeQueue:
    """Fake of the queue that Lease, Poller and Processor use. `calls` records every call in order."""

    waiting: list[ReceivedMessage] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)  # names of calls that raise QueueUnavailable
    hanging: set[str] = field(default_factory=set)  # names of calls that never return
    receive_seconds: float = 0.05
    dead: list[tuple[ReceivedMessage, TranscriptdError]] = field(default_factory=list)
    ids: Any = field(default_factory=itertools.count)
    name: str = DEFAULT_NAME
    priority: Priority = ONLY

    async def receive(self, max_messages: int) -> list[ReceivedMessage]:
        await self._called("receive", max_messages)
        await asyncio.sleep(self.receive_seconds)
        taken, self.waiting = self.waiting[:max_messages], self.waiting[max_messages:]
        return taken

    @property
    def about(self) -> JobQueue:
        return JobQueue(self.name, "http://localhost/queue", "http://localhost/dlq", 120, self.priority)

    async def limits(self, message: ReceivedMessage | None = None) -> QueueLimits:
        return QueueLimits()

    async def extend(self, message: ReceivedMessage, seconds: float) -> None:
        await self._called("extend", seconds)

    async def release(self, message: ReceivedMessage) -> None:
        await self._called("release", message.message_id)

    async def retry(self, message: ReceivedMessage, delay_seconds: float) -> None:
        await self._called("retry", delay_seconds)

    async def delete(self, message: ReceivedMessage) -> None:
        await self._called("delete", message.message_id)

    async def dead_letter(self, message: ReceivedMessage, error: TranscriptdError, attempt: int) -> None:
        await self._called("dead_letter", error.code)
        self.dead.append((message, error))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def _called(self, name: str, argument: Any) -> None:
        self.calls.append((name, argument))
        if name in self.hanging:
            await asyncio.sleep(3600)
        if name in self.failing:
            raise QueueUnavailable(f"SQS {name} failed: switched off")


# --- services under virtual time ------------------------------------------------------------------------------------

# How an operation fails: refused at once; never answered; executed, but the response is lost; or executed, the response
# lost, and the call retried by the client.
Fault = Literal["down", "hang", "deaf", "repeated"]
# What happens to a host at one of its calls.
Mishap = Literal["dies_before", "dies_after", "pauses_after"]

CLIENT_TIMEOUT_SECONDS = 30.0


@dataclass
class Machine:
    """A host and its network. All side effects of its process go through `call`."""

    clock: VirtualTime
    on_death: Callable[[], None] = lambda: None
    alive: bool = True
    latency_seconds: float = 0.02  # one way
    faults: dict[str, Fault] = field(default_factory=dict)  # by operation
    pause: Callable[[], None] = lambda: None
    calls_left: int = 0  # when it reaches 1, `mishap` happens before or after the next call
    mishap: Mishap = "dies_after"

    def die(self) -> None:
        """Stop the machine as SIGKILL would: it makes no further calls."""
        if self.alive:
            self.alive = False
            self.on_death()

    async def call(self, operation: str, handle: Callable[[Callable[[Any], None]], None]) -> Any:
        """Send a request. `handle(reply)` runs when the request reaches the service, whether or not the caller still
        waits.

        Raises EndpointConnectionError, ReadTimeoutError, or the exception that `handle` raises.
        """
        self.calls_left -= 1
        mishap = self.mishap if self.calls_left == 0 else None
        if mishap == "dies_before":
            self.die()
        if not self.alive:
            raise asyncio.CancelledError  # a dead process does not continue
        fault = self.faults.get(operation)
        if fault == "down":
            raise EndpointConnectionError(endpoint_url=operation)
        answer = asyncio.get_running_loop().create_future()
        repeats = [False, True] if fault == "repeated" else [True]

        def reply(settle: Callable[[Any], None], value: Any) -> None:
            if fault != "deaf":
                self.clock.call_later(self.latency_seconds, lambda: None if answer.done() else settle(value))

        def arrive() -> None:
            counts = repeats.pop(0)
            try:
                handle(lambda value: reply(answer.set_result, value) if counts else None)
            except Exception as error:  # noqa: BLE001  # it is the answer
                if counts:
                    reply(answer.set_exception, error)
            if repeats:
                self.clock.call_later(self.latency_seconds, arrive)

        if fault != "hang":
            self.clock.call_later(self.latency_seconds, arrive)
        if mishap == "dies_after":
            self.die()
            raise asyncio.CancelledError
        if mishap == "pauses_after":
            self.pause()
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_SECONDS):
                return await answer
        except TimeoutError:
            raise ReadTimeoutError(endpoint_url=operation) from None


@dataclass
class StoredMessage:
    """A message on the fake queue."""

    message_id: str
    body: str
    sent_at: float
    visible_at: float
    receive_count: int = 0
    owner: str | None = None  # the most recent receipt handle
    group: str | None = None
    deleted: bool = False
    disturbed: bool = False  # SQS delivered it again, or let another consumer take it, during its lease


@dataclass(frozen=True)
class Receipt:
    message: StoredMessage
    received_at: float


@dataclass
class FakeSqs:
    """A standard queue and its dead-letter queue as SQS documents them; behaviour that SQS leaves open is configurable.

    `stale` selects the result of a call whose receipt handle is superseded or whose visibility timeout has expired: the
    call succeeds and is `ignored`, it fails with an `error`, or it `disturbs` the message for its current holder. See
    docs.aws.amazon.com, "ReceiptHandle" of ChangeMessageVisibility and DeleteMessage, and LocalStack's tests, which are
    validated against SQS.
    """

    clock: VirtualTime
    stale: Literal["ignored", "error", "disturbs"] = "ignored"
    duplicates: int = 0  # number of receives that return a message already in flight
    deletes: Literal["work", "fail", "lost"] = "work"  # `fail` raises; `lost` is accepted, but deletes nothing
    messages: list[StoredMessage] = field(default_factory=list)
    dead: list[dict[str, Any]] = field(default_factory=list)  # SendMessage requests to the dead-letter queue
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def send(self, body: str, group: str | None = None) -> StoredMessage:
        message = StoredMessage(f"m-{len(self.messages)}", body, EPOCH + self.clock.now, self.clock.now, group=group)
        self.messages.append(message)
        return message

    def pending(self) -> list[StoredMessage]:
        return [message for message in self.messages if not message.deleted]

    def owns(self, receipt_handle: str) -> bool:
        """Return whether the handle is the message's most recent one and its visibility timeout has not expired."""
        message = self.receipts[receipt_handle].message
        return not message.deleted and message.owner == receipt_handle and self.clock.now < message.visible_at

    # --- request handlers -----------------------------------------------------------------------------------------

    def receive(self, request: dict[str, Any], give_up_at: float, reply: Callable[[Any], None]) -> None:
        """Reply when a message is available or the long poll ends, even if the caller has disconnected."""
        now = self.clock.now
        free = [message for message in self.pending() if message.visible_at <= now]
        in_flight = [message for message in self.pending() if message.visible_at > now]
        if self.duplicates and in_flight:
            self.duplicates -= 1
            free.insert(0, in_flight[0])
        if not free and now < give_up_at:
            self.clock.call_later(1, lambda: self.receive(request, give_up_at, reply))
            return
        taken = free[: request["MaxNumberOfMessages"]]
        reply({"Messages": [self._lease(message, request["VisibilityTimeout"]) for message in taken]})

    def change_visibility(self, request: dict[str, Any], reply: Callable[[Any], None]) -> None:
        receipt = self._receipt("ChangeMessageVisibility", request)
        message, seconds, now = receipt.message, request["VisibilityTimeout"], self.clock.now
        if message.deleted or seconds > receipt.received_at + MAX_LEASE_SECONDS - now:
            raise _refused("ChangeMessageVisibility", "InvalidParameterValue")
        if self.owns(request["ReceiptHandle"]):
            message.visible_at = now + seconds
        elif self.stale == "disturbs":
            message.disturbed = True
            message.visible_at = now + seconds
        reply({})

    def delete(self, request: dict[str, Any], reply: Callable[[Any], None]) -> None:
        message = self._receipt("DeleteMessage", request).message
        if self.deletes == "fail":
            raise _refused("DeleteMessage", "InternalError")
        if self.deletes == "work" and (self.stale == "disturbs" or self.owns(request["ReceiptHandle"])):
            message.deleted = True
        reply({})

    def send_dead(self, request: dict[str, Any], reply: Callable[[Any], None]) -> None:
        self.dead.append(request)
        reply({})

    def _lease(self, message: StoredMessage, seconds: float) -> dict[str, Any]:
        now = self.clock.now
        message.disturbed |= message.visible_at > now
        message.receive_count += 1
        message.visible_at = now + seconds
        message.owner = f"{message.message_id}/{message.receive_count}"
        self.receipts[message.owner] = Receipt(message, now)
        return {
            "MessageId": message.message_id,
            "ReceiptHandle": message.owner,
            "Body": message.body,
            "Attributes": {
                "ApproximateReceiveCount": str(message.receive_count),
                "SentTimestamp": str(round(message.sent_at * 1000)),
                **({"MessageGroupId": message.group} if message.group else {}),
            },
        }

    def _receipt(self, operation: str, request: dict[str, Any]) -> Receipt:
        handle = request["ReceiptHandle"]
        if self.stale == "error" and not self.owns(handle):
            raise _refused(operation, "ReceiptHandleIsInvalid")
        return self.receipts[handle]


@dataclass
class SqsConnection:
    """The SQS client of one machine, with the calls that daemon.sqs.Queue makes."""

    sqs: FakeSqs
    machine: Machine

    async def receive_message(self, **request: Any) -> Any:
        def handle(reply: Callable[[Any], None]) -> None:
            self.sqs.receive(request, self.sqs.clock.now + request["WaitTimeSeconds"], reply)

        return await self.machine.call("receive", handle)

    async def change_message_visibility(self, **request: Any) -> Any:
        return await self.machine.call("visibility", lambda reply: self.sqs.change_visibility(request, reply))

    async def delete_message(self, **request: Any) -> Any:
        return await self.machine.call("delete", lambda reply: self.sqs.delete(request, reply))

    async def send_message(self, **request: Any) -> Any:
        return await self.machine.call("dead_letter", lambda reply: self.sqs.send_dead(request, reply))


class FakeStorage(Storage):
    """S3 as one machine sees it: all machines share `objects`. Conditional writes are honoured."""

    def __init__(self, objects: dict[str, StoredObject], machine: Machine) -> None:
        self._objects = objects
        self._machine = machine

    async def read(
        self,
        bucket: str,
        key: str,
        max_bytes: int = MAX_READ_BYTES,
        *,
        too_large: type[TranscriptdError] = StorageUnavailable,
    ) -> StoredObject | None:
        found: StoredObject | None = await self._call("read", lambda: self._objects.get(key))
        return found

    async def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        content_type: str = "application/json",
        *,
        only_if_absent: bool = False,
        only_if_etag: str | None = None,
        metadata: dict[str, str] | None = None,
        tag: str | None = None,
    ) -> str | None:
        def put() -> str | None:
            there = self._objects.get(key)
            if (only_if_absent and there) or (only_if_etag is not None and (not there or there.etag != only_if_etag)):
                return None
            etag = uuid.uuid4().hex
            self._objects[key] = StoredObject(body, etag, metadata or {})
            return etag

        etag: str | None = await self._call("write", put)
        return etag

    async def list_keys(self, bucket: str, prefix: str) -> list[str]:
        keys: list[str] = await self._call("read", lambda: [key for key in self._objects if key.startswith(prefix)])
        return keys

    async def delete(self, bucket: str, keys: list[str]) -> None:
        await self._call("write", lambda: [self._objects.pop(key, None) for key in keys])

    async def _call(self, operation: str, answer: Callable[[], Any]) -> Any:
        try:
            return await self._machine.call(operation, lambda reply: reply(answer()))
        except BotoCoreError as error:
            raise StorageUnavailable(f"S3 failed: {error}") from error


class MemoryStorage(Storage):
    """S3 in memory, without time. Conditional writes are honoured."""

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.written: list[bytes] = []  # bodies, in order
        self.down = False  # writes fail

    async def read(
        self,
        bucket: str,
        key: str,
        max_bytes: int = MAX_READ_BYTES,
        *,
        too_large: type[TranscriptdError] = StorageUnavailable,
    ) -> StoredObject | None:
        return self.objects.get(key)

    async def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        content_type: str = "application/json",
        *,
        only_if_absent: bool = False,
        only_if_etag: str | None = None,
        metadata: dict[str, str] | None = None,
        tag: str | None = None,
    ) -> str | None:
        if self.down:
            raise StorageUnavailable("S3 failed")
        there = self.objects.get(key)
        if (only_if_absent and there) or (only_if_etag and (not there or there.etag != only_if_etag)):
            return None
        self.put(key, body, metadata)
        self.written.append(body)
        return self.objects[key].etag

    def put(self, key: str, body: bytes, metadata: dict[str, str] | None = None) -> None:
        """Write as someone else does."""
        self.objects[key] = StoredObject(body, uuid.uuid4().hex, metadata or {})


def _refused(operation: str, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "switched on by the test"}}, operation)
