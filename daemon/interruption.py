"""What is about to become of this instance: a spot interruption, a rebalance recommendation, a termination by its group.

Asked for every few seconds. That the service fails says nothing: work goes on, and the failure is counted.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html
https://docs.aws.amazon.com/autoscaling/ec2/userguide/retrieving-target-lifecycle-state-through-imds.html
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from daemon.imds import MetadataUnavailable
from daemon.metrics import Metrics
from daemon.outage import Outage

log = logging.getLogger("transcriptd.interruption")

# Of the two minutes that a spot notice gives, this much is kept for releasing what could not finish.
SPOT_RESERVE_SECONDS = 30.0
SPOT_NOTICE_SECONDS = 120.0  # where a notice has no readable time


class Kind(StrEnum):
    SPOT = "spot"  # the instance ends at a known time, two minutes from the notice
    TERMINATION = "termination"  # its group ends it, once the termination hook is completed
    REBALANCE = "rebalance"  # it may be interrupted soon: leave when the work in hand is done


@dataclass(frozen=True, slots=True)
class Notice:
    kind: Kind
    ends_at: float | None = None  # Unix time


class Metadata(Protocol):
    async def get(self, path: str) -> str | None: ...


class InterruptionWatch:
    """`run()` for ever; `noticed` is set with the first notice, and `notices` has them all."""

    def __init__(self, metadata: Metadata, metrics: Metrics, poll_seconds: float) -> None:
        self._metadata = metadata
        self._metrics = metrics
        self._poll_seconds = poll_seconds
        self._outage = Outage(log, "instance metadata unavailable", "instance metadata available again")
        self._seen = {kind: asyncio.Event() for kind in Kind}
        self.noticed = asyncio.Event()
        self.notices: dict[Kind, Notice] = {}

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> None:
        """Ask once. A state that stays is one notice."""
        try:
            action = await self._metadata.get("spot/instance-action")
            if action is not None:
                self._notice(Notice(Kind.SPOT, _time_of(action)))
            if await self._metadata.get("autoscaling/target-lifecycle-state") == "Terminated":
                self._notice(Notice(Kind.TERMINATION))
            if await self._metadata.get("events/recommendations/rebalance") is not None:
                self._notice(Notice(Kind.REBALANCE))
        except MetadataUnavailable as error:
            self._metrics.metadata_failures.inc()
            self._outage.failed(str(error))
        else:
            self._outage.worked()

    async def last_moment(self) -> None:
        """Return when what cannot finish must be given back: half a minute before a spot instance ends. Maybe never."""
        ends_at = (await self.wait_for(Kind.SPOT)).ends_at or 0.0
        await asyncio.sleep(max(0.0, ends_at - SPOT_RESERVE_SECONDS - time.time()))

    async def wait_for(self, kind: Kind) -> Notice:
        await self._seen[kind].wait()
        return self.notices[kind]

    def _notice(self, notice: Notice) -> None:
        if notice.kind in self.notices:
            return
        self.notices[notice.kind] = notice
        self._metrics.interruptions.labels(notice.kind.value).inc()
        ends_at = None if notice.ends_at is None else datetime.fromtimestamp(notice.ends_at, UTC).isoformat()
        log.warning("interruption noticed", extra={"kind": notice.kind.value, "ends_at": ends_at})
        self.noticed.set()
        self._seen[notice.kind].set()


def _time_of(action: str) -> float:
    """Unix time of an instance action, `{"action": "terminate", "time": "2017-09-18T08:22:00Z"}`."""
    try:
        return datetime.fromisoformat(json.loads(action)["time"]).timestamp()
    except (ValueError, KeyError, TypeError):
        log.warning("spot notice not understood; taken as two minutes from now", extra={"notice": action[:200]})
        return time.time() + SPOT_NOTICE_SECONDS
