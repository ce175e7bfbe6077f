"""The lease: kept while it is provably valid, given up when it is not."""

import asyncio
from collections.abc import Callable

import pytest

from daemon.aws.sqs import ReceivedMessage
from daemon.config import Settings
from daemon.errors import Interrupted, LeaseLost, MessageGone
from daemon.jobs.lease import Lease
from daemon.telemetry.metrics import Metrics
from tests.support.aws.fakes import FakeQueue, received
from tests.support.time.virtual import in_virtual_time, virtual_loop, virtual_time

MakeSettings = Callable[..., Settings]


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    return make_settings(visibility_timeout_seconds=2, heartbeat_seconds=0.3, receive_wait_time_seconds=0)


def lease_of(
    queue: FakeQueue, settings: Settings, metrics: Metrics | None = None, *, age_seconds: float = 0.0
) -> Lease:
    """Return a lease on a message received `age` seconds ago in virtual time."""
    message = received(leased_at=virtual_time().monotonic() - age_seconds)
    return Lease(queue, message, settings, metrics or Metrics(), virtual_time())


async def answer(seconds: float, value: int = 42) -> int:
    await asyncio.sleep(seconds)
    return value


@in_virtual_time
async def test_heartbeats_extend_the_lease_beyond_its_initial_length(settings: Settings) -> None:
    queue = FakeQueue()
    async with lease_of(queue, settings) as lease:
        assert await lease.hold(answer(3), asyncio.Event()) == 42
        assert not lease.lost
    assert queue.names().count("extend") >= 6
    assert {seconds for _, seconds in queue.calls} == {2}


@in_virtual_time
async def test_no_extension_after_close(settings: Settings) -> None:
    queue = FakeQueue()
    async with lease_of(queue, settings) as lease:
        await lease.hold(answer(0.4), asyncio.Event())
        await lease.close()
        before = len(queue.calls)
        await asyncio.sleep(0.7)
        assert len(queue.calls) == before


@pytest.mark.parametrize("misbehaviour", ["failing", "hanging"])
@in_virtual_time
async def test_unresponsive_queue_ends_the_lease_and_the_work(settings: Settings, misbehaviour: str) -> None:
    queue, metrics = FakeQueue(), Metrics()
    getattr(queue, misbehaviour).add("extend")
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    started_at = virtual_loop().time()
    async with lease_of(queue, settings, metrics) as lease:
        with pytest.raises(LeaseLost):
            await lease.hold(work(), asyncio.Event())
        # Before SQS ends it, but not long before.
        assert 1.5 < virtual_loop().time() - started_at < 2
        assert cancelled.is_set()
        calls = len(queue.calls)
        assert calls >= 2, "one failure must leave room for another try"
        await asyncio.sleep(0.7)
        assert len(queue.calls) == calls, "no call with a handle that may have been superseded"
    (family,) = metrics.leases_lost.collect()
    assert family.samples[0].value == 1


@in_virtual_time
async def test_outage_shorter_than_the_lease_is_survived_and_logged_twice(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    queue = FakeQueue(failing={"extend"})
    async with lease_of(queue, settings) as lease:
        track = asyncio.create_task(lease.hold(answer(2.5), asyncio.Event()))
        await asyncio.sleep(1)
        assert queue.names().count("extend") > 1
        queue.failing.clear()
        assert await track == 42
    assert [record.message for record in caplog.records] == ["lease extension failed", "lease extended again"]
    assert vars(caplog.records[1])["failures"] > 1


@in_virtual_time
async def test_lease_starts_when_the_receive_was_sent(settings: Settings) -> None:
    queue = FakeQueue(failing={"extend"})
    async with lease_of(queue, settings, age_seconds=1.5) as lease:
        started_at = virtual_loop().time()
        with pytest.raises(LeaseLost):
            await lease.hold(answer(3600), asyncio.Event())
        assert virtual_loop().time() - started_at < 0.5


@in_virtual_time
async def test_work_that_ends_after_the_loss_does_not_count(settings: Settings) -> None:
    queue = FakeQueue(failing={"extend"})

    async def stubborn() -> int:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return 42
        return 0

    async with lease_of(queue, settings) as lease:
        with pytest.raises(LeaseLost):
            await lease.hold(stubborn(), asyncio.Event())


@in_virtual_time
async def test_internal_error_in_the_heartbeat_ends_the_work_at_once(settings: Settings) -> None:
    """Otherwise hours of work would continue without a lease."""

    class Broken(FakeQueue):
        async def extend(self, message: ReceivedMessage, seconds: float) -> None:
            raise ZeroDivisionError

    started_at = virtual_loop().time()
    with pytest.raises(ZeroDivisionError):
        async with lease_of(Broken(), settings) as lease:
            await lease.hold(answer(3600), asyncio.Event())
    assert virtual_loop().time() - started_at < settings.visibility_timeout_seconds


@in_virtual_time
async def test_resumed_process_does_not_extend_an_expired_lease(settings: Settings) -> None:
    queue = FakeQueue()
    async with lease_of(queue, settings) as lease:
        track = asyncio.create_task(lease.hold(answer(10), asyncio.Event()))
        await asyncio.sleep(0.1)
        virtual_loop().stand_still(2.2)
        with pytest.raises(LeaseLost):
            await track
    assert queue.calls == []


@in_virtual_time
async def test_leaving_interrupts_the_work_and_keeps_the_lease_for_the_release(settings: Settings) -> None:
    queue, interrupt = FakeQueue(), asyncio.Event()
    async with lease_of(queue, settings) as lease:
        asyncio.get_running_loop().call_later(0.2, interrupt.set)
        with pytest.raises(Interrupted):
            await lease.hold(answer(3600), interrupt)
        assert not lease.lost


@in_virtual_time
async def test_no_work_starts_while_leaving(settings: Settings) -> None:
    interrupt, started = asyncio.Event(), asyncio.Event()
    interrupt.set()

    async def work() -> None:
        started.set()

    async with lease_of(FakeQueue(), settings) as lease:
        with pytest.raises(Interrupted):
            await lease.hold(work(), interrupt)
    assert not started.is_set()


@in_virtual_time
async def test_nothing_is_extended_beyond_the_twelve_hours_of_sqs(make_settings: MakeSettings) -> None:
    settings = make_settings(visibility_timeout_seconds=900, heartbeat_seconds=300)
    queue = FakeQueue()
    lease = lease_of(queue, settings, age_seconds=12 * 3600 - 600)
    lease._deadline = virtual_loop().time() + 300
    await lease._extend()
    name, seconds = queue.calls[0]
    assert name == "extend"
    assert 500 < seconds < 600


@in_virtual_time
async def test_failed_extensions_are_retried_with_jitter_and_time_for_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []

    def longest(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", longest)
    queue = FakeQueue(failing={"extend"})
    async with lease_of(queue, settings) as lease:
        with pytest.raises(LeaseLost):
            await lease.hold(answer(3600), asyncio.Event())
    assert {low for low, _ in bounds} == {0}
    longest_pauses = [most for _, most in bounds]
    assert longest_pauses[:4] == pytest.approx([0.03, 0.06, 0.12, 0.15])
    assert max(longest_pauses) == pytest.approx(0.15), "at most half of a heartbeat"


class Purged(FakeQueue):
    """A queue that no longer has the message."""

    async def extend(self, message: ReceivedMessage, seconds: float) -> None:
        self.calls.append(("extend", seconds))
        raise MessageGone("SQS ChangeMessageVisibility failed: ReceiptHandleIsInvalid")


@in_virtual_time
async def test_work_on_a_message_that_is_gone_continues_without_extensions(settings: Settings) -> None:
    queue, metrics = Purged(), Metrics()
    async with lease_of(queue, settings, metrics) as lease:
        assert await lease.hold(answer(10), asyncio.Event()) == 42  # five times the lease
        lease.require()
        assert lease.gone
        await lease.close()
        assert 0 < lease.remaining_seconds <= 2, "the outcome is bounded in time"
    assert queue.names() == ["extend"]
    assert metrics.registry.get_sample_value("transcriptd_leases_lost_total") == 0
