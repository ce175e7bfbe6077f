"""The devices that models run on: what the setting may name, and which of this machine's it means.

The poller counts GPUs through NVML: it must not load CUDA. A runner process sees the one GPU that is its own.
"""

import importlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from daemon.errors import SetupFailed

log = logging.getLogger("transcriptd.devices")

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAMED_GPU = re.compile(r"cuda:(0|[1-9]\d{0,2})")


@dataclass(frozen=True, slots=True)
class Device:
    """One device; it has a runner process of its own."""

    name: str  # cuda:0, cpu, cpu:1; `auto` where the process itself has to look what there is
    kind: Literal["auto", "cuda", "cpu"]  # what the process is told to use
    cpu_threads: int = 0  # 0 takes all cores
    environment: Mapping[str, str] = field(default_factory=dict)  # of the process, over the daemon's own


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError with the rule in words."""
    if not names:
        raise ValueError("name a device, or leave it unset")
    for name in names:
        if name not in ("auto", "cuda", "cpu") and not NAMED_GPU.fullmatch(name):
            raise ValueError(f"{name} is no device; there are auto, cuda, cpu, and cuda:0, cuda:1 and so on")
    if len(names) > 1 and {"auto", "cuda"} & set(names):
        raise ValueError("auto and cuda stand alone: either means every GPU")
    if len(set(names)) > 1 and "cpu" in names:
        raise ValueError("cpu and cuda:N do not mix: a job on the CPU would take many times as long, by chance")
    for name in names:
        if name != "cpu" and names.count(name) > 1:
            raise ValueError(f"{name} is named twice: a GPU has one runner")


def choose_devices(names: Sequence[str], cpu_threads: int, nvml: Any = None) -> list[Device]:
    """The devices of this machine that the setting `devices` means; they share the cores unless `cpu_threads` are given.

    `nvml` is the module pynvml, or what behaves as it does. Raises SetupFailed where a GPU that is asked for is not there.
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
    """Each GPU by name, with the environment in which a process sees it alone; None where NVML does not answer.

    `cuda:N` is what CUDA would call it: NVML's Nth, or the Nth of those that CUDA_VISIBLE_DEVICES leaves.
    """
    nvml = nvml or importlib.import_module("pynvml")  # here: few of those that import this module have a GPU
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        log.info("no GPU found", extra={"detail": str(error)})
        return None
    wanted = os.environ.get(VISIBLE)
    if wanted is None:
        # In the order of the bus NVML and CUDA count alike; by itself CUDA begins with the fastest.
        return {f"cuda:{n}": {VISIBLE: str(n), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for n in range(count)}

    def exists(entry: str) -> bool:
        return int(entry) < count if entry.isdecimal() else entry.startswith(("GPU-", "MIG-"))

    # As CUDA reads it, up to the first entry that is none.
    visible = takewhile(exists, (entry.strip() for entry in wanted.split(",")))
    return {f"cuda:{n}": {VISIBLE: entry} for n, entry in enumerate(visible)}


def _share_of_cores(devices: int) -> int:
    return 0 if devices == 1 else max(1, len(os.sched_getaffinity(0)) // devices)
