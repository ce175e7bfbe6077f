"""Parts spread over worker threads: results in order, in parallel, and no part forgotten when one fails."""

import threading

import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.pipeline.runtime.worker_pool import WorkerPool


def test_results_are_in_the_order_of_the_parts() -> None:
    first_may_end = threading.Event()

    def square(number: int) -> int:
        if number == 2:
            assert first_may_end.wait(PATIENCE_SECONDS)
        elif number == 3:
            first_may_end.set()
        return number**2

    assert WorkerPool(2).map(square, [2, 3, 4]) == [4, 9, 16]


def test_parts_run_in_parallel() -> None:
    together = threading.Barrier(3)  # breaks unless all three arrive

    assert sorted(WorkerPool(3).map(lambda _: together.wait(PATIENCE_SECONDS), range(3))) == [0, 1, 2]


@pytest.mark.parametrize("lanes", [WorkerPool(1), WorkerPool(4)])
def test_one_lane_or_one_part_needs_no_other_thread(lanes: WorkerPool) -> None:
    parts = range(3) if lanes.count == 1 else range(1)
    assert set(lanes.map(lambda _: threading.get_ident(), parts)) == {threading.get_ident()}


def test_first_failure_is_raised_after_all_parts_have_ended() -> None:
    failed = threading.Event()
    ended: list[int] = []

    def act(number: int) -> None:
        if number == 0:
            failed.set()
            raise MemoryError("the first")
        assert failed.wait(PATIENCE_SECONDS)
        ended.append(number)
        if number == 2:
            raise ValueError("a later one")

    with pytest.raises(MemoryError, match="the first"):
        WorkerPool(2).map(act, range(4))
    assert sorted(ended) == [1, 2, 3], "another attempt would run out of memory"
