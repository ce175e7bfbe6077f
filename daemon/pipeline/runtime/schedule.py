"""Batch scheduling: choose which work items of all jobs run next, and together. Uses no threads and no models.

Items may share a batch if they have the same *key* (model, operation, options and length). The oldest item leads a
batch, which is filled with items of the same key in FIFO order, from all jobs. An item waits only for items queued
before it: a recording of six hours submits one batch at a time, and a short one runs between two of its batches.

Jobs of several queues have priorities. Where it is strict, the oldest item of the most urgent queue leads, and items of
more urgent queues fill the batch first. While a more urgent job uses a model, the batches of others are small: an item of
it that comes while one runs must wait for its end. With weights, the queues lead in turn, so that their shares of the items are in
proportion to the weights while all of them have work (stride scheduling, Waldspurger and Weihl, 1995).

On a CPU, several lanes run batches in parallel. Ready items are divided among the idle lanes: two half batches in
parallel finish sooner than one full batch.

Loading a model takes seconds. If n models fit into memory, only the distinct models of the oldest jobs are used, n at
most, so two jobs never keep evicting each other's model. Under strict priority, jobs of more urgent queues count as older.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from math import ceil
from typing import Any

from daemon.protocol.priority import ONLY, Priority

# Size of a batch while a more urgent job uses a model, as a share of the largest.
INTERRUPTIBLE_SHARE = 1 / 4


class ItemState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Work items with equal keys may share a batch."""

    operation: str
    model: Hashable
    terms: Hashable = None


@dataclass(eq=False, slots=True)
class Owner:
    """A job for as long as it needs the model. `model` is the one that it uses."""

    model: Hashable
    priority: Priority = ONLY
    age: int = field(default=0)  # lower is older; set by Schedule.join


@dataclass(eq=False, slots=True)
class WorkItem:
    """One unit of work. `max_batch_size` limits the size of its batch: a job that ran out of memory lowers it."""

    owner: Owner
    key: BatchKey
    payload: Any
    max_batch_size: int
    state: ItemState = ItemState.WAITING
    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0  # its share of the batch's duration
    batch_size: int = 0  # of the batch that it ran in
    leads: bool = False  # exactly one item per batch leads

    @property
    def settled(self) -> bool:
        return self.state in (ItemState.DONE, ItemState.GIVEN_UP)


class Schedule:
    """Queue of waiting items in FIFO order, and of jobs from oldest to newest."""

    def __init__(self, resident_models: int) -> None:
        self._resident_models = resident_models
        self._owners: list[Owner] = []
        self._waiting: list[WorkItem] = []
        self._ages = count()
        self._used: dict[int, float] = {}  # items that ran, divided by the weight, by rank
        self._used_by_last = 0.0  # the same for the queue that led last

    def join(self, owner: Owner) -> None:
        owner.age = next(self._ages)
        self._owners.append(owner)

    def leave(self, owner: Owner) -> None:
        """Remove a job that no longer needs the model, and drop its waiting items."""
        self._owners.remove(owner)
        self.give_up([item for item in self._waiting if item.owner is owner])

    def add(self, items: Iterable[WorkItem]) -> None:
        self._waiting += items

    def give_up(self, items: Iterable[WorkItem]) -> None:
        """Drop items that still wait. A running item completes, and its result is ignored."""
        for item in items:
            if item.state is ItemState.WAITING:
                item.state = ItemState.GIVEN_UP
        self._waiting = [item for item in self._waiting if item.state is ItemState.WAITING]

    def take(self, idle_lanes: int = 1) -> list[WorkItem]:
        """Mark the next batch as running and return it; empty if no item is ready. `idle_lanes` includes the caller."""
        usable = self._usable_models()
        ready = [item for item in self._waiting if item.key.model in usable]
        if not ready:
            return []
        leader = self._choose_leader(ready)
        alike = sorted((item for item in ready if item.key == leader.key), key=lambda item: _place(item, leader))
        batch: list[WorkItem] = []
        max_batch_size = min(self._max_batch_size(leader), ceil(len(alike) / idle_lanes))
        for item in alike:
            if len(batch) < min(max_batch_size, item.max_batch_size):
                batch.append(item)
                max_batch_size = min(max_batch_size, item.max_batch_size)
        for item in batch:
            self._charge(item.owner.priority)
            item.state, item.leads, item.batch_size = ItemState.RUNNING, item is leader, len(batch)
        self._waiting = [item for item in self._waiting if item.state is ItemState.WAITING]
        return batch

    def _max_batch_size(self, leader: WorkItem) -> int:
        """Return the size that a more urgent job can wait for: its next item may come while the batch runs."""
        priority = leader.owner.priority
        if priority.weight is None and any(owner.priority.rank < priority.rank for owner in self._owners):
            return ceil(leader.max_batch_size * INTERRUPTIBLE_SHARE)
        return leader.max_batch_size

    def _choose_leader(self, ready: list[WorkItem]) -> WorkItem:
        if any(item.owner.priority.weight is None for item in ready):
            return min(ready, key=lambda item: item.owner.priority.rank)
        ranks = {item.owner.priority.rank for item in ready}
        for rank in ranks:  # a queue that had no work has no claim to the time that it left to others
            self._used[rank] = max(self._used.get(rank, 0.0), self._used_by_last)
        chosen = min(ranks, key=lambda rank: (self._used[rank], rank))
        self._used_by_last = self._used[chosen]
        return next(item for item in ready if item.owner.priority.rank == chosen)

    def _charge(self, priority: Priority) -> None:
        if priority.weight is not None:
            self._used[priority.rank] = self._used.get(priority.rank, 0.0) + 1 / priority.weight

    def _usable_models(self) -> set[Hashable]:
        usable: dict[Hashable, None] = {}
        for owner in sorted(self._owners, key=_seniority):
            if len(usable) < self._resident_models:
                usable[owner.model] = None
        return set(usable)


def _place(item: WorkItem, leader: WorkItem) -> int:
    """Sort key of the items for a batch: the leader's queue comes first, or under strict priority the more urgent one."""
    rank = item.owner.priority.rank
    return rank if item.owner.priority.weight is None else int(rank != leader.owner.priority.rank)


def _seniority(owner: Owner) -> tuple[int, int]:
    """Sort key of the jobs, which are in the order of their age. With weights, an older job is never passed over."""
    return (owner.priority.rank if owner.priority.weight is None else 0), owner.age
