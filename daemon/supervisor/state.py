"""The state of one device's runner, and its metrics."""

from enum import StrEnum

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.protocol.messages import Memory, Ready
from daemon.telemetry.metrics import Metrics


class RunnerState(StrEnum):
    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DEFUNCT = "defunct"


class RunnerRecord:
    """State of a runner. Each change updates the metrics."""

    def __init__(self, metrics: Metrics, device: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        metrics.add_device(device)
        self._metrics = metrics
        self._device = device
        self._state, self.since = RunnerState.NEW, clock.unix()  # Unix time
        self._counted_at = clock.monotonic()  # busy time is counted up to here
        self.state = RunnerState.NEW

    @property
    def state(self) -> RunnerState:
        return self._state

    @state.setter
    def state(self, state: RunnerState) -> None:
        self.count_busy()
        if state is not self._state:
            self._state, self.since = state, self._clock.unix()
        for each in RunnerState:
            self._metrics.runner_state.labels(self._device, each.value).set(each is state)

    def count_busy(self) -> None:
        """Add the busy time since the last call. Call it regularly, so that a long job counts while it runs."""
        now = self._clock.monotonic()
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
        """Count an exit of the process. `reason` is one of metrics.RUNNER_EXIT_REASONS."""
        self._metrics.runner_restarts.labels(self._device, reason).inc()

    def memory(self, memory: Memory) -> None:
        self._metrics.runner_memory_bytes.labels(self._device, "host").set(memory.host_bytes)
        self._metrics.runner_memory_bytes.labels(self._device, "device").set(memory.device_bytes)
