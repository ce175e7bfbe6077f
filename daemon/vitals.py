"""What is measured by looking now and then: the queues' depth, the event loop, the disk, the runners' memory, the GPUs."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.gpu import watch_gpus
from daemon.memory import resident_bytes
from daemon.metrics import Metrics
from daemon.outage import Outage
from daemon.runners import Runners
from daemon.sqs import Depth

log = logging.getLogger("transcriptd.vitals")

DEPTH_PERIOD_SECONDS = 60.0  # SQS's numbers settle about a minute after the last change
MACHINE_PERIOD_SECONDS = 5.0
LAG_PERIOD_SECONDS = 0.5

# Queue (jobs, dead_letter, outbox) → how to ask for its depth. Raises QueueUnavailable.
Depths = Mapping[str, Callable[[], Awaitable[Depth]]]


@asynccontextmanager
async def watch_vitals(settings: Settings, metrics: Metrics, runners: Runners, depths: Depths) -> AsyncIterator[None]:
    """Look until the context ends. Nothing seen here ends the daemon."""
    metrics.instance_price_per_hour.set(settings.instance_price_per_hour)
    metrics.scratch_min_free_bytes.set(settings.min_free_bytes)
    metrics.audio_in_flight_seconds.set_function(lambda: runners.audio_seconds)
    metrics.jobs_waiting.set_function(lambda: runners.jobs_waiting)
    tasks = [
        asyncio.create_task(watch_depths(metrics, depths), name="queue depths"),
        asyncio.create_task(_watch_machine(settings, metrics, runners), name="machine"),
        asyncio.create_task(watch_loop(metrics), name="event loop lag"),
    ]
    for task in tasks:
        task.add_done_callback(_say_why)
    with watch_gpus(metrics):
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("measuring ended", extra={"task": task.get_name()}, exc_info=error)


async def watch_depths(metrics: Metrics, depths: Depths, period_seconds: float = DEPTH_PERIOD_SECONDS) -> None:
    for queue in depths:
        for result in ("ok", "error"):
            metrics.queue_depth_polls.labels(queue, result)
    outages = {queue: Outage(log, "queue depth unknown", "queue depth known again", queue=queue) for queue in depths}
    while True:
        for queue, ask in depths.items():
            try:
                found = asdict(await ask())
            except QueueUnavailable as error:
                metrics.queue_depth_polls.labels(queue, "error").inc()
                for state in Depth.__slots__:
                    with suppress(KeyError):  # it never had a value
                        metrics.queue_messages.remove(queue, state)
                outages[queue].failed(error)
            else:
                metrics.queue_depth_polls.labels(queue, "ok").inc()
                for state, count in found.items():
                    metrics.queue_messages.labels(queue, state).set(count)
                outages[queue].worked()
        await asyncio.sleep(period_seconds)


async def watch_loop(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_at = loop.time() + LAG_PERIOD_SECONDS
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        metrics.event_loop_lag_seconds.observe(max(0.0, loop.time() - due_at))


async def _watch_machine(settings: Settings, metrics: Metrics, runners: Runners) -> None:
    while True:
        disk = shutil.disk_usage(settings.scratch_dir)
        metrics.scratch_free_bytes.set(disk.free)
        metrics.scratch_size_bytes.set(disk.total)
        for runner in runners.each:
            held = resident_bytes(runner.pid) if runner.pid else None
            if held is not None:
                metrics.runner_memory_bytes.labels(runner.device.name, "host").set(held)
            else:
                with suppress(KeyError):  # it never had a value
                    metrics.runner_memory_bytes.remove(runner.device.name, "host")
        await asyncio.sleep(MACHINE_PERIOD_SECONDS)
