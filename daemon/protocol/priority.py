"""The priority of a job: which jobs go first where several wait. Pure.

Every place at which jobs wait for each other uses it: receiving, admission to the runner, the schedule of its pieces and
the locks of its models.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Priority:
    """The place of the job's queue in the order of the queues, and its share of the devices."""

    rank: int = 0  # 0 is the first queue
    weight: float | None = None  # None: strict priority, all higher ranks go first


ONLY = Priority()  # of every job, if there is one queue
