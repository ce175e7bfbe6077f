"""Leases on messages of the dead-letter queue: receive them, keep them invisible to other consumers, release them."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from daemon.aws.dead_letter import original_attributes, parse_failure
from daemon.cli.command import Stop, err
from daemon.jobs.validation import peek_job_id
from daemon.schema.tenant import valid_tenant

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# Short, because a killed command leaves its messages hidden for this long. A running command extends its leases.
LEASE_SECONDS = 60
EXTEND_PERIOD_SECONDS = 20.0
BATCH = 10
# A long poll queries all SQS servers; a short poll queries a subset and can miss messages.
WAIT_SECONDS = 1
EMPTY_RECEIVES = 3

# Reasons for messages without an error code. Error codes never contain a hyphen.
MOVED_BY_SQS = "moved-by-sqs"
NO_REASON = "no-reason"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message of the dead-letter queue. Its content is untrusted."""

    message_id: str
    body: str
    attributes: dict[str, Any]
    system: dict[str, str]  # system attributes, such as SentTimestamp

    @property
    def failure(self) -> dict[str, Any]:
        """The daemon's failure report; empty if no daemon sent the message here."""
        return parse_failure(self.attributes) or {}

    @property
    def original_attributes(self) -> dict[str, Any]:
        return original_attributes(self.attributes)

    @property
    def reason(self) -> str:
        if self.failure:
            return str(self.failure["code"])
        return MOVED_BY_SQS if "DeadLetterQueueSourceArn" in self.system else NO_REASON

    @property
    def explanation(self) -> str:
        """The daemon's error message, or why there is none."""
        if self.failure:
            return str(self.failure.get("message", ""))
        if self.reason == MOVED_BY_SQS:
            return "moved by SQS after maxReceiveCount receives: no daemon settled it"
        return "no reason attached: sent by another program, or too large to carry one"

    @property
    def job_id(self) -> str | None:
        return peek_job_id(self.body)

    @property
    def tenant(self) -> str | None:
        """The message group ID, whether a daemon or SQS moved the message here."""
        return valid_tenant(self.system.get("MessageGroupId"))

    @property
    def sent_at(self) -> float:
        """Unix time of the send. For a message that SQS moved, the time when the job was published."""
        return int(self.system.get("SentTimestamp", 0)) / 1000

    @property
    def age_seconds(self) -> float:
        return time.time() - self.sent_at


class LeasedMessages:
    """Receives messages and extends their leases in a thread. On exit, it releases all messages still held."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url
        self._handles: dict[str, str] = {}  # by message id
        self._leased_until: dict[str, float] = {}  # monotonic
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._extend, name="leases", daemon=True)
        self.total = 0  # messages in the queue by SQS's count, before the first receive
        self.busy = 0  # of these, held by other consumers

    def __enter__(self) -> Self:
        names: Any = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        counts: dict[Any, str] = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names).get(
            "Attributes", {}
        )
        self.total = sum(int(counts.get(name, 0)) for name in names)
        self.busy = int(counts.get(names[1], 0))
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._heart.join()
        self.release(list(self._handles))

    def receive(self, limit: int, stop: Stop) -> list[DeadLetter]:
        """Receive up to `limit` messages, oldest first. A stop request takes effect between two receive calls."""
        letters: dict[str, DeadLetter] = {}
        empty = 0
        while len(letters) < limit and empty < EMPTY_RECEIVES and not stop.requested:
            asked_at = time.monotonic()
            answer: Any = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(BATCH, limit - len(letters)),
                VisibilityTimeout=LEASE_SECONDS,
                WaitTimeSeconds=WAIT_SECONDS,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["All"],
            )
            messages = answer.get("Messages", [])
            for message in messages:
                letter = DeadLetter(
                    message["MessageId"],
                    message["Body"],
                    message.get("MessageAttributes", {}),
                    message.get("Attributes", {}),
                )
                letters[letter.message_id] = letter
                with self._lock:
                    self._handles[letter.message_id] = message["ReceiptHandle"]
                    self._leased_until[letter.message_id] = asked_at + LEASE_SECONDS
            # SQS's count is approximate: there may be more messages, or fewer.
            empty = 0 if messages else EMPTY_RECEIVES if len(letters) >= self.total - self.busy else empty + 1
        return sorted(letters.values(), key=lambda letter: letter.sent_at)

    def is_leased(self, letter: DeadLetter) -> bool:
        """Whether the lease is still valid; false if it could not be extended in time."""
        return self._leased_until.get(letter.message_id, 0.0) > time.monotonic()

    def delete(self, letter: DeadLetter) -> None:
        self._client.delete_message(QueueUrl=self._url, ReceiptHandle=self._handles[letter.message_id])
        with self._lock:
            self._forget(letter.message_id)

    def release(self, message_ids: Iterable[str]) -> None:
        """Make messages visible to other consumers now. If the call fails, they reappear when the lease ends."""
        left = 0
        for batch in _batches(message_ids):
            with self._lock:
                try:
                    left += len(self._change(batch, 0))
                except (BotoCoreError, ClientError):
                    left += len(batch)
                for message_id in batch:
                    self._forget(message_id)
        if left:
            err.print(f"{left} not released; other consumers see them again within {LEASE_SECONDS} s")

    def _extend(self) -> None:
        while not self._ended.wait(EXTEND_PERIOD_SECONDS):
            for batch in _batches(list(self._handles)):
                with self._lock:  # an extension after a release would hide the message again
                    asked_at = time.monotonic()
                    try:
                        failed = self._change(batch, LEASE_SECONDS)
                    except (BotoCoreError, ClientError):
                        continue  # retried in the next round; is_leased() turns false if the lease ends first
                    for message_id in self._handles.keys() & set(batch) - failed:
                        self._leased_until[message_id] = asked_at + LEASE_SECONDS

    def _change(self, message_ids: list[str], seconds: int) -> set[str]:
        """Set the visibility timeout of the messages still held. Returns the IDs for which SQS refused it."""
        held = [each for each in message_ids if each in self._handles]
        if not held:
            return set()
        answer = self._client.change_message_visibility_batch(
            QueueUrl=self._url,
            Entries=[
                {"Id": str(number), "ReceiptHandle": self._handles[each], "VisibilityTimeout": seconds}
                for number, each in enumerate(held)
            ],
        )
        return {held[int(failed["Id"])] for failed in answer.get("Failed", [])}

    def _forget(self, message_id: str) -> None:
        self._handles.pop(message_id, None)
        self._leased_until.pop(message_id, None)


def _batches(message_ids: Iterable[str]) -> Iterator[list[str]]:
    ids = list(message_ids)
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
