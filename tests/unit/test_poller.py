"""The poller: no more messages than slots, none lost while stopping, back-off in an outage."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from daemon.config import Settings
from daemon.metrics import Metrics
from daemon.poller import Poller
from daemon.sqs import Received
from tests.fakes import FakeQueue, received

MakeSettings = Callable[..., Settings]


class FakeProcessor:
    """Holds each message for a while; remembers which were interrupted."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.done = asyncio.Event()
        self.held = self.most_held = self.finished = self.interrupted = 0

    async def process(self, message: Received, leave: asyncio.Event) -> None:
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
    settings: Settings, queue: FakeQueue, processor: object, gate: Callable[[], str | None] = lambda: None
) -> Poller:
    return Poller(settings, queue, processor, Metrics(), gate)  # type: ignore[arg-type]


async def test_never_holds_more_messages_than_slots(make_settings: MakeSettings) -> None:
    queue, processor = FakeQueue(waiting=[received() for _ in range(9)]), FakeProcessor(0.1)
    async with polling(poller_of(make_settings(jobs_in_flight=3), queue, processor)):
        await asyncio.sleep(1)
    assert processor.finished == 9
    assert processor.most_held == 3
    assert all(asked <= 3 for name, asked in queue.calls if name == "receive")


async def test_no_receive_is_overdue_while_no_slot_is_free(make_settings: MakeSettings) -> None:
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
        async def process(self, message: Received, leave: asyncio.Event) -> None:
            raise ZeroDivisionError

    poller = poller_of(make_settings(), FakeQueue(waiting=[received()]), Broken())
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(20):
            await poller.run()
    assert poller.jobs_in_flight == 0
