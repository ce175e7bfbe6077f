"""The thread that does the work of many: waiting, failing, giving up."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from daemon.errors import Interrupted
from daemon.pipeline.batching import Batcher
from daemon.pipeline.schedule import Kind, Owner
from tests.waiting import PATIENCE_SECONDS, wait_for

KIND = Kind("double", "model")


class Worker:
    """Doubles numbers, once it may; fails for those that are told."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go = threading.Event()
        self.failing: dict[int, Exception] = {}

    def __call__(self, _: Kind, payloads: list[int]) -> Sequence[int]:
        self.batches.append(payloads)
        assert self.may_go.wait(PATIENCE_SECONDS)
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
    return [it.result for it in batcher.do(owner, KIND, payloads, 8, on_wait)]


def test_what_comes_while_a_batch_runs_shares_the_next() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, batcher, owners[0], [1])
        wait_for(lambda: worker.batches == [[1]], "the jobs have come so far")
        others = [pool.submit(ask, batcher, owner, [number, number]) for number, owner in enumerate(owners[1:], 2)]
        wait_for(lambda: len(batcher._schedule._waiting) == 4, "the jobs have come so far")
        worker.may_go.set()
        assert first.result() == [2]
        assert [it.result() for it in others] == [[4, 4], [6, 6]]
    assert [sorted(batch) for batch in worker.batches] == [[1], [2, 2, 3, 3]]


def test_one_jobs_failure_is_not_anothers() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    worker.failing = {7: ValueError("a bad chunk")}
    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, batcher, owners[0], [1])
        wait_for(lambda: worker.batches == [[1]], "the jobs have come so far")
        bad, good = (pool.submit(ask, batcher, owner, [n, n]) for owner, n in zip(owners[1:], (7, 8), strict=True))
        wait_for(lambda: len(batcher._schedule._waiting) == 4, "the jobs have come so far")
        worker.may_go.set()
        assert first.result() == [2]
        assert good.result() == [16, 16]
        with pytest.raises(ValueError, match="a bad chunk") as caught:
            bad.result()
        assert "raise self.failing" in "".join(caught.value.__notes__), "where it happened, without its frames"
        assert ask(batcher, owners[1], [5]) == [10], "the thread lives on"


def test_a_job_that_is_given_up_leaves_the_others_alone() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    waits: list[bool] = []

    def give_up(queued: bool) -> None:
        waits.append(queued)
        raise Interrupted("given up")

    with jobs(batcher, 3) as owners, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, batcher, owners[0], [1])
        wait_for(lambda: worker.batches == [[1]], "the jobs have come so far")
        stays = pool.submit(ask, batcher, owners[1], [2])
        with pytest.raises(Interrupted):
            ask(batcher, owners[2], [3], give_up)
        assert waits == [True], "it was still in the queue"
        worker.may_go.set()
        assert (first.result(), stays.result()) == ([2], [4])
    assert worker.batches == [[1], [2]]


def test_a_waiting_job_knows_whether_its_own_work_is_being_done() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    waits: list[bool] = []
    with jobs(batcher, 1) as (owner,), ThreadPoolExecutor(1) as pool:
        done = pool.submit(ask, batcher, owner, [1], waits.append)
        wait_for(lambda: len(waits) >= 2, "the jobs have come so far")
        worker.may_go.set()
        assert done.result() == [2]
    assert set(waits[1:]) == {False}, "in a batch, which may hang: no sign of life"


def test_a_batch_is_paid_for_in_shares() -> None:
    worker = Worker()
    batcher = Batcher(worker, 1)
    with jobs(batcher, 1) as (owner,), ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        done = pool.submit(batcher.do, owner, KIND, [1, 2, 3, 4], 8, lambda _: None)
        wait_for(lambda: bool(worker.batches), "the jobs have come so far")
        worker.may_go.set()
        pieces = done.result()
        assert len({it.seconds for it in pieces}) == 1
        assert 0 < sum(it.seconds for it in pieces) <= time.monotonic() - began


def test_a_wrong_number_of_results_is_an_error() -> None:
    batcher = Batcher(lambda _, payloads: payloads[1:], 1)
    with jobs(batcher, 1) as (owner,), pytest.raises(RuntimeError, match="1 results for 2 pieces"):
        ask(batcher, owner, [1, 2])
