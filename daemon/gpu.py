"""The GPUs as NVIDIA's driver sees them, through NVML. Without a driver there is nothing to see, and nothing is said.

https://docs.nvidia.com/deploy/nvml-api/ and, for the numbers of Xid errors, https://docs.nvidia.com/deploy/xid-errors/
"""

import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from daemon.metrics import Metrics
from daemon.outage import Outage

log = logging.getLogger("transcriptd.gpu")

PERIOD_SECONDS = 15.0
MAX_EVENTS = 100  # taken in one round; the driver keeps the rest
MAX_XID = 999  # numbers are below 200 so far: whatever a driver says, the label stays bounded


@contextmanager
def watch_gpus(metrics: Metrics, nvml: Any = None) -> Iterator[None]:
    """Sample in a thread of its own: a driver in trouble may not answer for minutes, and must hold up nothing.

    `nvml` is the module pynvml, or what behaves as it does.
    """
    gpus = Gpus.open(metrics, nvml)
    if gpus is None:
        yield
        return
    stop = threading.Event()

    def run() -> None:
        while True:
            gpus.sample()
            if stop.wait(PERIOD_SECONDS):
                return

    threading.Thread(target=run, name="gpu", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


class Gpus:
    """All GPUs of the instance, labelled with NVML's index."""

    def __init__(self, metrics: Metrics, nvml: Any) -> None:
        """Raises nvml.NVMLError."""
        self._metrics = metrics
        self._nvml = nvml
        nvml.nvmlInit()
        self._handles = {
            str(index): nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        }
        self._outages = {gpu: Outage(log, "GPU not answering", "GPU answering again", gpu=gpu) for gpu in self._handles}
        self._events = nvml.nvmlEventSetCreate()
        for gpu, handle in self._handles.items():
            metrics.gpu_query_failures.labels(gpu)
            with suppress(nvml.NVMLError):  # some virtual GPUs tell no events; the rest is worth having
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)

    @classmethod
    def open(cls, metrics: Metrics, nvml: Any = None) -> "Gpus | None":
        """None where there is no driver."""
        nvml = nvml or importlib.import_module("pynvml")  # here: few of those that import this module have a GPU
        try:
            return cls(metrics, nvml)
        except nvml.NVMLError as error:
            log.info("no GPU to watch", extra={"detail": str(error)})
            return None

    def sample(self) -> None:
        """Look once. What cannot be told is absent until it can be again."""
        for gpu, handle in self._handles.items():
            try:
                self._sample(gpu, handle)
            except self._nvml.NVMLError as error:
                self._outages[gpu].failed(str(error))
                self._metrics.gpu_query_failures.labels(gpu).inc()
                for gauge in self._gauges():
                    _forget(gauge, gpu)
            else:
                self._outages[gpu].worked()
        for _ in range(MAX_EVENTS):
            if not self._take_event():
                return

    def _sample(self, gpu: str, handle: Any) -> None:
        nvml, metrics = self._nvml, self._metrics
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        rates = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        celsius = self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        if memory is not None:
            metrics.gpu_memory_used_bytes.labels(gpu).set(memory.used)
            metrics.gpu_memory_size_bytes.labels(gpu).set(memory.total)
        if rates is not None:
            metrics.gpu_utilisation_ratio.labels(gpu).set(rates.gpu / 100)
        if celsius is not None:
            metrics.gpu_temperature_celsius.labels(gpu).set(celsius)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer; None where this GPU never has one."""
        try:
            return question()
        except self._nvml.NVMLError as error:
            if error.value != self._nvml.NVML_ERROR_NOT_SUPPORTED:
                raise
            return None

    def _take_event(self) -> bool:
        """Count one error that the driver keeps for us; False when there is none."""
        try:
            event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            gpu = str(self._nvml.nvmlDeviceGetIndex(event.device))
        except self._nvml.NVMLError:  # a timeout says that there is none
            return False
        xid = int(event.eventData)
        log.error("GPU error", extra={"gpu": gpu, "xid": xid})
        self._metrics.gpu_xid_errors.labels(gpu, str(xid) if xid <= MAX_XID else "other").inc()
        return True

    def _gauges(self) -> list[Any]:
        metrics = self._metrics
        return [
            metrics.gpu_memory_used_bytes,
            metrics.gpu_memory_size_bytes,
            metrics.gpu_utilisation_ratio,
            metrics.gpu_temperature_celsius,
        ]


def _forget(gauge: Any, gpu: str) -> None:
    with suppress(KeyError):  # it never had a value
        gauge.remove(gpu)
