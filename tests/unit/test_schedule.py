"""Which work shares a batch, and in which order: the schedule against every order of events that hypothesis
generates."""

from math import ceil
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from daemon.pipeline.runtime.schedule import BatchKey, ItemState, Owner, Schedule, WorkItem
from daemon.protocol.priority import ONLY, Priority

MODELS = ("base", "large", "turbo")
RESIDENT = 2


def item(owner: Owner, max_batch_size: int = 4, operation: str = "generate", terms: Any = None) -> WorkItem:
    return WorkItem(owner, BatchKey(operation, owner.model, terms), None, max_batch_size)


def joined(schedule: Schedule, model: str = "base", priority: Priority = ONLY) -> Owner:
    owner = Owner(model, priority)
    schedule.join(owner)
    return owner


def test_batch_is_filled_from_all_jobs() -> None:
    schedule = Schedule(RESIDENT)
    one, two = joined(schedule), joined(schedule)
    items = [item(one), item(two), item(one), item(two), item(two)]
    schedule.add(items)
    assert schedule.take() == items[:4]
    assert [it.leads for it in items] == [True, False, False, False, False]
    assert {it.batch_size for it in items[:4]} == {4}
    assert schedule.take() == items[4:]
    assert schedule.take() == []


def test_idle_lanes_share_the_ready_work() -> None:
    schedule = Schedule(RESIDENT)
    one, two = joined(schedule), joined(schedule)
    items = [item(one), item(two), item(one), item(two), item(two)]
    other = item(one, operation="encode")
    schedule.add([*items, other])
    assert schedule.take(idle_lanes=2) == items[:3]
    assert schedule.take(idle_lanes=1) == items[3:]
    assert schedule.take(idle_lanes=4) == [other], "at least one"


def test_only_equal_work_shares_a_batch_and_the_oldest_leads() -> None:
    schedule = Schedule(RESIDENT)
    owner = joined(schedule)
    long, short = item(owner, terms=1500), item(owner, terms=500)
    align = item(owner, operation="align", terms=1500)
    schedule.add([long, align, short, second := item(owner, terms=1500)])
    assert [schedule.take() for _ in range(3)] == [[long, second], [align], [short]]


def test_job_short_of_memory_limits_only_its_own_batches() -> None:
    schedule = Schedule(RESIDENT)
    short, other = joined(schedule), joined(schedule)
    schedule.add([item(other), item(short, max_batch_size=2), item(other), item(other), item(other)])
    assert [it.owner for it in schedule.take()] == [other, short]
    assert [it.owner for it in schedule.take()] == [other, other, other]


def test_short_job_waits_only_for_one_share_of_a_long_one() -> None:
    schedule = Schedule(RESIDENT)
    long, short = joined(schedule), joined(schedule)
    schedule.add([item(long) for _ in range(8)])
    schedule.add([item(short)])
    schedule.take()
    schedule.add([item(long) for _ in range(8)])
    schedule.take()
    assert schedule.take()[0].owner is short


def test_models_beyond_the_limit_wait_for_the_oldest_jobs() -> None:
    schedule = Schedule(resident_models=1)
    old, young = joined(schedule, "large"), joined(schedule, "turbo")
    schedule.add([item(young)])
    assert schedule.take() == [], "the older job will need its model again soon"
    schedule.add([mine := item(old)])
    assert schedule.take() == [mine]
    schedule.leave(old)
    assert [it.owner for it in schedule.take()] == [young]


def test_pending_work_of_a_leaving_job_is_dropped() -> None:
    schedule = Schedule(RESIDENT)
    owner = joined(schedule)
    schedule.add([running := item(owner, max_batch_size=1), waiting := item(owner, max_batch_size=1)])
    schedule.take()
    schedule.leave(owner)
    assert (running.state, waiting.state) == (ItemState.RUNNING, ItemState.GIVEN_UP)
    assert schedule.take() == []


LOWER = Priority(1)


def test_items_of_the_more_urgent_job_lead_and_fill_the_batch_first() -> None:
    schedule = Schedule(RESIDENT)
    batch, urgent = joined(schedule, priority=LOWER), joined(schedule)
    waiting = [item(batch) for _ in range(6)]
    schedule.add(waiting)
    schedule.add(mine := [item(urgent), item(urgent)])
    assert schedule.take() == [*mine, *waiting[:2]]
    schedule.add(other := [item(urgent, terms=500)])
    assert schedule.take() == other


def test_batches_are_small_while_a_more_urgent_job_may_have_to_wait_for_one() -> None:
    schedule = Schedule(RESIDENT)
    batch, urgent = joined(schedule, priority=LOWER), joined(schedule)
    schedule.add([item(batch, max_batch_size=16) for _ in range(40)])
    assert len(schedule.take()) == 4
    schedule.leave(urgent)
    assert len(schedule.take()) == 16


def test_model_of_the_more_urgent_job_is_used_first() -> None:
    schedule = Schedule(resident_models=1)
    batch, urgent = joined(schedule, "large", LOWER), joined(schedule, "turbo")
    schedule.add([item(batch)])
    schedule.add([mine := item(urgent)])
    assert schedule.take() == [mine]
    schedule.leave(urgent)
    assert [it.owner for it in schedule.take()] == [batch]


def test_weights_divide_the_items_and_none_starves() -> None:
    schedule = Schedule(RESIDENT)
    owners = [joined(schedule, priority=Priority(rank, weight)) for rank, weight in enumerate((3.0, 1.0))]
    counts = [0, 0]
    for _ in range(400):
        for owner in owners:  # each always has work, of its own kind
            schedule.add([item(owner, terms=owner.priority.rank)])
        for it in schedule.take():
            counts[it.owner.priority.rank] += 1
    assert counts[0] == pytest.approx(3 * counts[1], rel=0.05)


def test_queue_without_work_saves_up_no_share() -> None:
    schedule = Schedule(RESIDENT)
    owners = [joined(schedule, priority=Priority(rank, 1.0)) for rank in range(2)]

    def take(*busy: int) -> int:
        schedule.add([item(owners[rank], max_batch_size=1) for rank in busy])
        return schedule.take()[0].owner.priority.rank

    for _ in range(100):
        take(1)
    turns = [take(0, 1) for _ in range(20)]
    assert 8 <= sum(turns) <= 12, "the first queue does not have a hundred batches of its own now"


def test_oldest_jobs_keep_their_models_if_queues_have_weights() -> None:
    schedule = Schedule(resident_models=1)
    old, urgent = joined(schedule, "large", Priority(1, 1.0)), joined(schedule, "turbo", Priority(0, 9.0))
    schedule.add([item(urgent)])
    schedule.add([mine := item(old)])
    assert schedule.take() == [mine]


class Jobs(RuleBasedStateMachine):
    """Jobs arrive, submit work, are cancelled and leave in any order, while batches are taken."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(RESIDENT)
        self.inside: list[Owner] = []
        self.asked: list[WorkItem] = []
        self.taken: list[WorkItem] = []

    @rule(target=owners, model=st.sampled_from(MODELS))
    def join(self, model: str) -> Owner:
        owner = joined(self.schedule, model)
        self.inside.append(owner)
        return owner

    @rule(owner=consumes(owners))
    def leave(self, owner: Owner) -> None:
        self.schedule.leave(owner)
        self.inside.remove(owner)

    @rule(owner=owners, count=st.integers(1, 6), max_batch_size=st.integers(1, 5), terms=st.sampled_from([500, 1500]))
    def ask(self, owner: Owner, count: int, max_batch_size: int, terms: int) -> None:
        items = [item(owner, max_batch_size, terms=terms) for _ in range(count)]
        self.schedule.add(items)
        self.asked += items

    @rule(data=st.data())
    @precondition(lambda self: self.asked)
    def give_up(self, data: st.DataObject) -> None:
        self.schedule.give_up(data.draw(st.lists(st.sampled_from(self.asked))))

    @rule(idle_lanes=st.integers(1, 3))
    def take(self, idle_lanes: int) -> None:
        waiting = [it for it in self.asked if it.state is ItemState.WAITING]
        usable = list(dict.fromkeys(owner.model for owner in self.inside))[:RESIDENT]
        ready = [it for it in waiting if it.key.model in usable]
        batch = self.schedule.take(idle_lanes)
        assert bool(batch) == bool(ready), "nothing waits without a reason"
        if batch:
            assert batch[0] is ready[0], "the work that has waited longest leads"
            assert batch == [it for it in ready if it in batch], "in order of arrival"
            assert {it.key for it in batch} == {batch[0].key}
            assert all(len(batch) <= it.max_batch_size for it in batch)
            assert not set(map(id, batch)) & set(map(id, self.taken)), "nothing is done twice"
            left = [it for it in ready if it.key == batch[0].key and it not in batch]
            share = ceil((len(batch) + len(left)) / idle_lanes)
            full = min(share, *(it.max_batch_size for it in batch))
            assert len(batch) == full or all(it.max_batch_size <= len(batch) for it in left), (
                "a batch is as full as it can be"
            )
            assert len(batch) <= share, "ready work is shared among all idle lanes"
        self.taken += batch

    @invariant()
    def every_item_is_somewhere(self) -> None:
        gone = {id(it) for it in self.asked if it.state is ItemState.WAITING and it.owner not in self.inside}
        assert not gone, "pending work of a leaving job is dropped"

    def teardown(self) -> None:
        """Assert that all submitted work is done or dropped in the end: the remaining jobs get their turn."""
        while self.inside:
            while batch := self.schedule.take():
                self.taken += batch
            self.schedule.leave(self.inside.pop(0))
        for it in self.asked:
            assert (it.state is ItemState.RUNNING) == any(it is taken for taken in self.taken)
            assert it.state in (ItemState.RUNNING, ItemState.GIVEN_UP)


TestJobs = Jobs.TestCase
TestJobs.settings = settings(TestJobs.settings, stateful_step_count=25)
