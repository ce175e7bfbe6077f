"""Selects the devices that models run on, from the setting `devices` and the hardware of this machine.

The poller finds GPUs through NVML, because it must not load CUDA. Each runner process sees only its own GPU.
"""

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from daemon.errors import SetupFailed

log = logging.getLogger("transcriptd.devices")

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Device:
    """One device, with its own runner process."""

    name: str  # cuda:0, cpu, cpu:1; `auto` if the process itself must detect the device
    kind: Literal["auto", "cuda", "cpu"]  # passed to the process
    cpu_threads: int = 0  # 0 means all cores
    environment: Mapping[str, str] = field(default_factory=dict)  # added to the daemon's own for the process


def choose_devices(names: Sequence[str], cpu_threads: int, nvml: Any = None) -> list[Device]:
    """Return the devices selected by the setting `devices`. They share the CPU cores unless `cpu_threads` is set.

    `nvml` is the module pynvml or a substitute. Raises SetupFailed if a requested GPU does not exist.
    """
    if names[0] == "cpu":
        count = len(names)
        threads = cpu_threads or _share_of_cores(count)
        return [Device("cpu" if count == 1 else f"cpu:{number}", "cpu", threads) for number in range(count)]
    found = _gpus(nvml)
    if names[0] == "auto" and not found:
        return [Device("auto" if found is None else "cpu", "auto", cpu_threads)]
    found = found or {}
    chosen = list(found) if names[0] in ("auto", "cuda") else names
    if not chosen or not set(chosen) <= set(found):
        raise SetupFailed(
            f"TRANSCRIPTD_DEVICES is {','.join(names)}, but NVML finds {', '.join(found) or 'no GPU'}; "
            f"check the NVIDIA driver (nvidia-smi) and {VISIBLE}, or set TRANSCRIPTD_DEVICES=cpu"
        )
    threads = cpu_threads or _share_of_cores(len(chosen))
    return [Device(name, "cuda", threads, found[name]) for name in chosen]


def _gpus(nvml: Any) -> dict[str, dict[str, str]] | None:
    """Return each GPU by name, with the environment in which a process sees only that GPU; None if NVML is unavailable.

    `cuda:N` is CUDA's own name: the Nth GPU of NVML, or of CUDA_VISIBLE_DEVICES if that is set.
    """
    nvml = nvml or importlib.import_module("pynvml")  # imported late: most users of this module have no GPU
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        log.info("no GPU found", extra={"detail": str(error)})
        return None
    wanted = os.environ.get(VISIBLE)
    if wanted is None:
        # With PCI_BUS_ID, CUDA uses the same order as NVML; by default it starts with the fastest GPU.
        return {f"cuda:{n}": {VISIBLE: str(n), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for n in range(count)}

    def exists(entry: str) -> bool:
        return int(entry) < count if entry.isdecimal() else entry.startswith(("GPU-", "MIG-"))

    # Like CUDA, stop at the first invalid entry.
    visible = takewhile(exists, (entry.strip() for entry in wanted.split(",")))
    return {f"cuda:{n}": {VISIBLE: entry} for n, entry in enumerate(visible)}


def _share_of_cores(devices: int) -> int:
    return 0 if devices == 1 else max(1, len(os.sched_getaffinity(0)) // devices)
