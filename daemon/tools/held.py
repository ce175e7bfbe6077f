"""The messages of the dead-letter queue in hand: received, kept invisible to others while they are looked at, given back."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from daemon.dead_letter import failure_of, original_attributes
from daemon.job import peek_job_id
from daemon.tools.command import Stop, err

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# Short: after a kill the messages are hidden for so long. Extended while the command lives.
LEASE_SECONDS = 60
EXTEND_EVERY_SECONDS = 20.0
BATCH = 10
# A long poll asks all of SQS's servers; a short one only some, and finds less than there is.
WAIT_SECONDS = 1
EMPTY_RECEIVES = 3

# Reasons of messages that no daemon explained; a code never has a hyphen.
MOVED_BY_SQS = "moved-by-sqs"
NO_REASON = "no-reason"


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of the dead-letter queue. Everything in it may be a stranger's."""

    message_id: str
    body: str
    attributes: dict[str, Any]
    system: dict[str, str]  # SentTimestamp and the like

    @property
    def failure(self) -> dict[str, Any]:
        """What the daemon said; empty for a message that it did not put here."""
        return failure_of(self.attributes) or {}

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
        """The daemon's words, or why there are none."""
        if self.failure:
            return str(self.failure.get("message", ""))
        if self.reason == MOVED_BY_SQS:
            return "moved by SQS after maxReceiveCount receives: no daemon settled it"
        return "no daemon explained it: sent by others, or too large to carry a reason"

    @property
    def job_id(self) -> str | None:
        return peek_job_id(self.body)

    @property
    def sent_at(self) -> float:
        """Unix time. Of a message that SQS moved it is when the job was published."""
        return int(self.system.get("SentTimestamp", 0)) / 1000

    @property
    def age_seconds(self) -> float:
        return time.time() - self.sent_at


class Hold:
    """`with Hold(client, url) as hold:` what was received is invisible to others until it is released; all is at the end."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url
        self._handles: dict[str, str] = {}  # by message id
        self._held_until: dict[str, float] = {}  # monotonic
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._extend, name="leases", daemon=True)
        self.total = 0  # messages in the queue as SQS counts them, before the first receive
        self.busy = 0  # of these, in the hands of others

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

    def receive(self, limit: int, stop: Stop) -> list[Letter]:
        """The messages there are, up to the limit, oldest first; fewer if one asks to stop. A receive is never cut off."""
        letters: dict[str, Letter] = {}
        empty = 0
        while len(letters) < limit and empty < EMPTY_RECEIVES and not stop.asked:
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
                letter = Letter(
                    message["MessageId"],
                    message["Body"],
                    message.get("MessageAttributes", {}),
                    message.get("Attributes", {}),
                )
                letters[letter.message_id] = letter
                with self._lock:
                    self._handles[letter.message_id] = message["ReceiptHandle"]
                    self._held_until[letter.message_id] = asked_at + LEASE_SECONDS
            # The count lags behind: it is no proof that there is more, nor that there is not.
            empty = 0 if messages else EMPTY_RECEIVES if len(letters) >= self.total - self.busy else empty + 1
        return sorted(letters.values(), key=lambda letter: letter.sent_at)

    def holds(self, letter: Letter) -> bool:
        """Whether the message is still ours alone; not when its lease could not be extended in time."""
        return self._held_until.get(letter.message_id, 0.0) > time.monotonic()

    def delete(self, letter: Letter) -> None:
        self._client.delete_message(QueueUrl=self._url, ReceiptHandle=self._handles[letter.message_id])
        with self._lock:
            self._forget(letter.message_id)

    def release(self, message_ids: Iterable[str]) -> None:
        """Make messages visible to others at once; what fails becomes so when the lease ends."""
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
            err.print(f"not given back: {left}; others see these again within {LEASE_SECONDS} s")

    def _extend(self) -> None:
        while not self._ended.wait(EXTEND_EVERY_SECONDS):
            for batch in _batches(list(self._handles)):
                with self._lock:  # an extension that overtakes a release would hide the message again
                    asked_at = time.monotonic()
                    try:
                        failed = self._change(batch, LEASE_SECONDS)
                    except (BotoCoreError, ClientError):
                        continue  # tried again in the next round; holds() knows
                    for message_id in self._handles.keys() & set(batch) - failed:
                        self._held_until[message_id] = asked_at + LEASE_SECONDS

    def _change(self, message_ids: list[str], seconds: int) -> set[str]:
        """Set the visibility timeout of those that are still held; the ids that SQS refused it for."""
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
        self._held_until.pop(message_id, None)


def _batches(message_ids: Iterable[str]) -> Iterator[list[str]]:
    ids = list(message_ids)
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
