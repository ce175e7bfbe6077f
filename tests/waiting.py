"""Waiting for what happens elsewhere: in another thread, another process."""

import time
from collections.abc import Callable

# How long anything may take: a bound on life on a busy machine, not a measure of speed.
PATIENCE_SECONDS = 180.0


def wait_for(happened: Callable[[], bool], what: str, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + timeout_seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds:g} s: {what}")
        time.sleep(0.1)
