"""The thread that batches work of several jobs: waiting, failures, cancellation."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from daemon.errors import Interrupted
from daemon.pipeline.runtime.batcher import Batcher
from daemon.pipeline.runtime.schedule import BatchKey, Owner
from tests.support.time.virtual import VirtualTime

KEY = BatchKey("double", "model")


class Worker:
    """A worker that doubles numbers once the test allows it, and fails for the given ones."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.failing: dict[int, Exception] = {}
        self.clock = VirtualTime()  # a batch takes a second

    def __call__(self, _: BatchKey, payloads: list[int]) -> Sequence[int]:
        self.batches.append(payloads)
        assert self.may_go.wait(PATIENCE_SECONDS)
        self.clock.now += 1
        for payload in payloads:
            if payload in self.failing:
                raise self.failing[payload]
        return [2 * payload for payload in payloads]


@contextmanager
def jobs(batcher: Batcher, count: int) -> Iterator[list[Owner]]:
    owners = [Owner("model") for _ in range(count)]
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(batcher.member(owner))
        yield owners


def ask(batcher: Batcher, owner: Owner, payloads: list[int], on_wait: Callable[[bool], None] = lambda _: None) -> Any:
    return [it.result for it in batcher.do(owner, KEY, payloads, 8, on_wait)]


def test_work_that_arrives_during_a_batch_shares_the_next_one() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, batcher, owners[0], [1])
        wait_for(lambda: worker.batches == [[1]], "the jobs have submitted their work")
        others = [pool.submit(ask, batcher, owner, [number, number]) for number, owner in enumerate(owners[1:], 2)]
        wait_for(lambda: len(batcher._schedule._waiting) == 4, "the jobs have submitted their work")
        worker.may_go.set()
        assert first.result() == [2]
        assert [it.result() for it in others] == [[4, 4], [6, 6]]
    assert [sorted(batch) for batch in worker.batches] == [[1], [2, 2, 3, 3]]


def test_failure_of_one_job_does_not_affect_others() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    worker.failing = {7: ValueError("a bad chunk")}
    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, batcher, owners[0], [1])
        wait_for(lambda: worker.batches == [[1]], "the jobs have submitted their work")
        bad, good = (pool.submit(ask, batcher, owner, [n, n]) for owner, n in zip(owners[1:], (7, 8), strict=True))
        wait_for(lambda: len(batcher._schedule._waiting) == 4, "the jobs have submitted their work")
        worker.may_go.set()
        assert first.result() == [2]
        assert good.result() == [16, 16]
        with pytest.raises(ValueError, match="a bad chunk") as caught:
            bad.result()
        assert "raise self.failing" in "".join(caught.value.__notes__), (
            "a note has the location, but not the thread's frames"
        )
        assert ask(batcher, owners[1], [5]) == [10], "the thread keeps running"


def test_cancelled_job_leaves_the_others_running() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    waits: list[bool] = []

    def give_up(queued: bool) -> None:
        waits.append(queued)
        raise Interrupted("given up")

    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, batcher, owners[0], [1])
        wait_for(lambda: worker.batches == [[1]], "the jobs have submitted their work")
        stays = pool.submit(ask, batcher, owners[1], [2])
        with pytest.raises(Interrupted):
            ask(batcher, owners[2], [3], give_up)
        assert waits == [True], "it was still queued"
        worker.may_go.set()
        assert (first.result(), stays.result()) == ([2], [4])
    assert worker.batches == [[1], [2]]


def test_waiting_job_knows_whether_its_work_is_running() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    waits: list[bool] = []
    with jobs(batcher, 1) as (owner,), ThreadPoolExecutor(1) as pool:
        done = pool.submit(ask, batcher, owner, [1], waits.append)
        wait_for(lambda: len(waits) >= 2, "the jobs have submitted their work")
        worker.may_go.set()
        assert done.result() == [2]
    assert set(waits[1:]) == {False}, "its batch may hang, so it reports no progress"


def test_time_of_a_batch_is_divided_among_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()
    worker.clock.patch(monkeypatch)
    batcher = Batcher(worker, 1)

    def pay(owner: Owner, payloads: list[int]) -> list[float]:
        return [it.seconds for it in batcher.do(owner, KEY, payloads, 8, lambda _: None)]

    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(pay, owners[0], [1, 2])
        wait_for(lambda: worker.batches == [[1, 2]], "the jobs have submitted their work")
        others = [
            pool.submit(pay, owner, payloads) for owner, payloads in zip(owners[1:], ([3], [4, 5, 6]), strict=True)
        ]
        wait_for(lambda: len(batcher._schedule._waiting) == 4, "the jobs have submitted their work")
        worker.may_go.set()
        assert first.result() == [0.5, 0.5]
        assert [it.result() for it in others] == [[0.25], [0.25, 0.25, 0.25]], "not the second spent waiting"


def test_wrong_number_of_results_is_an_error() -> None:
    batcher = Batcher(lambda _, payloads: payloads[1:], 1)
    with jobs(batcher, 1) as (owner,), pytest.raises(RuntimeError, match="1 results for 2 items"):
        ask(batcher, owner, [1, 2])
