"""Fake NVML: GPUs with configurable values, failures and errors."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

NOT_SUPPORTED, TIMEOUT, GPU_IS_LOST = 3, 10, 15


class FakeNvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class FakeNvml:
    """The subset of pynvml that the daemon uses. `errors` maps a function name to the error it raises."""

    gpus: int = 1
    errors: dict[str, int] = field(default_factory=dict)
    xids: list[tuple[int, int]] = field(default_factory=list)  # (GPU, error number)

    NVMLError = FakeNvmlError
    NVML_ERROR_NOT_SUPPORTED = NOT_SUPPORTED
    NVML_TEMPERATURE_GPU = 0
    nvmlEventTypeXidCriticalError = 8

    def _call(self, name: str, answer: Any = None) -> Any:
        if name in self.errors:
            raise FakeNvmlError(self.errors[name])
        return answer

    def nvmlInit(self) -> None:
        self._call("init")

    def nvmlDeviceGetCount(self) -> int:
        return int(self._call("count", self.gpus))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "Fake GPU"

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.0"

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: int, types: int, events: object) -> None:
        assert types == self.nvmlEventTypeXidCriticalError
        self._call("events")

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
        if not self.xids:
            raise FakeNvmlError(TIMEOUT)
        gpu, xid = self.xids.pop(0)
        return SimpleNamespace(device=gpu, eventData=xid)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._call("memory", SimpleNamespace(used=3 * 2**30, total=24 * 2**30))

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._call("rates", SimpleNamespace(gpu=85, memory=40))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        return self._call("temperature", 71)
