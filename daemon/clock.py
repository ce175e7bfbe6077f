"""The clock, injected so that tests can replace it."""

import time
from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds on a clock that never goes backwards. Only differences are meaningful."""
        ...

    def unix(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class SystemClock:
    """The system clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def unix(self) -> float:
        return time.time()


SYSTEM_CLOCK = SystemClock()
