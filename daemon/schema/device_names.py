"""Validation of the setting `devices`."""

import re
from collections.abc import Sequence

_NAMED_GPU = re.compile(r"cuda:(0|[1-9]\d{0,2})")


def check_device_names(names: Sequence[str]) -> None:
    """Raise ValueError, with the violated rule, for an invalid list of devices."""
    if not names:
        raise ValueError("name at least one device, or leave the setting unset")
    for name in names:
        if name not in ("auto", "cuda", "cpu") and not _NAMED_GPU.fullmatch(name):
            raise ValueError(f"{name} is not a device; use auto, cuda, cpu, or cuda:0, cuda:1 and so on")
    if len(names) > 1 and {"auto", "cuda"} & set(names):
        raise ValueError("auto and cuda cannot be combined with other devices: each means every GPU")
    if len(set(names)) > 1 and "cpu" in names:
        raise ValueError(
            "cpu and cuda:N cannot be combined: jobs that happen to run on the CPU would take many times as long"
        )
    for name in names:
        if name != "cpu" and names.count(name) > 1:
            raise ValueError(f"{name} is listed twice: a GPU has only one runner")
