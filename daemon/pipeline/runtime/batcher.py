"""Worker threads that execute the schedule, and the wait loop of a job's thread."""

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from daemon.pipeline.runtime.schedule import BatchKey, ItemState, Owner, Schedule, WorkItem

# How often a waiting job checks for cancellation and reports that it is alive.
LOOK_SECONDS = 0.1

# Execute a batch: its key and the items' payloads → one result per item.
Execute = Callable[[BatchKey, list[Any]], Sequence[Any]]

# Called repeatedly while a job waits; raises when the job is cancelled. The argument is True while none of the job's
# items is in a running batch, which could hang.
OnWait = Callable[[bool], None]


class Batcher:
    """Execute work items from many threads in batches, one batch per lane at a time."""

    def __init__(self, execute: Execute, resident_models: int, lanes: int = 1) -> None:
        self._execute = execute
        self._schedule = Schedule(resident_models)
        self._changed = threading.Condition()
        self._lanes = lanes
        self._idle = 0
        self._started = False

    @contextmanager
    def member(self, owner: Owner) -> Iterator[None]:
        """Register the job for the duration of the block; only registered jobs may call `do`."""
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
                self._changed.notify_all()  # another model may now be used

    def do(
        self, owner: Owner, key: BatchKey, payloads: Sequence[Any], max_batch_size: int, on_wait: OnWait
    ) -> list[WorkItem]:
        """Execute the payloads and return their items. Raises the first error of an item or of `on_wait`."""
        items = [WorkItem(owner, key, payload, max_batch_size) for payload in payloads]
        with self._changed:
            self._schedule.add(items)
            self._changed.notify_all()
        try:
            self._wait_for(items, on_wait)
        finally:
            with self._changed:
                self._schedule.give_up(items)
        for item in items:
            if item.error is not None:
                raise item.error
        return items

    def _wait_for(self, items: Sequence[WorkItem], on_wait: OnWait) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: all(item.settled for item in items), LOOK_SECONDS)
                if all(item.settled for item in items):
                    return
                queued = all(item.state is not ItemState.RUNNING for item in items)
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

    def _do(self, batch: Sequence[WorkItem]) -> None:
        if not self._attempt(batch) and any(item.owner is not batch[0].owner for item in batch):
            # One job's failure must not fail the others: repeat the batch job by job.
            by_owner = sorted(batch, key=lambda item: item.owner.age)
            for _, own in groupby(by_owner, key=lambda item: item.owner.age):
                self._attempt(list(own))
        for item in batch:
            item.payload = None
            item.state = ItemState.DONE

    def _attempt(self, batch: Sequence[WorkItem]) -> bool:
        began = time.monotonic()
        results: Sequence[Any] = [None] * len(batch)
        failure: BaseException | None = None
        try:
            results = self._execute(batch[0].key, [item.payload for item in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} items of {batch[0].key.operation}")
        except Exception as error:  # noqa: BLE001  # each job's thread raises it again
            failure = _without_frames(error)
            results = [None] * len(batch)
        seconds = (time.monotonic() - began) / len(batch)
        for item, result in zip(batch, results, strict=True):
            item.result, item.error = result, failure
            item.seconds += seconds
            item.batch_size = len(batch)
        return failure is None


def _without_frames(error: Exception) -> Exception:
    """Replace the error's traceback by its text: frames would keep a reference to the memory that ran out."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    return error.with_traceback(None)
