"""What a model does next: pieces of work of many jobs, as many at once as fit together. No threads and no models here.

A piece has a *kind*: what it takes to be done in one batch with others (the same model, operation, options and
length). The piece that has waited longest leads, and takes along those of its kind in the order in which they came. So a
batch is filled from all jobs, and no piece waits longer than for what came before it: a recording of six hours asks for
one batch at a time, and a short one gets its turn between two of them.

Where several batches are done side by side, in the lanes of a processor, what is ready is shared out among those that are
idle: two halves of a batch at the same time are done sooner than the whole in one of them.

Models that are not in memory cost seconds to load. With room for n of them, only the models of the n oldest
jobs that differ are used, so that two jobs never take turns in loading their models over each other's.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from math import ceil
from typing import Any


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Kind:
    """Pieces that are equal in this may share a batch."""

    operation: str
    model: Hashable
    terms: Hashable = None


@dataclass(eq=False, slots=True)
class Owner:
    """A job, from when it first needs the model until it needs it no more. `model` is the one it uses."""

    model: Hashable
    age: int = field(default=0)  # lower is older; set when it joins


@dataclass(eq=False, slots=True)
class Piece:
    """`room` bounds the batches it may be in: a job that ran out of memory asks for smaller ones."""

    owner: Owner
    kind: Kind
    payload: Any
    room: int
    state: State = State.WAITING
    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0  # its share of the batch's time
    batch_size: int = 0  # of the batch it was done in
    leads: bool = False  # of each batch one piece does

    @property
    def settled(self) -> bool:
        return self.state in (State.DONE, State.GIVEN_UP)


class Schedule:
    """The waiting pieces in the order in which they came, and the jobs in the order of their age."""

    def __init__(self, resident_models: int) -> None:
        self._resident_models = resident_models
        self._owners: list[Owner] = []
        self._waiting: list[Piece] = []
        self._ages = count()

    def join(self, owner: Owner) -> None:
        owner.age = next(self._ages)
        self._owners.append(owner)

    def leave(self, owner: Owner) -> None:
        """The job needs the model no more; what it still waits for is given up."""
        self._owners.remove(owner)
        self.give_up([piece for piece in self._waiting if piece.owner is owner])

    def add(self, pieces: Iterable[Piece]) -> None:
        self._waiting += pieces

    def give_up(self, pieces: Iterable[Piece]) -> None:
        """Forget those that wait. One that runs is finished, and nobody reads its result."""
        for piece in pieces:
            if piece.state is State.WAITING:
                piece.state = State.GIVEN_UP
        self._waiting = [piece for piece in self._waiting if piece.state is State.WAITING]

    def take(self, idle_lanes: int = 1) -> list[Piece]:
        """The next batch, now running; empty if there is nothing to do. `idle_lanes`: who asks, and who could ask next."""
        usable = self._usable_models()
        ready = [piece for piece in self._waiting if piece.kind.model in usable]
        if not ready:
            return []
        leader = ready[0]
        alike = [piece for piece in ready if piece.kind == leader.kind]
        batch: list[Piece] = []
        room = min(leader.room, ceil(len(alike) / idle_lanes))
        for piece in alike:
            if len(batch) < min(room, piece.room):
                batch.append(piece)
                room = min(room, piece.room)
        for piece in batch:
            piece.state, piece.leads, piece.batch_size = State.RUNNING, piece is leader, len(batch)
        self._waiting = [piece for piece in self._waiting if piece.state is State.WAITING]
        return batch

    def _usable_models(self) -> set[Hashable]:
        usable: dict[Hashable, None] = {}
        for owner in self._owners:  # the oldest first
            if len(usable) < self._resident_models:
                usable[owner.model] = None
        return set(usable)
