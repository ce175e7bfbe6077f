"""The record of a job's deliveries: counts its attempts, and shows whether the job may crash its hosts.

SQS counts receives, and a receive is not an attempt: drains, spot interruptions and lost leases raise
ApproximateReceiveCount although nothing is wrong with the job. So the daemon records each delivery next to the job's
results before it works on the job, and adds the outcome at the end. A delivery without an outcome crashed. A daemon that
stops records an interruption first, because it may be killed before its jobs end; a later outcome replaces it.
"""

import time
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

MAX_DELIVERIES = 100
MAX_MESSAGE_CHARS = 500


class DeliveryRecord(BaseModel):
    """One started delivery."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    receive_count: int
    worker_id: str
    begun_at: float = Field(default_factory=lambda: round(time.time(), 3))  # Unix time
    outcome: str | None = None  # from disposition.py; None until the end
    reason: str | None = None
    message: str | None = None  # error message; not recorded by older releases
    consumes_attempt: bool = False  # the job itself failed


class DeliveryLog(BaseModel):
    """The deliveries of a job, oldest first. Immutable: each change returns a new log."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    deliveries: tuple[DeliveryRecord, ...] = ()

    def attempts(self, message_id: str) -> int:
        """Return the number of failed attempts of this message. A redriven job has a new message and starts from zero."""
        return sum(each.consumes_attempt for each in self._for_message(message_id))

    def crashed_deliveries(self, message_id: str) -> int:
        """Return the number of deliveries that started but never recorded an outcome (presumed crashed)."""
        return sum(each.outcome is None for each in self._for_message(message_id))

    def begin(self, entry: DeliveryRecord) -> Self:
        """Add the delivery, unless it is already there after a write whose response was lost."""
        return self if entry in self.deliveries else self._replace((*self.deliveries, entry))

    def before(self, entry: DeliveryRecord) -> Self:
        """Return the log without this delivery."""
        return self._replace(tuple(each for each in self.deliveries if each != entry))

    def end(
        self,
        message_id: str,
        receive_count: int,
        outcome: str,
        reason: str,
        *,
        message: str | None = None,
        consumes_attempt: bool,
    ) -> Self:
        """Add the outcome of a delivery. No change if the delivery was never recorded."""
        bounded = None if message is None else message[:MAX_MESSAGE_CHARS]
        ended = {"outcome": outcome, "reason": reason, "message": bounded, "consumes_attempt": consumes_attempt}
        return self._replace(
            tuple(
                each.model_copy(update=ended)
                if (each.message_id, each.receive_count) == (message_id, receive_count)
                else each
                for each in self.deliveries
            )
        )

    def interrupt(self, message_id: str, receive_count: int) -> Self:
        """Add the outcome of a delivery that may be killed before it can record one. A recorded outcome stays."""
        if not any(
            each.outcome is None for each in self._for_message(message_id) if each.receive_count == receive_count
        ):
            return self
        return self.end(message_id, receive_count, "released", "interrupted", consumes_attempt=False)

    def _for_message(self, message_id: str) -> list[DeliveryRecord]:
        return [each for each in self.deliveries if each.message_id == message_id]

    def _replace(self, deliveries: tuple[DeliveryRecord, ...]) -> Self:
        return self.model_copy(update={"deliveries": deliveries[-MAX_DELIVERIES:]})
