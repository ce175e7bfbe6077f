"""Edge-triggered outage logging: one line on failure, one on recovery, none for each attempt."""

import logging
import time
from collections import deque
from contextvars import Context
from typing import Any

from daemon.telemetry.redaction import safe_message

# Limit for a flapping dependency: outages logged per period. A further outage is logged once it outlasts the period.
MAX_LOGGED = 10
LOGGED_PERIOD_SECONDS = 600.0


class Outage:
    """Logs the outages of one dependency. Call `failed(error)` or `worked()` after each attempt.

    Both lines have the same level, so that no filter separates them. They carry no job's fields, because an outage
    belongs to no job, even if it is noticed while one is processed.
    """

    def __init__(self, log: logging.Logger, down: str, up: str, *, level: int = logging.WARNING, **fields: Any) -> None:
        """`down` and `up` are the events of the two lines; `fields` are added to both."""
        self._log = log
        self._down = down
        self._up = up
        self._level = level
        self._fields = fields
        self._since: float | None = None  # monotonic
        self._failures = 0
        self._logged = False  # the line of this outage
        self._logged_at: deque[float] = deque(maxlen=MAX_LOGGED)
        self._suppressed = 0

    def failed(self, error: BaseException | str, *, unexpected: bool = False) -> None:
        """Record a failed attempt. `unexpected` adds the traceback; a string must be safe to log."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        self._failures += 1
        if self._logged or not self._may_log(now):
            return
        self._logged = True
        self._logged_at.append(now)
        extra = {
            "error": error if isinstance(error, str) else safe_message(error),
            **({"suppressed": self._suppressed} if self._suppressed else {}),
        }
        self._suppressed = 0
        self._log_transition(self._down, extra, error if unexpected and not isinstance(error, str) else None)

    def worked(self) -> None:
        """Record a successful attempt."""
        if self._since is None:
            return
        if self._logged:
            down_seconds = round(time.monotonic() - self._since, 1)
            self._log_transition(self._up, {"down_seconds": down_seconds, "failures": self._failures})
        else:
            self._suppressed += 1
        self._since, self._failures, self._logged = None, 0, False

    def _may_log(self, now: float) -> bool:
        return len(self._logged_at) < MAX_LOGGED or now - self._logged_at[0] > LOGGED_PERIOD_SECONDS

    def _log_transition(self, event: str, extra: dict[str, Any], error: BaseException | None = None) -> None:
        Context().run(self._log.log, self._level, event, extra={**self._fields, **extra}, exc_info=error)
