"""Host memory of a process."""

import resource
from pathlib import Path


def resident_bytes(pid: int) -> int | None:
    """Return the resident size; None if the process has ended or the system is not Linux."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None
