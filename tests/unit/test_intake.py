"""How many more messages are received: enough to fill the batches, two for each device, never more than may be."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.intake import BATCHES_PER_DEVICE, JOBS_PER_DEVICE, Intake, Load

HOUR = 3600.0
BATCH = 16


@dataclass
class World:
    """An intake with jobs in hand, and what its jobs told."""

    intake: Intake
    held: list[Load]
    most: int
    devices: int


@st.composite
def worlds(draw: st.DrawFn) -> World:
    most, devices = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    intake = Intake(most, batch_size=draw(st.integers(1, 32)), devices=lambda: devices)
    lengths = st.none() | st.floats(0.1, 6 * HOUR)
    for length in draw(st.lists(lengths, max_size=5)):  # jobs that ended
        intake.end(a_job(intake, length))
    jobs = draw(st.lists(st.tuples(lengths, st.floats(0, 1)), max_size=most))
    held = [a_job(intake, length, left) for length, left in jobs]
    return World(intake, held, most, devices)


def a_job(intake: Intake, audio_seconds: float | None, left_share: float = 1.0) -> Load:
    load = intake.take()
    if audio_seconds is not None:
        load.staged(audio_seconds)
        load.progress(left_share)
    return load


@given(worlds())
def test_never_more_than_may_be_held_and_always_two_for_each_device(world: World) -> None:
    least = min(world.most, JOBS_PER_DEVICE * world.devices)
    assert max(0, least - len(world.held)) <= world.intake.room <= world.most - len(world.held)


@given(worlds())
def test_each_message_takes_one_place(world: World) -> None:
    """What is asked for is what fits: a receive that brings all of it leaves no room."""
    while room := world.intake.room:
        world.intake.take()
        assert world.intake.room == room - 1


@given(worlds(), st.data())
def test_work_that_is_done_makes_room(world: World, data: st.DataObject) -> None:
    known = [load for load in world.held if load.audio_seconds is not None]
    if not known:
        return
    load = data.draw(st.sampled_from(known))
    before = world.intake.room
    load.progress(data.draw(st.floats(0, load.left_share)))
    nearer = world.intake.room
    assert nearer >= before
    world.intake.end(load)
    assert world.intake.room >= nearer


@given(worlds())
def test_a_device_that_has_what_it_can_use_gets_no_more(world: World) -> None:
    for _ in range(world.devices * JOBS_PER_DEVICE):
        a_job(world.intake, 100 * HOUR)
    assert world.intake.room == 0


@given(worlds())
def test_nothing_is_taken_while_a_job_waits_for_memory(world: World) -> None:
    world.intake._jobs_waiting = lambda: 1
    assert world.intake.room == 0


def test_at_first_a_job_counts_as_a_batch() -> None:
    assert Intake(32, batch_size=BATCH).room == BATCHES_PER_DEVICE
    assert Intake(32, batch_size=BATCH, devices=lambda: 4).room == 4 * BATCHES_PER_DEVICE


def test_short_recordings_fill_the_batches() -> None:
    intake = Intake(40, batch_size=BATCH)
    receives = 0
    while room := intake.room:
        receives += 1
        for load in [intake.take() for _ in range(min(room, 10))]:
            load.staged(20)
    assert len(intake._held) == 2 * BATCH
    assert receives <= 5


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_of_long_recordings_two_are_held_for_each_device(devices: int) -> None:
    intake = Intake(16, batch_size=BATCH, devices=lambda: devices)
    held = [intake.take() for _ in range(intake.room)]
    for load in held:
        load.staged(6 * HOUR)
        assert intake.room == 0
    for _ in range(20):  # one ends, the next comes; the others are anywhere
        held[0].progress(0.01)
        assert intake.room == 0
        intake.end(held.pop(0))
        assert intake.room == 1
        held.append(intake.take())
        assert intake.room == 0
        held[-1].staged(6 * HOUR)


def test_progress_makes_room_before_the_device_runs_dry() -> None:
    intake = Intake(16, batch_size=BATCH)
    nearly_done, next_one = a_job(intake, HOUR), a_job(intake, 600)
    assert intake.room == 0
    nearly_done.progress(0.1)  # 12 chunks of 120, and 20
    assert intake.room == 0
    nearly_done.progress(0.09)
    assert intake.room == 1
    next_one.progress(0.5)
    nearly_done.progress(0)
    assert intake.room == 1, "it is held until its result is published"


def test_one_long_recording_leaves_the_other_devices_to_short_ones() -> None:
    intake = Intake(100, batch_size=BATCH, devices=lambda: 2)
    intake.take().staged(6 * HOUR)
    while room := intake.room:
        for load in [intake.take() for _ in range(room)]:
            load.staged(30)
    assert len(intake._held) == 1 + 2 * BATCH


def test_a_long_recording_among_the_last_ones_does_not_slow_short_ones_down() -> None:
    intake = Intake(16, batch_size=BATCH)
    for length in (6 * HOUR, *[10.0] * 9):
        intake.end(a_job(intake, length))
    assert intake.room == 7
