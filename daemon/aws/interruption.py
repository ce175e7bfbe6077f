"""Notices about this instance: spot interruption, rebalance recommendation, termination by its Auto Scaling group.

They are polled every few seconds. If a poll fails, the failure is counted and the daemon continues.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html
https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
"""

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from daemon.aws.imds import MetadataUnavailable
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage

log = logging.getLogger("transcriptd.interruption")

# Part of the two minutes after a spot notice that is reserved for releasing unfinished jobs.
SPOT_RESERVE_SECONDS = 30.0
SPOT_NOTICE_SECONDS = 120.0  # if a notice has no valid time


class InterruptionKind(StrEnum):
    SPOT = "spot"  # the instance terminates at a known time, two minutes after the notice
    TERMINATION = "termination"  # its group terminates it once the termination hook is completed
    REBALANCE = "rebalance"  # it may be interrupted soon: drain and exit


@dataclass(frozen=True, slots=True)
class InterruptionNotice:
    kind: InterruptionKind
    ends_at: float | None = None  # Unix time


class Metadata(Protocol):
    async def get(self, path: str) -> str | None: ...


class InterruptionMonitor:
    """`run()` until cancelled. `noticed` is set with the first notice; `notices` has all of them."""

    def __init__(self, metadata: Metadata, metrics: Metrics, poll_seconds: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._metadata = metadata
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._outage = Outage(log, "instance metadata unavailable", "instance metadata available again")
        self._seen = {kind: asyncio.Event() for kind in InterruptionKind}
        self.noticed = asyncio.Event()
        self.notices: dict[InterruptionKind, InterruptionNotice] = {}

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> None:
        """Poll once. A state that persists is only one notice."""
        try:
            action = await self._metadata.get("spot/instance-action")
            if action is not None:
                self._notice(InterruptionNotice(InterruptionKind.SPOT, self._parse_time(action)))
            if await self._metadata.get("autoscaling/target-lifecycle-state") == "Terminated":
                self._notice(InterruptionNotice(InterruptionKind.TERMINATION))
            if await self._metadata.get("events/recommendations/rebalance") is not None:
                self._notice(InterruptionNotice(InterruptionKind.REBALANCE))
        except MetadataUnavailable as error:
            self._metrics.machine.imds_poll_failures.inc()
            self._outage.failed(str(error))
        else:
            self._outage.worked()

    async def release_deadline(self) -> None:
        """Wait until unfinished jobs must be released: 30 s before the end of a spot instance."""
        ends_at = (await self.wait_for(InterruptionKind.SPOT)).ends_at or 0.0
        await asyncio.sleep(max(0.0, ends_at - SPOT_RESERVE_SECONDS - self._clock.unix()))

    async def wait_for(self, kind: InterruptionKind) -> InterruptionNotice:
        await self._seen[kind].wait()
        return self.notices[kind]

    def _notice(self, notice: InterruptionNotice) -> None:
        if notice.kind in self.notices:
            return
        self.notices[notice.kind] = notice
        self._metrics.machine.interruptions.labels(notice.kind.value).inc()
        ends_at = None if notice.ends_at is None else datetime.fromtimestamp(notice.ends_at, UTC).isoformat()
        log.warning("interruption noticed", extra={"kind": notice.kind.value, "ends_at": ends_at})
        self.noticed.set()
        self._seen[notice.kind].set()

    def _parse_time(self, action: str) -> float:
        """Return the Unix time of an instance action, `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`."""
        try:
            return datetime.fromisoformat(json.loads(action)["time"]).timestamp()
        except (ValueError, KeyError, TypeError):
            log.warning("invalid spot notice; assuming termination in two minutes", extra={"notice": action[:200]})
            return self._clock.unix() + SPOT_NOTICE_SECONDS
