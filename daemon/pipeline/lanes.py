"""A processor's cores as lanes: different work in each, one thread a lane.

A library that is told to use two threads splits every matrix between them, and both wait at the end of each: small models
gain little by it, and Whisper's decoder loses with one chunk (docs/performance.md). Two pieces of work side by
side wait for nothing. So every library computes with one thread here, and what falls into parts, such as the windows of a
recording, is spread over the lanes. A GPU is one lane: it does its own spreading.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """Shared by all jobs of the process: whoever comes first is served first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane") if count > 1 else None

    def map(self, action: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """The action's result for each part, in their order. Raises what the first part that failed raised, once all ended."""
        if self._pool is None or len(parts) < 2:
            return [action(part) for part in parts]
        futures = [self._pool.submit(action, part) for part in parts]
        wait(futures)  # what still ran would hold the memory that another attempt needs
        return [future.result() for future in futures]
