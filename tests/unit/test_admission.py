"""FIFO admission: as many jobs as memory allows, or one exclusive job."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.protocol.priority import MAX_OVERTAKEN, ONLY, Priority
from daemon.supervisor.admission import Admission


class Guest:
    """A job that stays admitted until the test lets it leave."""

    def __init__(
        self, admission: Admission, audio_seconds: float = 1, *, alone: bool = False, priority: Priority = ONLY
    ) -> None:
        self.priority = priority
        self.audio_seconds = audio_seconds
        self.alone = alone
        self.inside = False
        self.may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._visit(admission))

    async def _visit(self, admission: Admission) -> None:
        async with admission.enter(self.audio_seconds, alone=self.alone, priority=self.priority):
            self.inside = True
            await self.may_leave.wait()
        self.inside = False

    async def leave(self) -> None:
        self.may_leave.set()
        await self.task
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_exclusive_job_waits_for_others_and_blocks_later_ones() -> None:
    admission = Admission(100)
    first, second = Guest(admission), Guest(admission)
    await settle()
    alone, later = Guest(admission, alone=True), Guest(admission)
    await settle()
    assert (first.inside, second.inside, alone.inside, later.inside) == (True, True, False, False)
    await first.leave()
    assert not alone.inside
    await second.leave()
    assert (alone.inside, later.inside) == (True, False)
    await alone.leave()
    assert later.inside
    await later.leave()


async def test_exclusive_jobs_run_one_after_the_other() -> None:
    admission = Admission(100)
    one, two = Guest(admission, alone=True), Guest(admission, alone=True)
    await settle()
    assert (one.inside, two.inside) == (True, False)
    await one.leave()
    assert two.inside
    await two.leave()


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "admitted"])
async def test_cancelled_job_blocks_no_other(waits: bool) -> None:
    admission = Admission(100)
    inside = Guest(admission)
    await settle()
    alone = Guest(admission, alone=True)
    if not waits:
        await inside.leave()
    await settle()
    assert alone.inside is not waits
    alone.task.cancel()
    await settle()
    later = Guest(admission)
    await settle()
    assert later.inside


async def test_job_that_does_not_fit_waits_and_blocks_later_ones() -> None:
    admission = Admission(100)
    first, large, small = Guest(admission, 60), Guest(admission, 50), Guest(admission, 10)
    await settle()
    assert (first.inside, large.inside, small.inside) == (True, False, False)
    assert (admission.audio_seconds, admission.waiting()) == (60, 2)
    await first.leave()
    assert (large.inside, small.inside) == (True, True)
    assert (admission.audio_seconds, admission.waiting()) == (60, 0)


async def test_job_larger_than_the_limit_runs_alone() -> None:
    admission = Admission(100)
    huge, later = Guest(admission, 500), Guest(admission, 1)
    await settle()
    assert (huge.inside, later.inside) == (True, False)
    await huge.leave()
    assert later.inside


async def test_job_that_stops_waiting_unblocks_later_ones() -> None:
    admission = Admission(100)
    first, large, small = Guest(admission, 60), Guest(admission, 50), Guest(admission, 10)
    await settle()
    large.task.cancel()
    await settle()
    assert (first.inside, small.inside, admission.waiting()) == (True, True, 0)


LOWER = Priority(1)


async def test_more_urgent_job_overtakes_jobs_that_wait() -> None:
    admission = Admission(100)
    inside, waiting = Guest(admission, 80, priority=LOWER), Guest(admission, 80, priority=LOWER)
    await settle()
    urgent, next_one = Guest(admission, 15), Guest(admission, 15)
    await settle()
    assert (inside.inside, waiting.inside, urgent.inside, next_one.inside) == (True, False, True, False)
    assert [admission.waiting(priority) for priority in (None, ONLY, LOWER)] == [2, 1, 1]
    await inside.leave()
    assert next_one.inside
    assert not waiting.inside, "it leaves some memory to the first queue"
    await urgent.leave()
    await next_one.leave()
    assert waiting.inside


async def test_lower_queues_leave_memory_to_the_first() -> None:
    admission = Admission(80)
    lower = [Guest(admission, 10, priority=LOWER) for _ in range(8)]
    await settle()
    assert sum(guest.inside for guest in lower) == 7
    urgent = Guest(admission, 10)
    await settle()
    assert urgent.inside


@pytest.mark.parametrize("weighted", [False, True], ids=["strict", "weighted"])
async def test_overtaken_job_gets_its_turn_if_queues_have_weights(weighted: bool) -> None:
    first, lower = (Priority(rank, 1.0 if weighted else None) for rank in (0, 1))
    admission = Admission(100)
    guests = [Guest(admission, 90, priority=first)]
    await settle()
    huge = Guest(admission, 90, priority=lower)
    for _ in range(MAX_OVERTAKEN + 5):  # there is always another urgent job
        guests.append(Guest(admission, 90, priority=first))
        await settle()
        await next(
            guest for guest in guests if guest.inside or guest is guests[-1]
        ).leave() if not huge.inside else None
        guests = [guest for guest in guests if not guest.task.done()]
    assert huge.inside is weighted
    for guest in (huge, *guests):
        guest.task.cancel()


guests = st.lists(st.tuples(st.sampled_from([1.0, 30.0, 60.0, 100.0, 250.0]), st.booleans()), min_size=1, max_size=8)


@given(guests, st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=12))
def test_limit_and_order_hold_and_every_job_is_admitted(
    coming: list[tuple[float, bool]], leaving: list[tuple[int, bool]]
) -> None:
    async def visit() -> None:
        admission = Admission(100)
        left = [Guest(admission, seconds, alone=alone) for seconds, alone in coming]
        await settle()
        for which, cancelled in [*leaving, *[(0, False)] * len(left)]:
            inside = [guest for guest in left if guest.inside]
            assert len(inside) == 1 or (
                sum(guest.audio_seconds for guest in inside) <= 100 and not any(guest.alone for guest in inside)
            )
            assert left[: len(inside)] == inside, "jobs are admitted in order"
            assert admission.audio_seconds == sum(guest.audio_seconds for guest in inside)
            assert admission.waiting() == len(left) - len(inside)
            going = left[which % len(left)] if cancelled else inside[which % len(inside)]
            going.task.cancel() if cancelled else going.may_leave.set()
            left.remove(going)
            await settle()
            if not left:
                return

    asyncio.run(visit())
