"""GPU utilization and memory, sampled through NVML, for all processes on the GPU together."""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

SAMPLE_SECONDS = 0.1  # the driver itself samples over the last 1/6 to 1 s


class Sample(NamedTuple):
    at: float  # of the monotonic clock
    busy: float  # share of the driver's last sampling period in which a kernel ran
    used_bytes: int


class GpuUse(NamedTuple):
    busy: float
    peak_bytes: int


class GpuWatch:
    """Sampler of the first GPU until the block ends: `with GpuWatch(nvml) as watch:`. `nvml` comes from find_nvml."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(0)
        self._samples: list[Sample] = [self._sample()]
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu watch", daemon=True)

    def use(self, began: float, ended: float) -> GpuUse:
        """Return mean utilization and peak memory between two times of the monotonic clock, or the nearest sample if
        there is none between them. Raises nvml.NVMLError if the driver stopped responding."""
        if self._error:
            raise self._error
        within = [sample for sample in self._samples if began <= sample.at <= ended]
        within = within or [min(self._samples, key=lambda sample: abs(sample.at - ended))]
        return GpuUse(sum(sample.busy for sample in within) / len(within), max(sample.used_bytes for sample in within))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._stop.wait(SAMPLE_SECONDS):
                self._samples.append(self._sample())
        except self._nvml.NVMLError as error:
            self._error = error

    def _sample(self) -> Sample:
        nvml = self._nvml
        return Sample(
            time.monotonic(),
            nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100,
            int(nvml.nvmlDeviceGetMemoryInfo(self._handle).used),
        )


def find_nvml() -> Any | None:
    """Return the module pynvml if there is a driver."""
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def gpu_name(nvml: Any | None) -> str:
    if nvml is None:
        return "no GPU used"
    return f"{nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))}, driver {nvml.nvmlSystemGetDriverVersion()}"


@contextmanager
def watching(nvml: Any | None) -> Iterator[GpuWatch | None]:
    """Watch the GPU if there is one."""
    if nvml is None:
        yield None
        return
    with GpuWatch(nvml) as watch:
        yield watch
