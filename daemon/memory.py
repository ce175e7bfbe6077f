"""What a process holds of the host's memory."""

import resource
from pathlib import Path


def resident_bytes(pid: int) -> int | None:
    """The resident size; None when the process is gone, or the system is not Linux."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return None
