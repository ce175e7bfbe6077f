"""Host memory: of a process, and of the machine or container."""

import os
import resource
from contextlib import suppress
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def resident_bytes(pid: int) -> int | None:
    """Return the resident size; None if the process has ended or the system is not Linux."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None


def total_bytes() -> int:
    """Return the memory that this process may use with its children: the machine's, or less in a control group."""
    return min([_machine_bytes(), *_limits(Path("/proc/self/cgroup"), CONTROL_GROUPS)])


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * resource.getpagesize()


def _limits(membership: Path, root: Path) -> list[int]:
    """Return the memory limits of a control group (version 2) and its parents, as far as they are visible."""
    limits = []
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            if line.startswith("0::/"):
                group = root / line.removeprefix("0::/")
                for folder in (group, *group.parents):
                    with suppress(OSError, ValueError):  # there is no file in the root, and its text may be `max`
                        limits.append(int((folder / "memory.max").read_text()))
    return limits
