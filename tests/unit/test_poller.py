"""The poller: no more messages than there is room for, none lost while stopping, back-off in an outage."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from daemon.config import Settings
from daemon.intake import Intake, Load
from daemon.metrics import Metrics
from daemon.poller import Poller
from daemon.sqs import Received
from tests.fakes import FakeQueue, received

MakeSettings = Callable[..., Settings]


@pytest.fixture
def _only_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for room looks again when it is told to, and not by itself."""
    monkeypatch.setattr("daemon.poller.FULL_PERIOD_SECONDS", 3600.0)


class FakeProcessor:
    """Holds each message for a while; remembers which were interrupted. Its recordings are of a length, once it is known."""

    def __init__(self, seconds: float, audio_seconds: float | None = None) -> None:
        self.seconds = seconds
        self.audio_seconds = audio_seconds
        self.loads: list[Load] = []
        self.done = asyncio.Event()
        self.held = self.most_held = self.finished = self.interrupted = 0

    async def process(self, message: Received, leave: asyncio.Event, load: Load) -> None:
        self.loads.append(load)
        if self.audio_seconds is not None:
            load.staged(self.audio_seconds)
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        try:
            async with asyncio.timeout(self.seconds):
                await leave.wait()
            self.interrupted += 1
        except TimeoutError:
            self.finished += 1
            self.done.set()
        finally:
            self.held -= 1


@asynccontextmanager
async def polling(poller: Poller) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(poller.run())
    try:
        yield task
    finally:
        poller.quiet()
        poller.leave()
        await asyncio.wait((task,))


def poller_of(
    settings: Settings,
    queue: FakeQueue,
    processor: object,
    gate: Callable[[], str | None] = lambda: None,
    jobs_waiting: Callable[[], int] = lambda: 0,
) -> Poller:
    intake = Intake(settings.jobs_in_flight, batch_size=settings.batch_size, jobs_waiting=jobs_waiting)
    return Poller(settings, queue, processor, Metrics(), gate, intake)  # type: ignore[arg-type]


async def test_never_holds_more_messages_than_it_may(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(9)]), FakeProcessor(0.1, audio_seconds=1)
    async with polling(poller_of(make_settings(jobs_in_flight=3), queue, processor)):
        await asyncio.sleep(1)
    assert processor.finished == 9
    assert processor.most_held == 3
    assert all(asked <= 3 for name, asked in queue.calls if name == "receive")


@pytest.mark.usefixtures("_only_woken")
async def test_a_burst_of_short_recordings_fills_a_batch_within_a_few_receives(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(60)]), FakeProcessor(60, audio_seconds=20)
    settings = make_settings()
    async with polling(poller_of(settings, queue, processor)), asyncio.timeout(20):
        while processor.held < settings.batch_size:  # noqa: ASYNC110  # the processor has no event for it
            await asyncio.sleep(0.01)
    assert [asked for name, asked in queue.calls if name == "receive"] == [2, 14]
    assert settings.jobs_in_flight == settings.batch_size == processor.most_held


@pytest.mark.usefixtures("_only_woken")
async def test_of_long_recordings_two_are_held_and_the_next_when_one_is_nearly_done(
    make_settings: MakeSettings,
) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(5)]), FakeProcessor(60, audio_seconds=6 * 3600)
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller), asyncio.timeout(20):
        while processor.held < 2:  # noqa: ASYNC110  # the processor has no event for it
            await asyncio.sleep(0.01)
        for left in (0.5, 0.1, 0.05):
            processor.loads[0].progress(left)
            await asyncio.sleep(0.1)
        assert processor.held == 2
        assert queue.calls == [("receive", 2)], "told of progress that makes no room, it asks for nothing"
        processor.loads[1].progress(0.02)
        processor.loads[0].progress(0.02)
        while processor.held < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert queue.calls == [("receive", 2), ("receive", 1)]


@pytest.mark.usefixtures("_only_woken")
async def test_nothing_is_received_while_a_job_waits_for_the_runners_memory(make_settings: MakeSettings) -> None:
    queue, processor, waiting = FakeQueue(waiting=[received() for _ in range(4)]), FakeProcessor(60), [1]
    poller = poller_of(make_settings(), queue, processor, jobs_waiting=lambda: len(waiting))
    async with polling(poller), asyncio.timeout(20):
        await asyncio.sleep(0.3)
        assert queue.calls == []
        assert poller.stalled_seconds == 0
        waiting.clear()
        poller._load_changed()
        while processor.held < 2:  # noqa: ASYNC110  # the processor has no event for it
            await asyncio.sleep(0.01)


async def test_no_receive_is_overdue_while_there_is_no_room(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received()]), FakeProcessor(0.5)
    poller = poller_of(make_settings(jobs_in_flight=1), queue, processor)
    async with polling(poller):
        while poller.jobs_in_flight == 0:  # noqa: ASYNC110  # the poller has no event for it
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert poller.jobs_in_flight == 1
        assert poller.stalled_seconds == 0
        while poller.jobs_in_flight == 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert poller.stalled_seconds < 0.5, "due from now on, not from when it was last"


async def test_a_message_that_arrives_while_stopping_is_given_back(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(receive_seconds=0.5), FakeProcessor(10)
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller) as task:
        await asyncio.sleep(0.1)  # the receive is in flight
        queue.waiting.append(received())
        poller.quiet()
        await task
        assert await poller.drain(5, asyncio.Event())
    assert processor.interrupted == 1
    assert queue.names() == ["receive"]


async def test_drain_waits_for_jobs_then_interrupts_what_is_left(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received()]), FakeProcessor(30)
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller) as task:
        await asyncio.sleep(0.2)
        poller.quiet()
        await task
        started_at = time.monotonic()
        assert not await poller.drain(0.5, asyncio.Event())
        assert 0.4 < time.monotonic() - started_at < 5
    assert processor.interrupted == 1


async def test_a_second_signal_shortens_the_drain(make_settings: MakeSettings) -> None:
    queue, processor, hurry = FakeQueue(waiting=[received()]), FakeProcessor(30), asyncio.Event()
    poller = poller_of(make_settings(), queue, processor)
    async with polling(poller) as task:
        await asyncio.sleep(0.2)
        poller.quiet()
        await task
        asyncio.get_running_loop().call_later(0.2, hurry.set)
        async with asyncio.timeout(20):
            assert not await poller.drain(60, hurry)


async def test_an_outage_is_backed_off_and_told_once(
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


async def test_a_closed_gate_stops_receiving_and_is_told_twice(
    make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    queue, reason = FakeQueue(waiting=[received()]), ["disk full"]
    processor = FakeProcessor(0.01)
    async with polling(poller_of(make_settings(), queue, processor, lambda: reason[0] if reason else None)):
        await asyncio.sleep(0.3)
        assert queue.calls == []
        reason.clear()
        async with asyncio.timeout(20):
            await processor.done.wait()
    said = [(record.message, vars(record)["reason"]) for record in caplog.records]
    assert said == [("receiving paused", "disk full"), ("receiving resumed", "disk full")]
    assert vars(caplog.records[1])["down_seconds"] > 0


async def test_a_fault_of_ours_ends_the_poller_instead_of_leaking_a_slot(make_settings: MakeSettings) -> None:
    class Broken:
        async def process(self, message: Received, leave: asyncio.Event, load: Load) -> None:
            raise ZeroDivisionError

    poller = poller_of(make_settings(), FakeQueue(waiting=[received()]), Broken())
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(20):
            await poller.run()
    assert poller.jobs_in_flight == 0
