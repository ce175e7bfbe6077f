"""Who uses a model next, and where a job lets more urgent ones go first."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from daemon.errors import Interrupted
from daemon.pipeline.runtime.model_lock import ModelLock
from daemon.pipeline.runtime.work import StageTimer
from daemon.protocol.events import PipelineEvent
from daemon.protocol.priority import MAX_OVERTAKEN, ONLY, Priority

LOWER = Priority(1)


class FakeReporter:
    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.cancelled = False

    def emit(self, event: PipelineEvent) -> None: ...

    def check_cancelled(self) -> None:
        if self.cancelled:
            raise Interrupted("the job was cancelled")


class Visits:
    """Jobs that use the model in threads, each once the ones before it wait; `order` shows who used it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.lock = ModelLock()
        self.order: list[str] = []
        self._pool = pool

    def visit(self, name: str, priority: Priority) -> Future[None]:
        waiting = len(self.lock._waiting)

        def use() -> None:
            with self.lock.held(StageTimer(FakeReporter(priority))):
                self.order.append(name)

        visit = self._pool.submit(use)
        wait_for(lambda: len(self.lock._waiting) > waiting, f"{name} waits")
        return visit


@pytest.fixture
def visits() -> Iterator[Visits]:
    with ThreadPoolExecutor(8) as pool:
        yield Visits(pool)


def test_urgent_jobs_go_first_then_the_order_of_arrival_counts(visits: Visits) -> None:
    with visits.lock.held(StageTimer(FakeReporter(LOWER))):
        waiting = [visits.visit(*each) for each in (("a", LOWER), ("b", LOWER), ("urgent", ONLY), ("second", ONLY))]
    for each in waiting:
        each.result(PATIENCE_SECONDS)
    assert visits.order == ["urgent", "second", "a", "b"]


def test_holder_lends_the_lock_to_urgent_jobs_alone(visits: Visits) -> None:
    timer = StageTimer(FakeReporter(LOWER))
    with visits.lock.held(timer):
        visits.lock.lend(timer)
        equal = visits.visit("equal", LOWER)
        visits.lock.lend(timer)
        assert visits.order == []
        urgent = visits.visit("urgent", ONLY)
        visits.lock.lending(timer, lambda fraction: visits.order.append(f"progress {fraction}"))(0.5)
        urgent.result(PATIENCE_SECONDS)
        assert visits.order == ["progress 0.5", "urgent"], "the holder continues before jobs like itself"
    equal.result(PATIENCE_SECONDS)
    assert visits.order[-1] == "equal"


def test_job_cancelled_while_it_lends_leaves_the_lock_to_others(visits: Visits) -> None:
    reporter, may_end = FakeReporter(LOWER), threading.Event()

    def use_long() -> None:
        with visits.lock.held(StageTimer(FakeReporter(ONLY))):
            visits.order.append("urgent")
            assert may_end.wait(PATIENCE_SECONDS)

    timer = StageTimer(reporter)
    with visits.lock.held(timer):
        urgent = visits._pool.submit(use_long)
        wait_for(lambda: bool(visits.lock._waiting), "the urgent job waits")
        reporter.cancelled = True
        with pytest.raises(Interrupted):
            visits.lock.lend(timer)
    may_end.set()
    urgent.result(PATIENCE_SECONDS)
    with visits.lock.held(StageTimer(FakeReporter(LOWER))):
        assert visits.order == ["urgent"]


@pytest.mark.parametrize("weighted", [False, True], ids=["strict", "weighted"])
def test_job_is_overtaken_a_bounded_number_of_times_if_queues_have_weights(visits: Visits, weighted: bool) -> None:
    first, lower = (Priority(rank, 1.0 if weighted else None) for rank in (0, 1))
    timer = StageTimer(FakeReporter(lower))
    with visits.lock.held(timer):
        for number in range(MAX_OVERTAKEN):
            visits.visit(str(number), first)
            visits.lock.lend(timer)
        last = visits.visit("last", first)
        visits.lock.lend(timer)
        assert ("last" in visits.order) is not weighted
    last.result(PATIENCE_SECONDS)
