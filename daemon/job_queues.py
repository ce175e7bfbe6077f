"""The job queues that the settings name. Part of `Settings` in config.py. Pure.

One queue needs no name: it is called `jobs`. Several have names, and their order is their priority.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.protocol.priority import Priority

DEFAULT_NAME = "jobs"
OUTBOX = "outbox"  # its name where queues are listed
MAX_WEIGHT = 1000.0

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NAMED = re.compile(rf"(?P<name>{_NAME.pattern})=(?P<value>.*)")


@dataclass(frozen=True, slots=True)
class JobQueue:
    """A queue that the daemon receives jobs from."""

    name: str
    url: str
    dlq_url: str
    visibility_timeout_seconds: float
    priority: Priority

    @property
    def aws_name(self) -> str:
        """SQS's name of the queue."""
        return self.url.rpartition("/")[2]


def named(items: tuple[str, ...]) -> list[tuple[str, str]]:
    """Divide `name=value` items. An item without a name has the default one."""
    found = ((_NAMED.fullmatch(item), item) for item in items)
    return [(match["name"], match["value"]) if match else (DEFAULT_NAME, item) for match, item in found]


def job_queues(settings: Any) -> tuple[JobQueue, ...]:
    """Build the queues, the first one first. The rules in settings_rules.py reject contradictory settings."""
    dead_letters, weights = dict(named(settings.dlq_url)), dict(named(settings.queue_weights))
    timeouts = dict(named(settings.queue_visibility_timeout_seconds))
    return tuple(
        JobQueue(
            name,
            url,
            dead_letters.get(name, ""),
            _number(timeouts.get(name, "")) or settings.visibility_timeout_seconds,
            Priority(rank, _number(weights.get(name, ""))),
        )
        for rank, (name, url) in enumerate(named(settings.queue_url))
    )


def names_are_wrong(settings: Any) -> bool:
    """Return whether the queues' names are missing, not unique or reserved."""
    names = [name for name, _ in named(settings.queue_url)]
    unnamed = any(not _NAMED.fullmatch(item) for item in settings.queue_url)
    return not names or len(set(names)) < len(names) or OUTBOX in names or (unnamed and len(names) > 1)


def dead_letters_are_wrong(settings: Any) -> bool:
    """Return whether a queue has no dead-letter queue, or a dead-letter queue belongs to no queue."""
    return not _same_names(settings.dlq_url, settings.queue_url)


def weights_are_wrong(settings: Any) -> bool:
    """Return whether the weights are neither absent nor one positive number for each queue."""
    return bool(settings.queue_weights) and not (
        _same_names(settings.queue_weights, settings.queue_url)
        and _all(settings.queue_weights, lambda number: 0 < number <= MAX_WEIGHT)
    )


def timeouts_are_wrong(settings: Any, max_seconds: float) -> bool:
    """Return whether a visibility timeout is no valid number, or belongs to no queue."""
    names = [name for name, _ in named(settings.queue_visibility_timeout_seconds)]
    return (
        len(set(names)) < len(names)
        or not set(names) <= {name for name, _ in named(settings.queue_url)}
        or not _all(settings.queue_visibility_timeout_seconds, lambda number: 1 <= number <= max_seconds)
    )


def _same_names(items: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return sorted(name for name, _ in named(items)) == sorted(name for name, _ in named(others))


def _all(items: tuple[str, ...], allowed: Callable[[float], bool]) -> bool:
    numbers = [_number(value) for _, value in named(items)]
    return all(number is not None and allowed(number) for number in numbers)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
