"""Supervised background tasks: each failure is logged and counted, and the task is restarted.

A task that the daemon cannot run without belongs in the launcher's main loop instead, which ends when the task fails.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Self

from daemon.telemetry.metrics import Metrics

log = logging.getLogger("transcriptd.background")

RESTART_BASE_SECONDS = 1.0
# Short against the two-minute interruption notice and systemd's watchdog period of one minute.
RESTART_MAX_SECONDS = 20.0


class TaskName(StrEnum):
    """Every supervised task; docs/architecture.md describes the effect of each one's failure."""

    INTERRUPTION_WATCH = "interruption watch"
    RELEASE_DEADLINE = "release deadline"
    LAUNCH_HOOK = "launch hook"
    TERMINATION_HOOK = "termination hook"
    WATCHDOG = "watchdog"
    OUTBOX = "outbox"
    BRAKE = "brake"
    LATE_OUTCOMES = "late outcomes"
    QUEUE_DEPTHS = "queue depths"
    MACHINE = "machine"
    EVENT_LOOP_LAG = "event loop lag"
    GPUS = "gpus"


class Supervisor:
    """`async with Supervisor(metrics) as supervisor: supervisor.start(…)`. On exit, cancels all tasks and waits for them."""

    def __init__(self, metrics: Metrics) -> None:
        self._failures = metrics.background_task_failures
        self._tasks: dict[TaskName, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop(*self._tasks)

    def start(self, name: TaskName, run: Callable[[], Awaitable[None]], *, ends: bool = False) -> None:
        """Run a task and restart it after each failure. Unless `ends` is set, returning counts as a failure too."""
        if name in self._tasks:
            raise ValueError(f"the background task {name} is already running")
        self._failures.labels(name.value)
        self._tasks[name] = asyncio.create_task(self._keep_running(name, run, ends), name=name.value)

    async def stop(self, *names: TaskName) -> None:
        """Cancel tasks and wait for them. Tasks that were not started are ignored."""
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_running(self, name: TaskName, run: Callable[[], Awaitable[None]], ends: bool) -> None:
        loop, pause_seconds = asyncio.get_running_loop(), RESTART_BASE_SECONDS
        while True:
            started_at = loop.time()
            error = await _catch_failure(run)
            if error is None and ends:
                return
            self._failures.labels(name.value).inc()
            log.error("background task failed", extra={"task": name.value}, exc_info=error)
            if loop.time() - started_at > RESTART_MAX_SECONDS:  # it ran for a while
                pause_seconds = RESTART_BASE_SECONDS
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, RESTART_MAX_SECONDS)


async def _catch_failure(run: Callable[[], Awaitable[None]]) -> BaseException | None:
    """Await `run()` and return the exception it raised, if any. Cancellation of the calling task is not caught."""
    try:
        await run()
    except Exception as error:  # noqa: BLE001  # the caller logs any error, and the daemon continues
        return error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return error  # something that the task awaited was cancelled, not the task itself
    return None
