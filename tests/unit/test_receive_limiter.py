"""How many more messages to receive: enough to fill the batches, two per device, never more than the maximum."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.jobs.receive_limiter import BATCHES_PER_DEVICE, JOBS_PER_DEVICE, ReceiveLimiter, WorkEstimate

HOUR = 3600.0
BATCH = 16


@dataclass
class World:
    """A limiter with jobs in progress and their reports."""

    limiter: ReceiveLimiter
    held: list[WorkEstimate]
    max_jobs: int
    devices: int


@st.composite
def worlds(draw: st.DrawFn) -> World:
    max_jobs, devices = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    limiter = ReceiveLimiter(max_jobs, batch_size=draw(st.integers(1, 32)), devices=lambda: devices)
    lengths = st.none() | st.floats(0.1, 6 * HOUR)
    for length in draw(st.lists(lengths, max_size=5)):  # jobs that ended
        limiter.remove(a_job(limiter, length))
    jobs = draw(st.lists(st.tuples(lengths, st.floats(0, 1)), max_size=max_jobs))
    held = [a_job(limiter, length, left) for length, left in jobs]
    return World(limiter, held, max_jobs, devices)


def a_job(limiter: ReceiveLimiter, audio_seconds: float | None, remaining_fraction: float = 1.0) -> WorkEstimate:
    estimate = limiter.add()
    if audio_seconds is not None:
        estimate.staged(audio_seconds)
        estimate.update(remaining_fraction)
    return estimate


@given(worlds())
def test_never_more_than_the_maximum_and_always_two_per_device(world: World) -> None:
    least = min(world.max_jobs, JOBS_PER_DEVICE * world.devices)
    assert max(0, least - len(world.held)) <= world.limiter.capacity() <= world.max_jobs - len(world.held)


@given(worlds())
def test_each_message_takes_one_place(world: World) -> None:
    """Requested messages always fit: a receive that returns all of them uses the whole capacity."""
    while capacity := world.limiter.capacity():
        world.limiter.add()
        assert world.limiter.capacity() == capacity - 1


@given(worlds(), st.data())
def test_completed_work_frees_capacity(world: World, data: st.DataObject) -> None:
    known = [estimate for estimate in world.held if estimate.audio_seconds is not None]
    if not known:
        return
    estimate = data.draw(st.sampled_from(known))
    before = world.limiter.capacity()
    estimate.update(data.draw(st.floats(0, estimate.remaining_fraction)))
    nearer = world.limiter.capacity()
    assert nearer >= before
    world.limiter.remove(estimate)
    assert world.limiter.capacity() >= nearer


@given(worlds())
def test_saturated_device_gets_no_more(world: World) -> None:
    for _ in range(world.devices * JOBS_PER_DEVICE):
        a_job(world.limiter, 100 * HOUR)
    assert world.limiter.capacity() == 0


@given(worlds())
def test_nothing_is_received_while_a_job_waits_for_memory(world: World) -> None:
    world.limiter._jobs_waiting = lambda _: 1
    assert world.limiter.capacity() == 0


def test_new_job_counts_as_a_full_batch() -> None:
    assert ReceiveLimiter(32, batch_size=BATCH).capacity() == BATCHES_PER_DEVICE
    assert ReceiveLimiter(32, batch_size=BATCH, devices=lambda: 4).capacity() == 4 * BATCHES_PER_DEVICE


def test_short_recordings_fill_the_batches() -> None:
    limiter = ReceiveLimiter(40, batch_size=BATCH)
    receives = 0
    while capacity := limiter.capacity():
        receives += 1
        for estimate in [limiter.add() for _ in range(min(capacity, 10))]:
            estimate.staged(20)
    assert len(limiter._held) == 2 * BATCH
    assert receives <= 5


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_two_long_recordings_are_held_per_device(devices: int) -> None:
    limiter = ReceiveLimiter(16, batch_size=BATCH, devices=lambda: devices)
    held = [limiter.add() for _ in range(limiter.capacity())]
    for estimate in held:
        estimate.staged(6 * HOUR)
        assert limiter.capacity() == 0
    for _ in range(20):  # one ends and the next starts; the others are at random positions
        held[0].update(0.01)
        assert limiter.capacity() == 0
        limiter.remove(held.pop(0))
        assert limiter.capacity() == 1
        held.append(limiter.add())
        assert limiter.capacity() == 0
        held[-1].staged(6 * HOUR)


def test_progress_frees_capacity_before_the_device_idles() -> None:
    limiter = ReceiveLimiter(16, batch_size=BATCH)
    nearly_done, next_one = a_job(limiter, HOUR), a_job(limiter, 600)
    assert limiter.capacity() == 0
    nearly_done.update(0.1)  # 12 chunks of 120, and 20
    assert limiter.capacity() == 0
    nearly_done.update(0.09)
    assert limiter.capacity() == 1
    next_one.update(0.5)
    nearly_done.update(0)
    assert limiter.capacity() == 1, "it is held until its result is published"


def test_one_long_recording_leaves_the_other_devices_to_short_ones() -> None:
    limiter = ReceiveLimiter(100, batch_size=BATCH, devices=lambda: 2)
    limiter.add().staged(6 * HOUR)
    while capacity := limiter.capacity():
        for estimate in [limiter.add() for _ in range(capacity)]:
            estimate.staged(30)
    assert len(limiter._held) == 1 + 2 * BATCH


def test_long_recording_among_the_last_ones_does_not_slow_short_ones_down() -> None:
    limiter = ReceiveLimiter(16, batch_size=BATCH)
    for length in (6 * HOUR, *[10.0] * 9):
        limiter.remove(a_job(limiter, length))
    assert limiter.capacity() == 7
