"""What shares a batch, and in which order: the schedule against every order of events that hypothesis can think of."""

from math import ceil
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from daemon.pipeline.schedule import Kind, Owner, Piece, Schedule, State

MODELS = ("base", "large", "turbo")
RESIDENT = 2


def piece(owner: Owner, room: int = 4, operation: str = "generate", terms: Any = None) -> Piece:
    return Piece(owner, Kind(operation, owner.model, terms), None, room)


def joined(schedule: Schedule, model: str = "base") -> Owner:
    owner = Owner(model)
    schedule.join(owner)
    return owner


def test_a_batch_is_filled_from_all_jobs() -> None:
    schedule = Schedule(RESIDENT)
    one, two = joined(schedule), joined(schedule)
    pieces = [piece(one), piece(two), piece(one), piece(two), piece(two)]
    schedule.add(pieces)
    assert schedule.take() == pieces[:4]
    assert [it.leads for it in pieces] == [True, False, False, False, False]
    assert {it.batch_size for it in pieces[:4]} == {4}
    assert schedule.take() == pieces[4:]
    assert schedule.take() == []


def test_idle_lanes_share_what_is_ready() -> None:
    schedule = Schedule(RESIDENT)
    one, two = joined(schedule), joined(schedule)
    pieces = [piece(one), piece(two), piece(one), piece(two), piece(two)]
    other = piece(one, operation="encode")
    schedule.add([*pieces, other])
    assert schedule.take(idle_lanes=2) == pieces[:3]
    assert schedule.take(idle_lanes=1) == pieces[3:]
    assert schedule.take(idle_lanes=4) == [other], "there is no less than one"


def test_only_equals_share_a_batch_and_the_first_of_all_leads() -> None:
    schedule = Schedule(RESIDENT)
    owner = joined(schedule)
    long, short = piece(owner, terms=1500), piece(owner, terms=500)
    align = piece(owner, operation="align", terms=1500)
    schedule.add([long, align, short, second := piece(owner, terms=1500)])
    assert [schedule.take() for _ in range(3)] == [[long, second], [align], [short]]


def test_a_job_short_of_memory_keeps_its_batches_small_and_no_others() -> None:
    schedule = Schedule(RESIDENT)
    short, other = joined(schedule), joined(schedule)
    schedule.add([piece(other), piece(short, room=2), piece(other), piece(other), piece(other)])
    assert [it.owner for it in schedule.take()] == [other, short]
    assert [it.owner for it in schedule.take()] == [other, other, other]


def test_a_short_job_waits_for_no_more_than_a_long_one_asked_for_at_once() -> None:
    schedule = Schedule(RESIDENT)
    long, short = joined(schedule), joined(schedule)
    schedule.add([piece(long) for _ in range(8)])
    schedule.add([piece(short)])
    schedule.take()
    schedule.add([piece(long) for _ in range(8)])
    schedule.take()
    assert schedule.take()[0].owner is short


def test_models_beyond_the_room_wait_for_the_oldest_jobs() -> None:
    schedule = Schedule(resident_models=1)
    old, young = joined(schedule, "large"), joined(schedule, "turbo")
    schedule.add([piece(young)])
    assert schedule.take() == [], "the old one will need its model again in a moment"
    schedule.add([mine := piece(old)])
    assert schedule.take() == [mine]
    schedule.leave(old)
    assert [it.owner for it in schedule.take()] == [young]


def test_what_a_leaving_job_waited_for_is_given_up() -> None:
    schedule = Schedule(RESIDENT)
    owner = joined(schedule)
    schedule.add([running := piece(owner, room=1), waiting := piece(owner, room=1)])
    schedule.take()
    schedule.leave(owner)
    assert (running.state, waiting.state) == (State.RUNNING, State.GIVEN_UP)
    assert schedule.take() == []


class Jobs(RuleBasedStateMachine):
    """Jobs come, ask, are cancelled and leave in any order, while batches are taken."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(RESIDENT)
        self.inside: list[Owner] = []
        self.asked: list[Piece] = []
        self.taken: list[Piece] = []

    @rule(target=owners, model=st.sampled_from(MODELS))
    def join(self, model: str) -> Owner:
        owner = joined(self.schedule, model)
        self.inside.append(owner)
        return owner

    @rule(owner=consumes(owners))
    def leave(self, owner: Owner) -> None:
        self.schedule.leave(owner)
        self.inside.remove(owner)

    @rule(owner=owners, count=st.integers(1, 6), room=st.integers(1, 5), terms=st.sampled_from([500, 1500]))
    def ask(self, owner: Owner, count: int, room: int, terms: int) -> None:
        pieces = [piece(owner, room, terms=terms) for _ in range(count)]
        self.schedule.add(pieces)
        self.asked += pieces

    @rule(data=st.data())
    @precondition(lambda self: self.asked)
    def give_up(self, data: st.DataObject) -> None:
        self.schedule.give_up(data.draw(st.lists(st.sampled_from(self.asked))))

    @rule(idle_lanes=st.integers(1, 3))
    def take(self, idle_lanes: int) -> None:
        waiting = [it for it in self.asked if it.state is State.WAITING]
        usable = list(dict.fromkeys(owner.model for owner in self.inside))[:RESIDENT]
        ready = [it for it in waiting if it.kind.model in usable]
        batch = self.schedule.take(idle_lanes)
        assert bool(batch) == bool(ready), "nothing waits without a reason"
        if batch:
            assert batch[0] is ready[0], "who has waited longest leads"
            assert batch == [it for it in ready if it in batch], "in the order in which they came"
            assert {it.kind for it in batch} == {batch[0].kind}
            assert all(len(batch) <= it.room for it in batch)
            assert not set(map(id, batch)) & set(map(id, self.taken)), "nothing is done twice"
            left = [it for it in ready if it.kind == batch[0].kind and it not in batch]
            share = ceil((len(batch) + len(left)) / idle_lanes)
            full = min(share, *(it.room for it in batch))
            assert len(batch) == full or all(it.room <= len(batch) for it in left), "a batch is as full as it can be"
            assert len(batch) <= share, "what is ready is for all lanes that are idle"
        self.taken += batch

    @invariant()
    def every_piece_is_somewhere(self) -> None:
        gone = {id(it) for it in self.asked if it.state is State.WAITING and it.owner not in self.inside}
        assert not gone, "what a job waited for goes with it"

    def teardown(self) -> None:
        """Everything that was asked for is done or given up in the end: the jobs that are left get their turn."""
        while self.inside:
            while batch := self.schedule.take():
                self.taken += batch
            self.schedule.leave(self.inside.pop(0))
        for it in self.asked:
            assert (it.state is State.RUNNING) == any(it is taken for taken in self.taken)
            assert it.state in (State.RUNNING, State.GIVEN_UP)


TestJobs = Jobs.TestCase
