"""CPU cores as lanes: one thread per lane, each with its own work.

A library that uses two threads splits every matrix between them and synchronizes after each operation: small models
gain little, and Whisper's decoder gets slower with a single chunk (docs/performance.md). Independent work needs no
synchronization. So every library runs with one thread, and work that can be split, such as the windows of a recording,
is distributed over the lanes. A GPU is a single lane, because it parallelizes internally.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class WorkerPool:
    """One thread per lane, shared by all jobs of the process in FIFO order."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane") if count > 1 else None

    def map(self, action: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """Apply the action to each part; results in order. Raises the first error, after all parts have finished."""
        if self._pool is None or len(parts) < 2:
            return [action(part) for part in parts]
        futures = [self._pool.submit(action, part) for part in parts]
        wait(futures)  # a part still running would hold memory that a retry needs
        return [future.result() for future in futures]
