"""The priority of a job: which jobs go first where several wait. Pure.

Every place at which jobs wait for each other uses it: receiving, admission to the runner, the schedule of its pieces and
the locks of its models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

MAX_OVERTAKEN = 20  # times, if the queues have weights: no job may starve there


@dataclass(frozen=True, slots=True)
class Priority:
    """The place of the job's queue in the order of the queues, and its share of the devices."""

    rank: int = 0  # 0 is the first queue
    weight: float | None = None  # None: strict priority, all higher ranks go first


ONLY = Priority()  # of every job, if there is one queue


@dataclass(eq=False, slots=True)
class Waiter:
    """A job that waits in a line, by priority, then in the order of arrival."""

    priority: Priority
    overtaken: int = 0  # times that a later job went first

    @property
    def turn(self) -> tuple[bool, int]:
        """Sort key in a line that is in the order of arrival."""
        has_waited_enough = self.priority.weight is not None and self.overtaken >= MAX_OVERTAKEN
        return not has_waited_enough, self.priority.rank


W = TypeVar("W", bound=Waiter)


def first_in(line: Sequence[W]) -> W:
    """Return the waiter whose turn it is. The line must not be empty."""
    return min(line, key=lambda waiter: waiter.turn)


def leave(line: list[W], waiter: W) -> None:
    """Take the waiter out of the line because it goes first. It overtakes all that came before it."""
    place = line.index(waiter)
    for earlier in line[:place]:
        earlier.overtaken += 1
    del line[place]
