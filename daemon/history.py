"""What earlier deliveries of a job came to: its honest count of attempts, and whether it seems to kill its hosts.

SQS counts receives, and a receive is not an attempt: drains, spot losses and lost leases raise ApproximateReceiveCount
although nothing is wrong with the job. So each delivery is noted beside the job's results before its work begins, and
what it came to is noted when it ends. A delivery that was begun and never ended died with its host.
"""

import time
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

MAX_DELIVERIES = 100
MAX_MESSAGE_CHARS = 500


class Delivery(BaseModel):
    """One delivery that was begun."""

    model_config = ConfigDict(frozen=True)

    message_id: str
    receive_count: int
    worker_id: str
    begun_at: float = Field(default_factory=lambda: round(time.time(), 3))  # Unix time
    outcome: str | None = None  # of disposition.py; None until it ended
    reason: str | None = None
    message: str | None = None  # what was wrong, in words; older releases noted none
    counts: bool = False  # it ended in a failure of the job's own


class History(BaseModel):
    """The deliveries of a job, oldest first. Immutable: each change is a new one."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    deliveries: tuple[Delivery, ...] = ()

    def attempts(self, message_id: str) -> int:
        """Failures of the job's own. Those of an earlier message do not count: a redriven job starts anew."""
        return sum(each.counts for each in self._of(message_id))

    def unexplained(self, message_id: str) -> int:
        """Deliveries that were begun and came to nothing that was noted."""
        return sum(each.outcome is None for each in self._of(message_id))

    def begin(self, entry: Delivery) -> Self:
        """The delivery added; unchanged when it is there, as after a write whose answer was lost."""
        return self if entry in self.deliveries else self._with((*self.deliveries, entry))

    def before(self, entry: Delivery) -> Self:
        """The deliveries without this one."""
        return self._with(tuple(each for each in self.deliveries if each != entry))

    def end(
        self,
        message_id: str,
        receive_count: int,
        outcome: str,
        reason: str,
        *,
        message: str | None = None,
        counts: bool,
    ) -> Self:
        """The outcome noted; nothing changes if the delivery was never begun."""
        told = None if message is None else message[:MAX_MESSAGE_CHARS]
        ended = {"outcome": outcome, "reason": reason, "message": told, "counts": counts}
        return self._with(
            tuple(
                each.model_copy(update=ended)
                if (each.message_id, each.receive_count) == (message_id, receive_count)
                else each
                for each in self.deliveries
            )
        )

    def _of(self, message_id: str) -> list[Delivery]:
        return [each for each in self.deliveries if each.message_id == message_id]

    def _with(self, deliveries: tuple[Delivery, ...]) -> Self:
        return self.model_copy(update={"deliveries": deliveries[-MAX_DELIVERIES:]})
