"""Entries of the outbox, their retry schedule, and the record of a final event's result."""

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict

from daemon.errors import TranscriptdError
from daemon.telemetry.redaction import safe_message
from daemon.telemetry.tracecontext import TraceContext
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.sinks import sink_of

log = logging.getLogger("transcriptd.outbox")

RECORD_TIMEOUT_SECONDS = 10.0
MAX_JITTER_SECONDS = 60.0  # and at most a tenth of the pause

# Result of a job's final event; `failed`: neither delivered nor stored.
Ending = Literal["delivered", "gone", "refused", "exhausted", "failed"]
RecordDelivery = Callable[[str, WebhookEvent, str, int | None], Awaitable[None]]  # of a URL


async def write_record(
    record: RecordDelivery | None, url: str, event: WebhookEvent, ending: Ending, status: int | None
) -> None:
    """Record the result of a final webhook next to the job's results. Never raises; has a time limit."""
    if record is None or sink_of(url) != "webhook" or not event.final or event.record_place is None:
        return
    try:
        async with asyncio.timeout(RECORD_TIMEOUT_SECONDS):
            await record(url, event, ending, status)
    except (TranscriptdError, TimeoutError) as error:
        log.warning(
            "webhook result not recorded",
            extra={**event.log_fields, "event_result": ending, "error": safe_message(error)},
        )
    except Exception:
        log.exception("webhook result not recorded", extra={**event.log_fields, "event_result": ending})


def next_due(
    schedule: tuple[float, ...], first_attempt_at: datetime, now: datetime, wanted_seconds: float = 0
) -> datetime | None:
    """Return when the next attempt is due: the next time of the schedule, plus jitter. None: the schedule has ended.

    A longer Retry-After of the receiver is respected, up to the last time of the schedule.
    """
    elapsed = (now - first_attempt_at).total_seconds()
    turns = [turn - elapsed for turn in schedule if turn > elapsed]
    if not turns:
        return None
    pause = turns[0] + random.uniform(0, min(turns[0] / 10, MAX_JITTER_SECONDS))  # noqa: S311  # jitter
    return now + timedelta(seconds=max(pause, min(wanted_seconds, turns[-1])))


class Entry(BaseModel):
    """The body of an outbox message, version 1. It contains no secret: events are signed when they are sent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    url: str  # as in sinks.py
    event: WebhookEvent
    first_attempt_at: AwareDatetime
    not_before: AwareDatetime

    def body(self) -> str:
        """Return ASCII JSON: SQS rejects control characters, and metadata may contain text that is invalid in UTF-8."""
        return json.dumps({**self.model_dump(mode="json"), "event": self.event.stored()}, allow_nan=False)

    @classmethod
    def parse(cls, body: str, trace: TraceContext | None = None) -> Self:
        """Parse a message body. The trace, if any, comes from the message's attributes. Raises ValueError."""
        try:
            entry = cls.model_validate(json.loads(body))
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        return entry.model_copy(update={"event": entry.event.model_copy(update={"trace": trace})})
