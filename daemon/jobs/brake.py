"""The brake: stop receiving while a resource of the deployment fails for every job.

If the output bucket is missing, an IAM policy or KMS key is wrong, or the dead-letter queue rejects messages, every
received message returns to the queue, until SQS moves it to the dead-letter queue. So after a few consecutive deliveries
that ended this way, the daemon receives nothing until a probe of the resource succeeds.

    off ──failures in a row──▶ engaged ──probe succeeds──▶ on trial ──a message is deleted──▶ off
                                  ▲                            │
                                  └────────one failure─────────┘

A probe cannot test everything: only a real dead letter shows whether the dead-letter queue accepts messages. For this
reason there is a trial, and the pause before a probe keeps growing until a delivery has succeeded.

Each job queue has its own brake: a dead-letter queue that rejects messages stops only the queue it belongs to.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.errors import ObjectMissing, OutputRefused, QueueRefused, StorageRefused, TranscriptdError
from daemon.job_queues import DEFAULT_NAME
from daemon.jobs.delivery import DeliveryResult, Resource
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import redact_urls, safe_message

log = logging.getLogger("transcriptd.brake")

PROBE_BASE_SECONDS = 5.0
PROBE_MAX_SECONDS = 300.0
PROBE_TIMEOUT_SECONDS = 150.0  # an S3 client tries a call four times

# Succeeds, or raises a TranscriptdError.
Probe = Callable[[], Awaitable[None]]

NAMES = {
    Resource.STORAGE: "S3",
    Resource.OUTPUT: "the output bucket",
    Resource.QUEUE: "the job queue",
    Resource.DEAD_LETTER_QUEUE: "the dead-letter queue",
    Resource.OUTBOX: "the webhook outbox",
}


class BrakeObserver(Protocol):
    def observe(self, ended: DeliveryResult) -> None: ...


class Brakes:
    """The brakes of all queues, the most urgent queue first."""

    def __init__(self, brakes: Iterable["Brake"]) -> None:
        self._brakes = {brake.queue: brake for brake in brakes}

    def reason(self, queue: str | None = None) -> str | None:
        """Why receiving is stopped, from the named queue or any, or None."""
        return next(
            (each.reason for each in self._brakes.values() if queue in (None, each.queue) and each.reason), None
        )

    def observe(self, ended: DeliveryResult) -> None:
        self._brakes[ended.delivery.message.queue].observe(ended)

    async def run(self) -> None:
        """Run all brakes, until cancelled or until one fails."""
        async with asyncio.TaskGroup() as group:
            for brake in self._brakes.values():
                group.create_task(brake.run(), name=f"brake {brake.queue}")


class Brake:
    """Call `observe(ended)` for each delivery, check `reason` before each receive, run `run()` in the background."""

    def __init__(
        self,
        after_failures: int,
        probes: Mapping[Resource, Probe],
        metrics: Metrics,
        clock: Clock = SYSTEM_CLOCK,
        *,
        queue: str = DEFAULT_NAME,
        at_start: Mapping[Resource, Probe] | None = None,
    ) -> None:
        """`queue` is the name of the job queue. `at_start` has the probes that `run()` makes before anything else; a permanent refusal engages the brake."""
        self.queue = queue
        self._at_start = at_start or {}
        self._after_failures = after_failures
        self._probes = probes
        self._metrics = metrics
        self._clock = clock
        self._failures = 0  # consecutive deliveries
        self._resource: Resource | None = None  # the failing one, while engaged
        self._problem = ""
        self._engaged_at = 0.0
        self._on_trial = False
        self._probed = 0  # probes since a delivery succeeded
        self._engaged = asyncio.Event()

    @property
    def reason(self) -> str | None:
        """Why receiving is stopped, or None."""
        if self._resource is None:
            return None
        return redact_urls(f"{NAMES[self._resource]} fails for every job: {self._problem}")

    def observe(self, ended: DeliveryResult) -> None:
        """Count a delivery. Results unrelated to the deployment's resources have no effect."""
        resource, problem = _find_fault(ended)
        if resource is not None:
            self._failures += 1
            # Without the dead-letter queue no failure of a job can be recorded: one refusal is enough.
            certain = resource is Resource.DEAD_LETTER_QUEUE and ended.obstacle is not None and ended.obstacle.permanent
            if self._resource is None and (certain or self._on_trial or self._failures >= self._after_failures):
                self._engage(resource, problem)
        elif ended.outcome == "published" and ended.settled:
            self._failures = 0
            if self._resource is None:
                self._on_trial, self._probed = False, 0

    async def run(self) -> None:
        """Check the resources once, then probe with backoff whenever the brake is engaged. Runs until it is cancelled."""
        for resource, probe in self._at_start.items():
            await self._check(resource, probe)
        while True:
            await self._engaged.wait()
            longest = min(PROBE_MAX_SECONDS, PROBE_BASE_SECONDS * 2**self._probed)
            # Jitter: all daemons of a fleet see the same fault at the same time.
            await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311  # not a secret
            self._probed += 1
            if self._resource is not None:
                await self._probe(self._resource)

    async def _check(self, resource: Resource, probe: Probe) -> None:
        """Engage the brake if a resource is missing or refuses calls. Outages are left to the poller and the jobs."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await probe()
        except (ObjectMissing, QueueRefused, StorageRefused) as error:
            if self._resource is None:
                self._engage(resource, safe_message(error))
        except (TranscriptdError, TimeoutError) as error:
            log.debug("probe failed", extra={"reason": resource.value, "error": safe_message(error)})

    async def _probe(self, resource: Resource) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                await self._probes[resource]()
        except (TranscriptdError, TimeoutError) as error:
            self._problem = safe_message(error)
            log.debug("probe failed", extra={"reason": resource.value, "error": self._problem})
        except Exception:  # a bug in the daemon: the brake stays engaged until a later probe succeeds
            log.exception("probe failed unexpectedly")
        else:
            self._release(resource)

    def _engage(self, resource: Resource, problem: str) -> None:
        self._resource, self._problem, self._engaged_at = resource, problem, self._clock.monotonic()
        self._metrics.brake_engaged.labels(self.queue, resource.value).set(1)
        log.error(
            "brake engaged",
            extra={"queue": self.queue, "reason": resource.value, "error": problem, "failures": self._failures},
        )
        self._engaged.set()

    def _release(self, resource: Resource) -> None:
        self._engaged.clear()
        self._resource, self._on_trial, self._failures = None, True, 0
        self._metrics.brake_engaged.labels(self.queue, resource.value).set(0)
        down_seconds = round(self._clock.monotonic() - self._engaged_at, 1)
        log.error("brake released", extra={"queue": self.queue, "reason": resource.value, "down_seconds": down_seconds})


def _find_fault(ended: DeliveryResult) -> tuple[Resource | None, str]:
    """Return the resource of the deployment that failed a delivery, and the problem."""
    if isinstance(ended.error, OutputRefused):
        return Resource.OUTPUT, safe_message(ended.error)
    if isinstance(ended.error, StorageRefused):
        return Resource.STORAGE, safe_message(ended.error)
    return (ended.obstacle.resource, ended.obstacle.problem) if ended.obstacle else (None, "")
