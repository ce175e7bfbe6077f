"""The state of one device's runner, and what is measured of it."""

import time
from enum import StrEnum

from daemon.metrics import Metrics
from daemon.protocol import Memory, Ready


class RunnerState(StrEnum):
    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DEFUNCT = "defunct"


class RunnerRecord:
    """Written by the runner; its metrics follow."""

    def __init__(self, metrics: Metrics, device: str) -> None:
        metrics.add_device(device)
        self._metrics = metrics
        self._device = device
        self._state, self.since = RunnerState.NEW, time.time()  # Unix time
        self._counted_at = time.monotonic()  # busy time is counted up to here
        self.state = RunnerState.NEW

    @property
    def state(self) -> RunnerState:
        return self._state

    @state.setter
    def state(self, state: RunnerState) -> None:
        self.count_busy()
        if state is not self._state:
            self._state, self.since = state, time.time()
        for each in RunnerState:
            self._metrics.runner_state.labels(self._device, each.value).set(each is state)

    def count_busy(self) -> None:
        """Count the time since the last call; to be called now and then, for a job of hours must not show when it ends."""
        now = time.monotonic()
        if self._state is RunnerState.BUSY:
            self._metrics.runner_busy_seconds.labels(self._device).inc(now - self._counted_at)
        self._counted_at = now

    def ready(self, info: Ready) -> None:
        self.state = RunnerState.READY
        self._metrics.model_load_seconds.labels(self._device).set(info.load_seconds)
        models = {f"{stage}_model": name for stage, name in info.models.items()}
        self._metrics.runner.labels(self._device).info(
            {"device_name": info.device_name, "compute_type": info.compute_type, **models}
        )

    def ended(self, reason: str) -> None:
        """The process is gone; `reason` is one of metrics.RUNNER_ENDS."""
        self._metrics.runner_restarts.labels(self._device, reason).inc()

    def memory(self, memory: Memory) -> None:
        self._metrics.runner_memory_bytes.labels(self._device, "host").set(memory.host_bytes)
        self._metrics.runner_memory_bytes.labels(self._device, "device").set(memory.device_bytes)
