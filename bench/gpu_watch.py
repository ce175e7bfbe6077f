"""How busy a GPU is and what its memory holds, sampled through NVML: all processes on it together."""

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

SAMPLE_SECONDS = 0.1  # the driver itself looks at the last 1/6 to 1 s


class Sample(NamedTuple):
    at: float  # of the monotonic clock
    busy: float  # share of the driver's last period in which a kernel ran
    used_bytes: int


class GpuUse(NamedTuple):
    busy: float
    peak_bytes: int


class GpuWatch:
    """`with GpuWatch(nvml) as watch:` samples the first GPU until the block ends. Raises nvml.NVMLError without one.

    `nvml` is the module pynvml, or what behaves as it does.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByIndex(0)
        self._samples: list[Sample] = [self._sample()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gpu watch", daemon=True)

    def use(self, began: float, ended: float) -> GpuUse:
        """Between two moments of the monotonic clock: mean busy share, and the most memory; the nearest sample if none fell between."""
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
        while not self._stop.wait(SAMPLE_SECONDS):
            self._samples.append(self._sample())

    def _sample(self) -> Sample:
        nvml = self._nvml
        return Sample(
            time.monotonic(),
            nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100,
            int(nvml.nvmlDeviceGetMemoryInfo(self._handle).used),
        )


@contextmanager
def watching(device: str) -> Iterator[GpuWatch | None]:
    """The GPU's watch, where one is measured."""
    if device == "cpu":
        yield None
        return
    with GpuWatch(importlib.import_module("pynvml")) as watch:
        yield watch
