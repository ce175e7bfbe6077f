"""What waits in the webhook outbox, when it is tried again, and the record of how it ended."""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

from daemon.errors import TranscriptdError
from daemon.events import Event
from daemon.tracecontext import TraceContext
from daemon.wording import words_of

log = logging.getLogger("transcriptd.outbox")

RECORD_TIMEOUT_SECONDS = 10.0
MAX_JITTER_SECONDS = 60.0  # and never more than a tenth of the pause

# What became of a job's final event; `failed`: neither delivered nor kept.
Ending = Literal["delivered", "gone", "refused", "exhausted", "failed"]
Record = Callable[[Event, str, int | None], Awaitable[None]]


async def write_record(record: Record | None, event: Event, ending: Ending, status: int | None) -> None:
    """Leave a record of how a final event ended, where the job's results lie. Never raises, never takes long."""
    if record is None or not event.final or event.output is None:
        return
    try:
        async with asyncio.timeout(RECORD_TIMEOUT_SECONDS):
            await record(event, ending, status)
    except (TranscriptdError, TimeoutError) as error:
        log.warning(
            "webhook result not recorded",
            extra={**event.log_fields, "webhook_result": ending, "error": words_of(error)},
        )
    except Exception:
        log.exception("webhook result not recorded", extra={**event.log_fields, "webhook_result": ending})


def next_due(
    schedule: tuple[float, ...], first_attempt_at: datetime, now: datetime, wanted_seconds: float = 0
) -> datetime | None:
    """When the next attempt is due: the first turn of the schedule that is still to come, with some jitter.

    A receiver may ask for a longer pause (Retry-After); it gets it up to the last turn. None: no turn is left.
    """
    elapsed = (now - first_attempt_at).total_seconds()
    turns = [turn - elapsed for turn in schedule if turn > elapsed]
    if not turns:
        return None
    pause = turns[0] + random.uniform(0, min(turns[0] / 10, MAX_JITTER_SECONDS))  # noqa: S311  # jitter
    return now + timedelta(seconds=max(pause, min(wanted_seconds, turns[-1])))


class Entry(BaseModel):
    """The body of an outbox message, version 1. It holds no secret: the signature is made when the event is sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    url: str
    event: Event
    first_attempt_at: AwareDatetime
    not_before: AwareDatetime

    def body(self) -> str:
        """ASCII JSON: SQS takes no control characters, and metadata may hold what UTF-8 cannot."""
        return json.dumps({**self.model_dump(mode="json"), "event": self.event.stored()}, allow_nan=False)

    @classmethod
    def parse(cls, body: str, trace: TraceContext | None = None) -> Self:
        """The entry in a message; its trace, if any, is in the message's attributes. Raises ValueError."""
        try:
            entry = cls.model_validate(json.loads(body))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return entry.model_copy(update={"event": entry.event.model_copy(update={"trace": trace})})
