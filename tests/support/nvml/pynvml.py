"""Replacement for NVIDIA's `pynvml` when this folder is on a daemon's PYTHONPATH: one GPU with a varying load.

FAKE_NVML_XIDS lists the Xid errors that its driver has reported, separated by commas.
"""

import math
import os
import time
from types import SimpleNamespace
from typing import Any

from tests.support.nvml.fake import FakeNvml

PERIOD_SECONDS = 90.0


class BusyNvml(FakeNvml):
    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=int((9 + 5 * _load()) * 2**30), total=24 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=round(20 + 75 * _load()), memory=40)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        return round(52 + 24 * _load())


def _load() -> float:
    """Return a load that oscillates between 0 and 1, with a different phase in each process."""
    return 0.5 + 0.5 * math.sin(2 * math.pi * (time.time() + os.getpid() % 60) / PERIOD_SECONDS)


_gpu = BusyNvml(xids=[(0, int(xid)) for xid in os.environ.get("FAKE_NVML_XIDS", "").split(",") if xid])


def __getattr__(name: str) -> Any:
    return getattr(_gpu, name)
