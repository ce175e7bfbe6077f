"""Resource usage of processes, read from /proc in the same way for every peer (Linux)."""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from bench.memory import status_bytes
from daemon.demo.process import DaemonProcess

SAMPLE_SECONDS = 0.05
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROCESSOR_FIELDS = slice(11, 15)  # fields of /proc/PID/stat after the name: utime, stime, cutime, cstime


def counted(daemon: DaemonProcess, name: str) -> float:
    """Return the value of a series in the daemon's /metrics, added up over all labels."""
    families = text_string_to_metric_families(daemon.get("/metrics"))
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


class ProcessWatch:
    """Sampler of a process and its descendants until the block or the process ends: `with ProcessWatch(pid) as watch:`.

    With `since_start`, usage before the block counts, too.
    """

    def __init__(self, pid: int, *, since_start: bool = False) -> None:
        self._pid = pid
        self._before = 0.0 if since_start else _processor_seconds(tree(pid))
        self._now = self._before
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process watch", daemon=True)
        self.peak_bytes = 0  # largest sum of the high-water marks of simultaneously running processes

    @property
    def processor_seconds(self) -> float:
        """User and system time of all threads, in seconds."""
        return self._now - self._before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            is_last = self._stop.wait(SAMPLE_SECONDS)
            pids = tree(self._pid)
            self._now = max(self._now, _processor_seconds(pids))  # lower once the process itself has exited
            self.peak_bytes = max(self.peak_bytes, sum(_high_water_bytes(pid) for pid in pids))
            if is_last:
                return


def tree(pid: int) -> list[int]:
    """Return the process and its descendants, as far as they exist."""
    found = [pid]
    for parent in found:  # which grows during the loop
        found += _children(parent)
    return found


def running(module: str, pid: int) -> list[int]:
    """Return the process and its descendants that are `python -m module`."""
    wanted = f"\0-m\0{module}\0"
    return [each for each in tree(pid) if wanted in _read(Path(f"/proc/{each}/cmdline"))]


def _children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has exited
        return []
    return [int(child) for thread in threads for child in _read(thread / "children").split()]


def _processor_seconds(pids: list[int]) -> float:
    stats = (_read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() for pid in pids)
    return sum(int(ticks) for stat in stats for ticks in stat[PROCESSOR_FIELDS]) / TICKS_PER_SECOND


def _high_water_bytes(pid: int) -> int:
    try:
        return status_bytes(pid, "VmHWM")
    except (OSError, StopIteration):  # it has just exited and has no memory any more
        return 0


def _read(path: Path) -> str:
    """Read a file of a process; empty once the process has exited."""
    try:
        return path.read_text()
    except OSError:
        return ""
