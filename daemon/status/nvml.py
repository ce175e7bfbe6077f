"""GPU metrics and Xid errors from NVIDIA's driver, through NVML. Without a driver, nothing is collected.

https://docs.nvidia.com/deploy/nvml-api/ and, for the numbers of Xid errors, https://docs.nvidia.com/deploy/xid-errors/
"""

import asyncio
import importlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage

log = logging.getLogger("transcriptd.gpu")

PERIOD_SECONDS = 15.0
MAX_EVENTS = 100  # read per sample; the driver keeps the others
MAX_XID = 999  # known numbers are below 200; the limit keeps the label's cardinality bounded


async def watch_gpus(metrics: Metrics, nvml: Any = None) -> None:
    """Sample all GPUs until cancelled; return immediately if there is no driver. Errors of the sampling are raised.

    Sampling runs in a daemon thread, because a failing driver can block a call for minutes, and that must not delay
    anything, not even the exit of the process. `nvml` is the module pynvml or a substitute.
    """
    gpus = Gpus.open(metrics, nvml)
    if gpus is None:
        return
    loop, stop = asyncio.get_running_loop(), threading.Event()
    ended: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        error: Exception | None = None
        try:
            while not stop.is_set():
                gpus.sample()
                stop.wait(PERIOD_SECONDS)
        except Exception as raised:  # noqa: BLE001  # the task raises it
            error = raised
        with suppress(RuntimeError):  # the loop is closed: there is no task to notify
            loop.call_soon_threadsafe(_end, ended, error)

    threading.Thread(target=run, name="gpu", daemon=True).start()
    try:
        await ended
    finally:
        stop.set()


def _end(ended: asyncio.Future[None], error: Exception | None) -> None:
    if ended.done():
        return  # cancelled
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)


class Gpus:
    """All GPUs of the instance, labelled by their NVML index."""

    def __init__(self, metrics: Metrics, nvml: Any) -> None:
        """Initialize NVML. Raises nvml.NVMLError."""
        self._metrics = metrics
        self._nvml = nvml
        nvml.nvmlInit()
        self._handles = {
            str(index): nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        }
        self._outages = {
            gpu: Outage(log, "GPU not responding", "GPU responding again", gpu=gpu) for gpu in self._handles
        }
        self._events = nvml.nvmlEventSetCreate()
        for gpu, handle in self._handles.items():
            metrics.machine.gpu_query_failures.labels(gpu)
            with suppress(nvml.NVMLError):  # some virtual GPUs support no events, only samples
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)

    @classmethod
    def open(cls, metrics: Metrics, nvml: Any = None) -> "Gpus | None":
        """Open NVML. Returns None if there is no driver."""
        nvml = nvml or importlib.import_module(
            "pynvml"
        )  # late import: most processes that import this module have no GPU
        try:
            return cls(metrics, nvml)
        except nvml.NVMLError as error:
            log.info("no GPU to monitor", extra={"detail": str(error)})
            return None

    def sample(self) -> None:
        """Sample every GPU and read its events. A GPU that cannot be queried has no series until it responds again."""
        for gpu, handle in self._handles.items():
            try:
                self._sample(gpu, handle)
            except self._nvml.NVMLError as error:
                self._outages[gpu].failed(str(error))
                self._metrics.machine.gpu_query_failures.labels(gpu).inc()
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
            metrics.machine.gpu_memory_used_bytes.labels(gpu).set(memory.used)
            metrics.machine.gpu_memory_size_bytes.labels(gpu).set(memory.total)
        if rates is not None:
            metrics.machine.gpu_utilisation_ratio.labels(gpu).set(rates.gpu / 100)
        if celsius is not None:
            metrics.machine.gpu_temperature_celsius.labels(gpu).set(celsius)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Return the result of a query; None if the GPU does not support it."""
        try:
            return question()
        except self._nvml.NVMLError as error:
            if error.value != self._nvml.NVML_ERROR_NOT_SUPPORTED:
                raise
            return None

    def _take_event(self) -> bool:
        """Count one Xid error queued by the driver. Returns False if there is none."""
        try:
            event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
            gpu = str(self._nvml.nvmlDeviceGetIndex(event.device))
        except self._nvml.NVMLError:  # a timeout: the queue is empty
            return False
        xid = int(event.eventData)
        log.error("GPU error", extra={"gpu": gpu, "xid": xid})
        self._metrics.machine.gpu_xid_errors.labels(gpu, str(xid) if xid <= MAX_XID else "other").inc()
        return True

    def _gauges(self) -> list[Any]:
        metrics = self._metrics
        return [
            metrics.machine.gpu_memory_used_bytes,
            metrics.machine.gpu_memory_size_bytes,
            metrics.machine.gpu_utilisation_ratio,
            metrics.machine.gpu_temperature_celsius,
        ]


def _forget(gauge: Any, gpu: str) -> None:
    with suppress(KeyError):  # it never had a value
        gauge.remove(gpu)
