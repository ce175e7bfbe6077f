"""Which of several queues is asked for messages, and for how many."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.aws.sqs import ReceivedMessage
from daemon.config import Settings
from daemon.job_queues import JobQueue
from daemon.jobs.queue_policy import HEAD_START_SECONDS, QueuePolicy
from daemon.jobs.receive_limiter import ReceiveLimiter, WorkEstimate
from daemon.jobs.tenant_limit import TenantLimit
from daemon.poller import Poller
from daemon.protocol.priority import Priority
from daemon.telemetry.metrics import Metrics
from tests.support.aws.fakes import FakeQueue, received
from tests.support.polling import FakeProcessor, polling
from tests.support.time.virtual import EPOCH, VirtualTime, in_virtual_time, virtual_loop, virtual_time

MakeSettings = Callable[..., Settings]
HOUR = 3600.0
MAX_JOBS = 16
LONG_POLL_SECONDS = 20


def queues(*weights: float | None) -> list[JobQueue]:
    return [
        JobQueue(f"q{rank}", f"https://sqs/q{rank}", f"https://sqs/d{rank}", 120, Priority(rank, weight))
        for rank, weight in enumerate(weights)
    ]


@dataclass
class World:
    """A policy over queues, with the messages that the daemon holds."""

    queues: list[JobQueue]
    max_jobs: int = MAX_JOBS
    waiting: set[Priority] = field(default_factory=set)  # priorities with a job that waits for memory

    def __post_init__(self) -> None:
        self.clock = VirtualTime()
        self.limiter = ReceiveLimiter(
            self.max_jobs, batch_size=16, jobs_waiting=lambda priority: int(priority in self.waiting)
        )
        self.policy = QueuePolicy(self.queues, self.limiter, self.clock)

    def hold(self, rank: int, audio_seconds: float | None = None) -> WorkEstimate:
        estimate = self.limiter.add(priority=self.queues[rank].priority)
        if audio_seconds is not None:
            estimate.staged(audio_seconds)
        return estimate

    def may_ask(self, rank: int) -> int:
        """Return the number of messages to request now."""
        queue = self.queues[rank]
        return 0 if self.policy.is_held_back(queue) else self.policy.request_size(queue)


def test_lower_queue_is_asked_once_the_first_is_known_to_be_empty() -> None:
    world = World(queues(None, None))
    first, _ = world.queues
    assert (world.may_ask(0) > 0, world.may_ask(1)) == (True, 0), "nothing is known about the first queue"
    world.policy.asking(first, 2)
    assert world.may_ask(1) == 0
    world.clock.now += HEAD_START_SECONDS
    assert world.may_ask(1) > 0, "a long poll that waits has found nothing"
    world.policy.answered(first, 2)
    assert world.may_ask(1) == 0
    world.policy.asking(first, 2)
    world.policy.answered(first, 0)
    assert world.may_ask(1) > 0
    world.policy.asking(first, 2)
    assert world.may_ask(1) > 0, "the next poll of an empty queue holds up nothing"


def test_every_queue_before_must_be_empty() -> None:
    world = World(queues(None, None, None))
    for queue in world.queues[:2]:
        assert world.may_ask(2) == 0
        world.policy.asking(queue, 1)
        world.policy.answered(queue, 0)
    assert world.may_ask(2) > 0


def test_backlog_of_a_lower_queue_leaves_room_to_the_first() -> None:
    world = World(queues(None, None))
    first, lower = world.queues
    world.policy.answered(first, 0)
    while count := world.may_ask(1):
        world.policy.asking(lower, count)
        world.policy.answered(lower, count)
        for _ in range(count):
            world.hold(1, audio_seconds=1)
    assert len(world.limiter._held) == MAX_JOBS - 1
    assert world.may_ask(0) == 1

    world = World(queues(None, None))
    for _ in range(2):
        world.hold(1, audio_seconds=100 * HOUR)
    assert world.policy.capacity(lower) == 0
    assert world.policy.capacity(first) == 2, "its pieces lead, so it needs batches of its own"


def test_work_of_the_first_queue_takes_the_place_of_the_others() -> None:
    world = World(queues(None, None))
    for _ in range(2):
        world.hold(0, audio_seconds=HOUR)
    assert [world.policy.capacity(queue) for queue in world.queues] == [0, 0]


@pytest.mark.parametrize("weight", [None, 1.0], ids=["strict", "weighted"])
def test_job_that_waits_for_memory_does_not_stop_the_first_queue(weight: float | None) -> None:
    world = World(queues(weight, weight))
    world.waiting.add(world.queues[1].priority)
    assert world.policy.capacity(world.queues[0]) > 0
    assert world.policy.capacity(world.queues[1]) == 0
    world.waiting = {world.queues[0].priority}
    world.hold(0)
    assert world.policy.capacity(world.queues[0]) == 0
    assert (world.policy.capacity(world.queues[1]) > 0) is (weight is not None)


def test_weighted_queues_are_asked_at_any_time_and_none_fills_every_place() -> None:
    world = World(queues(3.0, 1.0), max_jobs=4)
    assert world.may_ask(0) > 0
    assert world.may_ask(1) > 0
    for rank, other in ((0, 1), (1, 0)):
        world = World(queues(3.0, 1.0), max_jobs=4)
        while world.may_ask(rank):
            world.hold(rank, audio_seconds=1)
        assert len(world.limiter._held) == 3
        assert world.may_ask(other) == 1
        world.hold(other)
        assert world.may_ask(rank) == 0, "all four places are taken"


@pytest.mark.parametrize("weight", [None, 1.0], ids=["strict", "weighted"])
@pytest.mark.parametrize("max_jobs", [2, 3, MAX_JOBS])
def test_poll_of_an_empty_queue_leaves_places_to_the_others(weight: float | None, max_jobs: int) -> None:
    """With few places, the long poll of the first queue would otherwise keep all of them for itself."""
    world = World(queues(weight, weight), max_jobs)
    first, _ = world.queues
    for _ in range(2):
        assert world.may_ask(0) == 1
        world.policy.asking(first, 1)
        world.clock.now += HEAD_START_SECONDS
        assert world.may_ask(1) == 1
        world.policy.answered(first, 0)
    world.policy.answered(first, 1)
    assert world.may_ask(0) == min(max_jobs - (weight is not None), 2), "now it has messages"


def test_lengths_of_one_queue_say_nothing_about_another() -> None:
    world = World(queues(1.0, 1.0))
    world.limiter.remove(world.hold(1, audio_seconds=6 * HOUR))
    world.limiter.remove(world.hold(0, audio_seconds=30))
    assert world.policy.capacity(world.queues[0]) > 10
    assert world.policy.capacity(world.queues[1]) == 2


@given(
    st.lists(st.sampled_from([None, 1.0]), min_size=1, max_size=1).flatmap(
        lambda kind: st.lists(st.just(kind[0]), min_size=1, max_size=4)
    ),
    st.integers(4, 20),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ask", "answer", "nothing", "end"])), max_size=40),
)
def test_receives_in_flight_always_fit(
    weights: list[float | None], max_jobs: int, events: list[tuple[int, str]]
) -> None:
    """In any order of events, every message that the receives in flight may return has a place."""
    world = World(queues(*weights), max_jobs)
    asked = dict.fromkeys(range(len(weights)), 0)
    for number, event in events:
        rank = number % len(weights)
        queue = world.queues[rank]
        if event == "ask" and not asked[rank] and (count := world.may_ask(rank)):
            world.policy.asking(queue, count)
            asked[rank] = count
        elif event in ("answer", "nothing") and asked[rank]:
            count = asked[rank] if event == "answer" else 0
            world.policy.answered(queue, count)
            asked[rank] = 0
            for _ in range(count):
                world.hold(rank)
        elif event == "end" and world.limiter._held:
            world.limiter.remove(world.limiter._held[0])
        assert len(world.limiter._held) + sum(asked.values()) <= max_jobs


# --- the poller with two queues -----------------------------------------------------------------------------------------


class LongPolls(FakeQueue):
    """A queue that answers when it has a message, or after 20 s."""

    async def receive(self, max_messages: int) -> list[ReceivedMessage]:
        await self._called("receive", max_messages)
        for _ in range(LONG_POLL_SECONDS * 10):
            if self.waiting:
                break
            await asyncio.sleep(0.1)
        taken, self.waiting = self.waiting[:max_messages], self.waiting[max_messages:]
        return [replace(message, queue=self.name) for message in taken]


def two(*, batch: int = 0, interactive: int = 0, weight: float | None = None) -> tuple[LongPolls, LongPolls]:
    first = LongPolls([received() for _ in range(interactive)], name="interactive", priority=Priority(0, weight))
    return first, LongPolls([received() for _ in range(batch)], name="batch", priority=Priority(1, weight))


def of_tenant(tenant: str) -> ReceivedMessage:
    return replace(received(tenant=tenant), sent_at=EPOCH + virtual_loop().time())


def poller_of(settings: Settings, queues: tuple[FakeQueue, ...], processor: object, gate: object = None) -> Poller:
    metrics, clock = Metrics(), virtual_time()
    tenants = {
        queue.priority: TenantLimit(settings.max_jobs_per_tenant, queue, metrics, settings.queue_timeout_seconds, clock)
        for queue in queues
    }
    limiter = ReceiveLimiter(
        settings.max_jobs_in_flight,
        batch_size=settings.batch_size,
        jobs_at_limit=lambda priority: tenants[priority].jobs_at_limit,
    )
    closed = gate or (lambda _: None)
    return Poller(settings, queues, processor, metrics, closed, limiter, tenants, clock)  # type: ignore[arg-type]


class NotingProcessor(FakeProcessor):
    """Notes when a message of each queue came."""

    def __init__(self, seconds: float, audio_seconds: float) -> None:
        super().__init__(seconds, audio_seconds)
        self.came: list[tuple[str, float]] = []

    async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
        self.came.append((message.queue, virtual_loop().time()))
        await super().process(message, interrupt, estimate)


@pytest.mark.parametrize("weight", [None, 1.0], ids=["strict", "weighted"])
@in_virtual_time
async def test_urgent_message_waits_neither_for_a_backlog_nor_for_a_long_poll(
    make_settings: MakeSettings, weight: float | None
) -> None:
    processor = NotingProcessor(3600, audio_seconds=6 * HOUR)
    first, lower = two(batch=50, weight=weight)
    async with polling(poller_of(make_settings(), (first, lower), processor)):
        await asyncio.sleep(100)
        assert [queue for queue, _ in processor.came] == ["batch", "batch"]
        sent_at = virtual_loop().time()
        first.waiting.append(received())
        await asyncio.sleep(1)
    queue, came_at = processor.came[-1]
    assert queue == "interactive"
    assert came_at - sent_at < 0.5

    processor = NotingProcessor(3600, audio_seconds=30)
    first, lower = two(weight=weight)
    async with polling(poller_of(make_settings(), (first, lower), processor)):
        await asyncio.sleep(7)  # both queues are polled
        sent_at = virtual_loop().time()
        first.waiting.append(received())
        await asyncio.sleep(1)
        assert processor.came[-1][1] - sent_at < 0.5


@in_virtual_time
async def test_strict_order_serves_the_first_queue_alone_while_it_has_messages(make_settings: MakeSettings) -> None:
    processor = NotingProcessor(10, audio_seconds=HOUR)
    first, lower = two(interactive=8, batch=8)
    async with polling(poller_of(make_settings(), (first, lower), processor)):
        await asyncio.sleep(300)
    assert [queue for queue, _ in processor.came] == ["interactive"] * 8 + ["batch"] * 8


@in_virtual_time
async def test_tenant_at_its_limit_delays_neither_its_urgent_messages_nor_the_next_queue(
    make_settings: MakeSettings,
) -> None:
    processor = NotingProcessor(3600, audio_seconds=30)
    first, lower = two()
    async with polling(poller_of(make_settings(max_jobs_per_tenant=1), (first, lower), processor)):
        lower.waiting += [of_tenant("acme") for _ in range(5)]
        await asyncio.sleep(10)
        assert [queue for queue, _ in processor.came] == ["batch"]
        first.waiting += [of_tenant("acme") for _ in range(5)]
        await asyncio.sleep(10)
        assert [queue for queue, _ in processor.came] == ["batch", "interactive"]
        lower.waiting.append(of_tenant("globex"))
        await asyncio.sleep(20)
    assert [queue for queue, _ in processor.came] == ["batch", "interactive", "batch"]
    assert processor.most_held == 3


@in_virtual_time
async def test_queue_that_fails_stops_no_other(make_settings: MakeSettings) -> None:
    processor = NotingProcessor(1, audio_seconds=30)
    first, lower = two(batch=3)
    first.failing.add("receive")
    poller = poller_of(make_settings(), (first, lower), processor)
    async with polling(poller):
        await asyncio.sleep(60)
        assert [queue for queue, _ in processor.came] == ["batch"] * 3
        assert poller.stalled_seconds > 50, "readiness shows it"
        assert poller.silent_seconds < 30, "the watchdog restarts nothing"
        assert poller.last_error


@in_virtual_time
async def test_gate_pauses_one_queue(make_settings: MakeSettings) -> None:
    processor = NotingProcessor(1, audio_seconds=30)
    gate = lambda queue: "its dead-letter queue fails" if queue == "interactive" else None  # noqa: E731
    first, lower = two(batch=3, interactive=3)
    async with polling(poller_of(make_settings(), (first, lower), processor, gate)):
        await asyncio.sleep(60)
    assert [queue for queue, _ in processor.came] == ["batch"] * 3


@in_virtual_time
async def test_crash_of_a_delivery_ends_the_loops_of_all_queues(make_settings: MakeSettings) -> None:
    class Broken:
        async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(60):
            await poller_of(make_settings(), two(batch=1), Broken()).run()


@in_virtual_time
async def test_messages_of_all_queues_are_released_when_receiving_stops(make_settings: MakeSettings) -> None:
    processor = NotingProcessor(100, audio_seconds=30)
    first, lower = two()
    poller = poller_of(make_settings(), (first, lower), processor)
    async with polling(poller) as task:
        await asyncio.sleep(5)  # both receives are in flight
        poller.stop_receiving()
        first.waiting.append(received())
        lower.waiting.append(received())
        await task
        assert await poller.drain(5, asyncio.Event())
    assert processor.interrupted == 2
