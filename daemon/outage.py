"""The state of a dependency in the log: one line when it goes down, one when it is back, not one a try."""

import logging
import time
from collections import deque
from contextvars import Context
from typing import Any

from daemon.wording import words_of

# Of a dependency that comes and goes, so many outages are told in so long; a further one when it lasts beyond that.
MAX_TOLD = 10
TOLD_PERIOD_SECONDS = 600.0


class Outage:
    """`failed(error)` and `worked()` after each try. Both lines have one level, so that no filter parts the pair.

    Jobs only notice an outage: its lines belong to none of them, though they may be written while one is worked on.
    """

    def __init__(self, log: logging.Logger, down: str, up: str, *, level: int = logging.WARNING, **fields: Any) -> None:
        """`down` and `up` are the events of the two lines; `fields` are on both."""
        self._log = log
        self._down = down
        self._up = up
        self._level = level
        self._fields = fields
        self._since: float | None = None  # monotonic
        self._failures = 0
        self._told = False  # the line of this outage
        self._told_at: deque[float] = deque(maxlen=MAX_TOLD)
        self._untold = 0

    def failed(self, error: BaseException | str, *, unexpected: bool = False) -> None:
        """A try failed; told with its traceback if that is a fault of ours. A text must be fit for the log."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
        self._failures += 1
        if self._told or not self._may_tell(now):
            return
        self._told = True
        self._told_at.append(now)
        extra = {
            "error": error if isinstance(error, str) else words_of(error),
            **({"untold": self._untold} if self._untold else {}),
        }
        self._untold = 0
        self._tell(self._down, extra, error if unexpected and not isinstance(error, str) else None)

    def worked(self) -> None:
        """A try succeeded."""
        if self._since is None:
            return
        if self._told:
            down_seconds = round(time.monotonic() - self._since, 1)
            self._tell(self._up, {"down_seconds": down_seconds, "failures": self._failures})
        else:
            self._untold += 1
        self._since, self._failures, self._told = None, 0, False

    def _may_tell(self, now: float) -> bool:
        return len(self._told_at) < MAX_TOLD or now - self._told_at[0] > TOLD_PERIOD_SECONDS

    def _tell(self, event: str, extra: dict[str, Any], error: BaseException | None = None) -> None:
        Context().run(self._log.log, self._level, event, extra={**self._fields, **extra}, exc_info=error)
