"""Resident memory of a process by stage, from /proc (Linux)."""

import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

SAMPLE_SECONDS = 0.05


class Resident(NamedTuple):
    total_bytes: int  # includes mapped files: pages that the kernel can reclaim
    anonymous_bytes: int  # allocated by the process


def status_bytes(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


class MemoryWatch:
    """Sampler of a process until the block ends: `with MemoryWatch(pid) as watch:`. The caller sets `stage` as it
    changes."""

    def __init__(self, pid: int, stage: str) -> None:
        self.stage = stage
        self.peaks: dict[str, Resident] = {}  # stage → peak
        self.before = self._resident(pid)
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)

    @property
    def peak_bytes(self) -> int:
        """Kernel's high-water mark since the block started, in bytes, which includes spikes between two samples."""
        return self._peak_bytes

    def __enter__(self) -> Self:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # proc(5): resets the high-water mark
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._peak_bytes = status_bytes(self._pid, "VmHWM")

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            stage, now = self.stage, self._resident(self._pid)
            last = self.peaks.get(stage, now)
            self.peaks[stage] = Resident(*map(max, zip(now, last, strict=True)))

    @staticmethod
    def _resident(pid: int) -> Resident:
        return Resident(status_bytes(pid, "VmRSS"), status_bytes(pid, "RssAnon"))
