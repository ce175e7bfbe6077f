"""Outcomes that S3 did not store when their deliveries ended, because it failed or refused the call.

A delivery without an outcome counts as a crash of its job (delivery_log.py). So the daemon records the outcome later: at
the latest before it starts the job again, and usually before another daemon does.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from daemon.errors import TranscriptdError
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.outcomes")

PAUSE_BASE_SECONDS = 1.0
PAUSE_MAX_SECONDS = 60.0
# Far more than an outage leaves: a daemon that cannot record outcomes soon receives nothing.
MAX_WAITING = 1000
MAX_TRIES = 60  # an hour; a location that a job chose may refuse its record for good


@dataclass
class _LateOutcome:
    job_id: str
    record: Callable[[], Awaitable[None]]
    tries: int = 0


class LateOutcomes:
    """`add(…)` an outcome; `run()` in the background records it once S3 accepts it."""

    def __init__(self) -> None:
        self._waiting: deque[_LateOutcome] = deque(maxlen=MAX_WAITING)
        self._added = asyncio.Event()

    def add(self, job_id: str, record: Callable[[], Awaitable[None]]) -> None:
        """`record` stores the outcome, or raises a TranscriptdError. It may be called again after that."""
        self._waiting.append(_LateOutcome(job_id, record))
        self._added.set()

    async def record(self, job_id: str) -> None:
        """Record the outcomes of one job. Raises the TranscriptdError of the first that fails; it is kept."""
        for late in [each for each in self._waiting if each.job_id == job_id]:
            await self._record(late)

    async def run(self) -> None:
        """Record all outcomes, with backoff. Runs until it is cancelled."""
        pause_seconds = PAUSE_BASE_SECONDS
        while True:
            await self._added.wait()
            await asyncio.sleep(random.uniform(pause_seconds / 2, pause_seconds))  # noqa: S311  # jitter
            try:
                for late in list(self._waiting):
                    await self._record(late)
            except TranscriptdError as error:
                log.debug("outcome not recorded", extra={"error": safe_message(error)})
                pause_seconds = min(pause_seconds * 2, PAUSE_MAX_SECONDS)
            else:
                pause_seconds = PAUSE_BASE_SECONDS
            if not self._waiting:
                self._added.clear()

    async def _record(self, late: _LateOutcome) -> None:
        late.tries += 1
        try:
            await late.record()
        except TranscriptdError:
            self._remove(late)
            if late.tries < MAX_TRIES:
                self._waiting.append(late)  # last, so that one that always fails does not hold up the others
            raise
        self._remove(late)

    def _remove(self, late: _LateOutcome) -> None:
        if late in self._waiting:
            self._waiting.remove(late)
