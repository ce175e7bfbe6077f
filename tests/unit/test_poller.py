"""The poller: never more messages than allowed, none lost during a drain, backoff in an outage."""

import asyncio
from collections.abc import Callable

import pytest

from daemon.aws.sqs import ReceivedMessage
from daemon.config import Settings
from daemon.jobs.receive_limiter import ReceiveLimiter, WorkEstimate
from daemon.jobs.tenant_limit import TenantLimit
from daemon.poller import Poller
from daemon.protocol.priority import ONLY, Priority
from daemon.telemetry.metrics import Metrics
from tests.support.aws.fakes import FakeQueue, received
from tests.support.polling import FakeProcessor, polling
from tests.support.time.virtual import in_virtual_time, virtual_loop, virtual_time

MakeSettings = Callable[..., Settings]


@pytest.fixture
def _only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the periodic check for capacity, so that waiting code must be woken."""
    monkeypatch.setattr("daemon.poller.FULL_PERIOD_SECONDS", 3600.0)


def poller_of(
    settings: Settings,
    queue: FakeQueue,
    processor: object,
    gate: Callable[[str], str | None] = lambda _: None,
    jobs_waiting: Callable[[Priority], int] = lambda _: 0,
) -> Poller:
    metrics, clock = Metrics(), virtual_time()
    tenants = TenantLimit(settings.max_jobs_per_tenant, queue, metrics, settings.queue_timeout_seconds, clock)
    limiter = ReceiveLimiter(
        settings.max_jobs_in_flight,
        batch_size=settings.batch_size,
        jobs_waiting=jobs_waiting,
        jobs_at_limit=lambda _: tenants.jobs_at_limit,
    )
    return Poller(settings, [queue], processor, metrics, gate, limiter, {ONLY: tenants}, clock)  # type: ignore[arg-type]


@in_virtual_time
async def test_never_holds_more_messages_than_allowed(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(9)]), FakeProcessor(0.1, audio_seconds=1)
    async with polling(poller_of(make_settings(max_jobs_in_flight=3), queue, processor)):
        await asyncio.sleep(1)
    assert processor.finished == 9
    assert processor.most_held == 3
    assert all(asked <= 3 for name, asked in queue.calls if name == "receive")


@pytest.mark.usefixtures("_only_woken")
@in_virtual_time
async def test_burst_of_short_recordings_fills_a_batch_within_a_few_receives(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(60)]), FakeProcessor(60, audio_seconds=20)
    settings = make_settings()
    async with polling(poller_of(settings, queue, processor)), asyncio.timeout(20):
        while processor.held < settings.batch_size:  # noqa: ASYNC110  # the processor has no event for it
            await asyncio.sleep(0.01)
    assert [asked for name, asked in queue.calls if name == "receive"] == [2, 14]
    assert settings.max_jobs_in_flight == settings.batch_size == processor.most_held


@pytest.mark.usefixtures("_only_woken")
@in_virtual_time
async def test_two_long_recordings_are_held_and_the_next_when_one_is_almost_done(
    make_settings: MakeSettings,
) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(5)]), FakeProcessor(60, audio_seconds=6 * 3600)
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller), asyncio.timeout(20):
        while processor.held < 2:  # noqa: ASYNC110  # the processor has no event for it
            await asyncio.sleep(0.01)
        for left in (0.5, 0.1, 0.05):
            processor.estimates[0].update(left)
            await asyncio.sleep(0.1)
        assert processor.held == 2
        assert queue.calls == [("receive", 2)], "progress that frees no capacity causes no receive"
        processor.estimates[1].update(0.02)
        processor.estimates[0].update(0.02)
        while processor.held < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert queue.calls == [("receive", 2), ("receive", 1)]


@pytest.mark.usefixtures("_only_woken")
@in_virtual_time
async def test_nothing_is_received_while_a_job_waits_for_runner_memory(make_settings: MakeSettings) -> None:
    queue, processor, waiting = FakeQueue(waiting=[received() for _ in range(4)]), FakeProcessor(60), [1]
    poller = poller_of(make_settings(), queue, processor, jobs_waiting=lambda _: len(waiting))
    async with polling(poller), asyncio.timeout(20):
        await asyncio.sleep(0.3)
        assert queue.calls == []
        assert poller.stalled_seconds == 0
        waiting.clear()
        poller._estimate_changed()
        while processor.held < 2:  # noqa: ASYNC110  # the processor has no event for it
            await asyncio.sleep(0.01)


@in_virtual_time
async def test_no_receive_is_overdue_without_capacity(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received()]), FakeProcessor(0.5)
    poller = poller_of(make_settings(max_jobs_in_flight=1), queue, processor)
    async with polling(poller):
        while poller.jobs_in_flight == 0:  # noqa: ASYNC110  # the poller has no event for it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert poller.jobs_in_flight == 1
        assert poller.stalled_seconds == 0
        while poller.jobs_in_flight == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert poller.stalled_seconds < 0.5, "due from now on, not since the last receive"


@in_virtual_time
async def test_message_received_while_stopping_is_released(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(receive_seconds=0.5), FakeProcessor(10)
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller) as task:
        await asyncio.sleep(0.1)  # the receive is in flight
        queue.waiting.append(received())
        poller.stop_receiving()
        await task
        assert await poller.drain(5, asyncio.Event())
    assert processor.interrupted == 1
    assert queue.names() == ["receive"]


@in_virtual_time
async def test_drain_waits_for_jobs_then_interrupts_the_remaining_ones(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received()]), FakeProcessor(30)
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller) as task:
        await asyncio.sleep(0.2)
        poller.stop_receiving()
        await task
        started_at = virtual_loop().time()
        assert not await poller.drain(0.5, asyncio.Event())
        assert virtual_loop().time() - started_at == pytest.approx(0.5, abs=0.01)
    assert processor.interrupted == 1


@in_virtual_time
async def test_second_signal_shortens_the_drain(make_settings: MakeSettings) -> None:
    queue, processor, force_stop = FakeQueue(waiting=[received()]), FakeProcessor(30), asyncio.Event()
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller) as task:
        await asyncio.sleep(0.2)
        poller.stop_receiving()
        await task
        asyncio.get_running_loop().call_later(0.2, force_stop.set)
        async with asyncio.timeout(20):
            assert not await poller.drain(60, force_stop)


@in_virtual_time
async def test_outage_is_backed_off_and_logged_once(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    queue = FakeQueue(failing={"receive"}, waiting=[received()])
    processor = FakeProcessor(0.01)
    async with polling(poller_of(make_settings(), queue, processor)):
        await asyncio.sleep(2.5)
        assert 1 <= len(queue.calls) <= 12, "it must neither stop nor spin"
        queue.failing.clear()
        async with asyncio.timeout(20):
            await processor.done.wait()
    messages = [record.message for record in caplog.records]
    assert messages.count("queue unavailable") == 1
    assert messages.count("queue available again") == 1


@in_virtual_time
async def test_closed_gate_pauses_receiving_and_is_logged_twice(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    queue, reason = FakeQueue(waiting=[received()]), ["disk full"]
    processor = FakeProcessor(0.01)
    async with polling(poller_of(make_settings(), queue, processor, lambda _: reason[0] if reason else None)):
        await asyncio.sleep(0.3)
        assert queue.calls == []
        reason.clear()
        async with asyncio.timeout(20):
            await processor.done.wait()
    said = [(record.message, vars(record)["reason"]) for record in caplog.records]
    assert said == [("receiving paused", "disk full"), ("receiving resumed", "disk full")]
    assert vars(caplog.records[1])["down_seconds"] > 0


@in_virtual_time
async def test_internal_error_ends_the_poller_instead_of_leaking_a_slot(make_settings: MakeSettings) -> None:
    class Broken:
        async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
            raise ZeroDivisionError

    poller = poller_of(make_settings(), FakeQueue(waiting=[received()]), Broken())
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(20):
            await poller.run()
    assert poller.jobs_in_flight == 0


@in_virtual_time
async def test_backoff_doubles_to_its_cap_with_jitter_and_resets(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds: list[tuple[float, float]] = []

    def longest(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", longest)
    queue, processor = FakeQueue(failing={"receive"}, waiting=[received()]), FakeProcessor(0.01)
    settings = make_settings(queue_backoff_max_seconds=5)
    async with polling(poller_of(settings, queue, processor)):
        await asyncio.sleep(20)
        assert bounds == [(0.1, each) for each in (1.0, 2.0, 4.0, 5.0, 5.0, 5.0)]
        queue.failing.clear()
        await processor.done.wait()
        queue.failing.add("receive")
        bounds.clear()
        await asyncio.sleep(2.5)
    assert bounds[:2] == [(0.1, 1.0), (0.1, 2.0)]
