"""The threads that work through the schedule, and what a job's thread does while it waits."""

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from daemon.pipeline.schedule import Kind, Owner, Piece, Schedule, State

# How often a waiting job looks whether it was given up, and says that it is alive.
LOOK_SECONDS = 0.1

# What a batch is done by: its kind and the pieces' payloads → a result for each.
Execute = Callable[[Kind, list[Any]], Sequence[Any]]

# What a waiting job does meanwhile; raises when it was given up. The argument: whether all that it waits for is still
# in the queue, and not in a batch that may hang.
OnWait = Callable[[bool], None]


class Batcher:
    """Does pieces of work of many threads, many at a time, a batch in each lane."""

    def __init__(self, execute: Execute, resident_models: int, lanes: int = 1) -> None:
        self._execute = execute
        self._schedule = Schedule(resident_models)
        self._changed = threading.Condition()
        self._lanes = lanes
        self._idle = 0
        self._started = False

    @contextmanager
    def member(self, owner: Owner) -> Iterator[None]:
        """Inside the block the job may ask for work."""
        with self._changed:
            self._schedule.join(owner)
            if not self._started:
                self._started = True
                for _ in range(self._lanes):
                    threading.Thread(target=self._work, name="batches", daemon=True).start()
        try:
            yield
        finally:
            with self._changed:
                self._schedule.leave(owner)
                self._changed.notify_all()  # another model may be used now

    def do(self, owner: Owner, kind: Kind, payloads: Sequence[Any], room: int, on_wait: OnWait) -> list[Piece]:
        """The payloads' pieces, done. Raises what doing one of them raised, or what `on_wait` does."""
        pieces = [Piece(owner, kind, payload, room) for payload in payloads]
        with self._changed:
            self._schedule.add(pieces)
            self._changed.notify_all()
        try:
            self._wait_for(pieces, on_wait)
        finally:
            with self._changed:
                self._schedule.give_up(pieces)
        for piece in pieces:
            if piece.error is not None:
                raise piece.error
        return pieces

    def _wait_for(self, pieces: Sequence[Piece], on_wait: OnWait) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: all(piece.settled for piece in pieces), LOOK_SECONDS)
                if all(piece.settled for piece in pieces):
                    return
                queued = all(piece.state is not State.RUNNING for piece in pieces)
            on_wait(queued)

    # --- the threads ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not (batch := self._schedule.take(self._idle)):
                    self._changed.wait()
                self._idle -= 1
            self._do(batch)
            with self._changed:
                self._changed.notify_all()

    def _do(self, batch: Sequence[Piece]) -> None:
        if not self._attempt(batch) and any(piece.owner is not batch[0].owner for piece in batch):
            # One job's trouble must not be another's: each again by itself.
            by_owner = sorted(batch, key=lambda piece: piece.owner.age)
            for _, own in groupby(by_owner, key=lambda piece: piece.owner.age):
                self._attempt(list(own))
        for piece in batch:
            piece.payload = None
            piece.state = State.DONE

    def _attempt(self, batch: Sequence[Piece]) -> bool:
        began = time.monotonic()
        results: Sequence[Any] = [None] * len(batch)
        failure: BaseException | None = None
        try:
            results = self._execute(batch[0].kind, [piece.payload for piece in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} pieces of {batch[0].kind.operation}")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the jobs', whose threads raise it again
            failure = _without_frames(error)
            results = [None] * len(batch)
        seconds = (time.monotonic() - began) / len(batch)
        for piece, result in zip(batch, results, strict=True):
            piece.result, piece.error = result, failure
            piece.seconds += seconds
            piece.batch_size = len(batch)
        return failure is None


def _without_frames(error: Exception) -> Exception:
    """The error with its traceback as text: frames would hold on to the memory that ran out."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    return error.with_traceback(None)
