"""The lease: kept while it can be proved, given up when it cannot."""

import asyncio
import time
from collections.abc import Callable

import pytest

from daemon.config import Settings
from daemon.errors import Interrupted, LeaseLost
from daemon.lease import Lease
from daemon.metrics import Metrics
from tests.fakes import FakeQueue, received

MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(visibility_timeout_seconds=2, heartbeat_seconds=0.3, receive_wait_seconds=0)


async def answer(seconds: float, value: int = 42) -> int:
    await asyncio.sleep(seconds)
    return value


async def test_heartbeats_keep_the_lease_past_its_first_length(settings: Settings) -> None:
    queue = FakeQueue()
    async with Lease(queue, received(), settings, Metrics()) as lease:
        assert await lease.hold(answer(3), asyncio.Event()) == 42
        assert not lease.lost
    assert queue.names().count("extend") >= 6
    assert {seconds for _, seconds in queue.calls} == {2}


async def test_no_extension_after_close(settings: Settings) -> None:
    queue = FakeQueue()
    async with Lease(queue, received(), settings, Metrics()) as lease:
        await lease.hold(answer(0.4), asyncio.Event())
        await lease.close()
        before = len(queue.calls)
        await asyncio.sleep(0.7)
        assert len(queue.calls) == before


@pytest.mark.parametrize("misbehaviour", ["failing", "hanging"])
async def test_a_queue_that_does_not_answer_costs_the_lease_and_the_work(settings: Settings, misbehaviour: str) -> None:
    queue, metrics = FakeQueue(), Metrics()
    getattr(queue, misbehaviour).add("extend")
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    started_at = time.monotonic()
    async with Lease(queue, received(), settings, metrics) as lease:
        with pytest.raises(LeaseLost):
            await lease.hold(work(), asyncio.Event())
        # Before SQS ends it, and not long before.
        assert 1.5 < time.monotonic() - started_at < 2
        assert cancelled.is_set()
        calls = len(queue.calls)
        assert calls >= 2, "one failure must leave room for another try"
        await asyncio.sleep(0.7)
        assert len(queue.calls) == calls, "no call on a handle that may be another's"
    (family,) = metrics.leases_lost.collect()
    assert family.samples[0].value == 1


async def test_an_outage_shorter_than_the_lease_is_survived_and_told_twice(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    queue = FakeQueue(failing={"extend"})
    async with Lease(queue, received(), settings, Metrics()) as lease:
        holding = asyncio.create_task(lease.hold(answer(2.5), asyncio.Event()))
        await asyncio.sleep(1)
        assert queue.names().count("extend") > 1
        queue.failing.clear()
        assert await holding == 42
    assert [record.message for record in caplog.records] == ["lease extension failed", "lease extended again"]
    assert vars(caplog.records[1])["failures"] > 1


async def test_the_lease_counts_from_the_sending_of_the_receive(settings: Settings) -> None:
    queue = FakeQueue(failing={"extend"})
    async with Lease(queue, received(leased_at=time.monotonic() - 1.5), settings, Metrics()) as lease:
        started_at = time.monotonic()
        with pytest.raises(LeaseLost):
            await lease.hold(answer(3600), asyncio.Event())
        assert time.monotonic() - started_at < 0.5


async def test_work_that_ends_after_the_loss_does_not_count(settings: Settings) -> None:
    queue = FakeQueue(failing={"extend"})

    async def stubborn() -> int:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return 42
        return 0

    async with Lease(queue, received(), settings, Metrics()) as lease:
        with pytest.raises(LeaseLost):
            await lease.hold(stubborn(), asyncio.Event())


async def test_a_paused_process_does_not_extend_a_lease_that_ended_meanwhile(settings: Settings) -> None:
    queue = FakeQueue()
    async with Lease(queue, received(), settings, Metrics()) as lease:
        holding = asyncio.create_task(lease.hold(answer(10), asyncio.Event()))
        await asyncio.sleep(0.1)
        time.sleep(2.2)  # noqa: ASYNC251  # the whole process stands still, as after SIGSTOP
        with pytest.raises(LeaseLost):
            await holding
    assert queue.calls == []


async def test_leaving_interrupts_the_work_and_keeps_the_lease_for_the_release(settings: Settings) -> None:
    queue, leave = FakeQueue(), asyncio.Event()
    async with Lease(queue, received(), settings, Metrics()) as lease:
        asyncio.get_running_loop().call_later(0.2, leave.set)
        with pytest.raises(Interrupted):
            await lease.hold(answer(3600), leave)
        assert not lease.lost


async def test_work_is_never_started_when_we_are_leaving_already(settings: Settings) -> None:
    leave, started = asyncio.Event(), asyncio.Event()
    leave.set()

    async def work() -> None:
        started.set()

    async with Lease(FakeQueue(), received(), settings, Metrics()) as lease:
        with pytest.raises(Interrupted):
            await lease.hold(work(), leave)
    assert not started.is_set()


async def test_nothing_is_extended_beyond_the_twelve_hours_of_sqs(make_settings: MakeSettings) -> None:
    settings = make_settings(visibility_timeout_seconds=900, heartbeat_seconds=300)
    queue = FakeQueue()
    lease = Lease(queue, received(leased_at=time.monotonic() - 12 * 3600 + 600), settings, Metrics())
    lease._deadline = time.monotonic() + 300
    await lease._extend()
    name, seconds = queue.calls[0]
    assert name == "extend"
    assert 500 < seconds < 600
