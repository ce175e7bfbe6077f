"""The runners of all devices. Each has its own process and its own troubles; a job goes where the least is to be done."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from daemon.config import Settings
from daemon.devices import choose_devices
from daemon.errors import SetupFailed
from daemon.logs import log_context
from daemon.metrics import Metrics
from daemon.options import JobOptions
from daemon.protocol import Ready
from daemon.runner import GivenUp, ProgressHandler, Runner
from daemon.runner_state import RunnerState

log = logging.getLogger("transcriptd.runners")

# All devices together are in the first of these states that one of them is in.
PRECEDENCE = (RunnerState.BUSY, RunnerState.READY, RunnerState.STARTING, RunnerState.NEW, RunnerState.DEFUNCT)


class Runners:
    """`await start()`, then `await run(…)` for each job, then `await stop()`."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._stopping = False
        self.each: tuple[Runner, ...] = ()  # in the order of the devices; none before the start

    @property
    def state(self) -> RunnerState:
        """The best that a device is in: DEFUNCT once none is left."""
        states = {runner.state for runner in self.each}
        return next((state for state in PRECEDENCE if state in states), RunnerState.NEW)

    @property
    def info(self) -> Ready | None:
        """Of the first device that was ever ready: all load the same models."""
        return next((runner.info for runner in self.each if runner.info), None)

    @property
    def devices(self) -> int:
        """How many are not given up."""
        return len(self._left())

    @property
    def audio_seconds(self) -> float:
        """Of the jobs that the processes have, all channels together."""
        return sum(runner.audio_seconds for runner in self.each)

    @property
    def jobs_waiting(self) -> int:
        """Jobs for which their device has no memory now."""
        return sum(runner.jobs_waiting for runner in self.each)

    async def start(self) -> None:
        """Start all and wait for the first that is ready; the others join when they are.

        Raises SetupFailed when there is no such device, or none of them can be started.
        """
        # In a thread: a driver in trouble may take its time.
        devices = await asyncio.to_thread(choose_devices, self._settings.devices, self._settings.cpu_threads)
        if len(devices) > self._settings.jobs_in_flight:
            log.warning("more devices than jobs in flight", extra={"devices": [device.name for device in devices]})
        self.each = tuple(Runner(self._settings, self._metrics, device) for device in devices)
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
                task.cancel()  # the wait, not the start

    async def failed(self) -> None:
        """Return never, or raise SetupFailed once no device is left."""
        lost = [why for why in await asyncio.gather(*(runner.ended() for runner in self.each)) if why]
        if lost:
            raise lost[-1]

    async def run(
        self,
        job_id: str,
        options: JobOptions,
        on_progress: ProgressHandler,
        *,
        audio: Sequence[Path],
        audio_seconds: float,
        result: Path,
        checkpoints: Path,
    ) -> None:
        """Do one job on one of the devices, as Runner.run does; on another one when that is given up.

        Raises what Runner.run does, but SetupFailed instead of GivenUp: when no device is left.
        """
        while True:
            runner = self._least_loaded()
            with log_context(device=runner.device.name):
                try:
                    return await runner.run(
                        job_id,
                        options,
                        on_progress,
                        audio=audio,
                        audio_seconds=audio_seconds,
                        result=result,
                        checkpoints=checkpoints,
                    )
                except GivenUp:
                    log.warning("job lost its device")

    async def stop(self) -> None:
        """End all processes."""
        self._stopping = True
        await asyncio.gather(*(runner.stop() for runner in self.each))

    def _left(self) -> list[Runner]:
        return [runner for runner in self.each if runner.state is not RunnerState.DEFUNCT]

    def _least_loaded(self) -> Runner:
        """Of those that are ready, else of those that will be."""
        left = self._left()
        if not left or self._stopping:
            raise SetupFailed("no device is left")
        # One that is replaced just now has no process.
        ready = [runner for runner in left if runner.pid is not None]
        return min(ready or left, key=lambda runner: runner.load_seconds)
