"""The runners of all devices. Each has its own process and fails independently; a job goes to the least loaded one."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import SetupFailed
from daemon.protocol.messages import Ready
from daemon.protocol.priority import ONLY, Priority
from daemon.runner import DeviceLost, EventHandler, Runner
from daemon.schema.options import JobOptions
from daemon.supervisor.devices import choose_devices
from daemon.supervisor.state import RunnerState
from daemon.telemetry.logs import log_context
from daemon.telemetry.metrics import Metrics

log = logging.getLogger("transcriptd.runners")

# The state of the pool is the first of these that any device is in.
PRECEDENCE = (RunnerState.BUSY, RunnerState.READY, RunnerState.STARTING, RunnerState.NEW, RunnerState.DEFUNCT)


class Runners:
    """`await start()`, then `await run(…)` for each job, then `await stop()`."""

    def __init__(
        self, settings: Settings, metrics: Metrics, clock: Clock = SYSTEM_CLOCK, *, max_devices: int | None = None
    ) -> None:
        """`max_devices` uses only the first of the devices: one job needs no more."""
        self._settings = settings
        self._max_devices = max_devices
        self._clock = clock
        self._metrics = metrics
        self._stopping = False
        self.each: tuple[Runner, ...] = ()  # in the order of the devices; empty before the start

    @property
    def state(self) -> RunnerState:
        """Best state of any device: DEFUNCT once none is left."""
        states = {runner.state for runner in self.each}
        return next((state for state in PRECEDENCE if state in states), RunnerState.NEW)

    @property
    def info(self) -> Ready | None:
        """Report of the first device that became ready; all devices load the same models."""
        return next((runner.info for runner in self.each if runner.info), None)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the pipeline, identical on all devices. Raises SetupFailed before a device is ready."""
        if self.info is None:
            raise SetupFailed("no runner is ready")
        return self.info.fingerprint

    @property
    def devices(self) -> int:
        """Number of devices that are still in service."""
        return len(self._left())

    @property
    def audio_seconds(self) -> float:
        """Audio of the jobs in all processes, all channels together."""
        return sum(runner.audio_seconds for runner in self.each)

    def jobs_waiting(self, priority: Priority | None = None) -> int:
        """Jobs, of one priority or all, waiting for memory on their device."""
        return sum(runner.jobs_waiting(priority) for runner in self.each)

    async def start(self) -> None:
        """Start all runners and return when the first is ready. The others join as they become ready.

        Raises SetupFailed if a configured device does not exist, or if none can be started.
        """
        # In a thread: a faulty driver may block for a long time.
        devices = await asyncio.to_thread(choose_devices, self._settings.devices, self._settings.cpu_threads)
        devices = devices[: self._max_devices]
        if len(devices) > self._settings.max_jobs_in_flight:
            log.warning("more devices than jobs in flight", extra={"devices": [device.name for device in devices]})
        self.each = tuple(Runner(self._settings, self._metrics, device, self._clock) for device in devices)
        starting = {asyncio.create_task(runner.start(), name=f"start of {runner.device.name}") for runner in self.each}
        try:
            while starting:
                done, starting = await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
                failures = [failure for task in done if (failure := task.exception())]
                if len(failures) < len(done):
                    return
                for failure in failures:
                    if not isinstance(failure, SetupFailed) or not starting:
                        raise failure
        finally:
            for task in starting:
                task.cancel()  # cancels the wait, not the start

    async def failed(self) -> None:
        """Raise SetupFailed once no device is left. Returns only after `stop()`."""
        lost = [why for why in await asyncio.gather(*(runner.ended() for runner in self.each)) if why]
        if lost:
            raise lost[-1]

    async def run(
        self,
        job_id: str,
        options: JobOptions,
        on_event: EventHandler,
        *,
        audio: Sequence[Path],
        audio_seconds: float,
        result: Path,
        checkpoints: Path,
        words: Path | None = None,
        priority: Priority = ONLY,
    ) -> None:
        """Run one job on one of the devices, as Runner.run does. If that device is given up, use another one.

        Raises the errors of Runner.run, with SetupFailed instead of DeviceLost when no device is left.
        """
        while True:
            runner = self._least_loaded()
            with log_context(device=runner.device.name):
                try:
                    return await runner.run(
                        job_id,
                        options,
                        on_event,
                        audio=audio,
                        audio_seconds=audio_seconds,
                        result=result,
                        checkpoints=checkpoints,
                        words=words,
                        priority=priority,
                    )
                except DeviceLost:
                    log.warning("job lost its device")

    async def stop(self) -> None:
        """End all runner processes."""
        self._stopping = True
        await asyncio.gather(*(runner.stop() for runner in self.each))

    def _left(self) -> list[Runner]:
        return [runner for runner in self.each if runner.state is not RunnerState.DEFUNCT]

    def _least_loaded(self) -> Runner:
        """Return the least loaded runner, preferably one that is ready."""
        left = self._left()
        if not left or self._stopping:
            raise SetupFailed("no device is left")
        # A runner whose process is being replaced has no PID.
        ready = [runner for runner in left if runner.pid is not None]
        return min(ready or left, key=lambda runner: runner.load_seconds)
