"""Periodic collectors: queue depth, event-loop lag, disk, runner memory. Each one runs until it is cancelled."""

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

from daemon.aws.sqs import Depth
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.runner_pool import Runners
from daemon.telemetry.memory import resident_bytes
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage

log = logging.getLogger("transcriptd.collectors")

DEPTH_PERIOD_SECONDS = 60.0  # SQS's counts become consistent about a minute after a change
MACHINE_PERIOD_SECONDS = 5.0
LAG_PERIOD_SECONDS = 0.5

# Name of the queue and kind (jobs, dead_letter, outbox) → call that returns its depth. Raises QueueUnavailable.
Depths = Mapping[tuple[str, str], Callable[[], Awaitable[Depth]]]


def measure_when_scraped(settings: Settings, metrics: Metrics, runners: Runners) -> None:
    """Set the constant metrics, and register functions for the metrics that are read at each scrape."""
    metrics.machine.instance_price_per_hour.set(settings.instance_price_per_hour)
    metrics.machine.scratch_min_free_bytes.set(settings.min_free_bytes)
    metrics.audio_in_flight_seconds.set_function(lambda: runners.audio_seconds)
    metrics.jobs_waiting.set_function(runners.jobs_waiting)


async def watch_depths(metrics: Metrics, depths: Depths, period_seconds: float = DEPTH_PERIOD_SECONDS) -> None:
    for queue in depths:
        for result in ("ok", "error"):
            metrics.queue_depth_polls.labels(*queue, result)
    outages = {
        (name, kind): Outage(log, "queue depth unknown", "queue depth known again", queue=name, queue_kind=kind)
        for name, kind in depths
    }
    while True:
        for queue, ask in depths.items():
            try:
                found = asdict(await ask())
            except QueueUnavailable as error:
                metrics.queue_depth_polls.labels(*queue, "error").inc()
                for state in Depth.__slots__:
                    with suppress(KeyError):  # it never had a value
                        metrics.queue_messages.remove(*queue, state)
                outages[queue].failed(error)
            else:
                metrics.queue_depth_polls.labels(*queue, "ok").inc()
                for state, count in found.items():
                    metrics.queue_messages.labels(*queue, state).set(count)
                outages[queue].worked()
        await asyncio.sleep(period_seconds)


async def watch_loop(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_at = loop.time() + LAG_PERIOD_SECONDS
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        metrics.machine.event_loop_lag_seconds.observe(max(0.0, loop.time() - due_at))


async def watch_machine(settings: Settings, metrics: Metrics, runners: Runners) -> None:
    while True:
        disk = shutil.disk_usage(settings.scratch_dir)
        metrics.machine.scratch_free_bytes.set(disk.free)
        metrics.machine.scratch_size_bytes.set(disk.total)
        for runner in runners.each:
            held = resident_bytes(runner.pid) if runner.pid else None
            if held is not None:
                metrics.runner_memory_bytes.labels(runner.device.name, "host").set(held)
            else:
                with suppress(KeyError):  # it never had a value
                    metrics.runner_memory_bytes.remove(runner.device.name, "host")
        await asyncio.sleep(MACHINE_PERIOD_SECONDS)
