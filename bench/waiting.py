"""Wait for events in other threads or processes."""

import time
from collections.abc import Callable

# Default timeout: prevents a hang on a busy machine, does not measure speed.
PATIENCE_SECONDS = 180.0


def wait_for(happened: Callable[[], bool], what: str, timeout_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds:g} s: {what}")
        time.sleep(0.1)
