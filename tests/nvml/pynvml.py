"""Stands in for NVIDIA's `pynvml` where this folder is on a daemon's PYTHONPATH: a GPU whose load comes and goes.

FAKE_NVML_XIDS names the Xid errors that its driver has reported, separated by commas.
"""

import math
import os
import time
from types import SimpleNamespace
from typing import Any

from tests.nvml.fake import FakeNvml

PERIOD_SECONDS = 90.0


class BusyNvml(FakeNvml):
    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=int((9 + 5 * _load()) * 2**30), total=24 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=round(20 + 75 * _load()), memory=40)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        return round(52 + 24 * _load())


def _load() -> float:
    """From 0 to 1 and back, each process at a moment of its own."""
    return 0.5 + 0.5 * math.sin(2 * math.pi * (time.time() + os.getpid() % 60) / PERIOD_SECONDS)


_gpu = BusyNvml(xids=[(0, int(xid)) for xid in os.environ.get("FAKE_NVML_XIDS", "").split(",") if xid])


def __getattr__(name: str) -> Any:
    return getattr(_gpu, name)
