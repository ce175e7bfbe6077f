"""The limit on one tenant's messages: others always find a place, and no message loses an attempt or its life to it."""

import asyncio
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from daemon.aws.sqs import QueueLimits, ReceivedMessage
from daemon.errors import QueueUnavailable
from daemon.job_queues import JobQueue
from daemon.jobs.disposition import is_last_delivery
from daemon.jobs.receive_limiter import ReceiveLimiter, WorkEstimate
from daemon.jobs.tenant_limit import MARGIN_SECONDS, RETURN_MAX_SECONDS, TenantLimit, may_return, return_seconds
from daemon.poller import Poller
from daemon.protocol.priority import ONLY
from daemon.telemetry.metrics import Metrics
from tests.support.aws.fakes import received
from tests.support.builders import some_settings
from tests.support.time.virtual import EPOCH, VirtualTime, in_virtual_time, virtual_time

DAY = 86_400.0


@dataclass
class Entry:
    tenant: str | None
    sent_at: float
    visible_at: float = 0.0
    receives: int = 0
    first_received_at: float | None = None


@dataclass
class TenantQueue:
    """A queue in virtual time that hands out the oldest visible messages first, whoever sent them."""

    clock: VirtualTime
    visibility_seconds: float = 120.0
    known_limits: QueueLimits = field(default_factory=QueueLimits)
    failing: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    returned: list[tuple[str, float]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=itertools.count)

    def send(self, tenant: str | None, number: int = 1) -> None:
        for _ in range(number):
            self.entries[f"m-{next(self.ids)}"] = Entry(tenant, EPOCH + self.clock.now)

    async def receive(self, max_messages: int) -> list[ReceivedMessage]:
        self.asked.append(max_messages)
        await asyncio.sleep(0.02)
        now = self.clock.now
        taken = [name for name, entry in self.entries.items() if entry.visible_at <= now][: min(max_messages, 10)]
        for name in taken:
            entry = self.entries[name]
            entry.receives += 1
            entry.visible_at = now + self.visibility_seconds
        return [
            replace(
                received(tenant=self.entries[name].tenant, message_id=name, receive_count=self.entries[name].receives),
                sent_at=self.entries[name].sent_at,
                leased_at=now,
            )
            for name in taken
        ]

    @property
    def about(self) -> JobQueue:
        return JobQueue("jobs", "http://localhost/queue", "http://localhost/dlq", 120, ONLY)

    async def limits(self) -> QueueLimits:
        return self.known_limits

    async def retry(self, message: ReceivedMessage, delay_seconds: float) -> None:
        if self.failing:
            raise QueueUnavailable("SQS ChangeMessageVisibility failed: switched off")
        self.returned.append((message.message_id, delay_seconds))
        self.entries[message.message_id].visible_at = self.clock.now + delay_seconds

    async def release(self, message: ReceivedMessage) -> None:
        if self.failing:
            raise QueueUnavailable("SQS ChangeMessageVisibility failed: switched off")
        self.released.append(message.message_id)
        self.entries[message.message_id].visible_at = self.clock.now


@dataclass
class Jobs:
    """A processor that works for some time on each message, then deletes it."""

    queue: TenantQueue
    seconds: float
    running: list[str | None] = field(default_factory=list)
    most: dict[str | None, int] = field(default_factory=dict)
    started: list[tuple[float, str | None, ReceivedMessage]] = field(default_factory=list)
    interrupted: int = 0

    async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
        if interrupt.is_set():
            self.interrupted += 1
            await self.queue.release(message)
            return
        estimate.staged(6 * 3600)  # as much as a device can use, so that the audio leaves no capacity
        self.queue.entries[message.message_id].visible_at = math.inf  # its lease is extended
        self.started.append((self.queue.clock.now, message.tenant, message))
        self.running.append(message.tenant)
        self.most[message.tenant] = max(self.most.get(message.tenant, 0), self.running.count(message.tenant))
        await asyncio.sleep(self.seconds)
        self.running.remove(message.tenant)
        self.queue.entries.pop(message.message_id, None)

    def waits(self, tenant: str | None) -> list[float]:
        return [EPOCH + at - message.sent_at for at, whose, message in self.started if whose == tenant]


@contextmanager
def polling(queue: TenantQueue, jobs: Jobs, max_jobs_per_tenant: int, max_jobs: int = 16) -> Iterator[Poller]:
    clock = queue.clock
    settings = some_settings(max_jobs_per_tenant=max_jobs_per_tenant, max_jobs_in_flight=max_jobs)
    metrics = Metrics(("acme",))
    tenants = TenantLimit(max_jobs_per_tenant, queue, metrics, 10, clock)
    limiter = ReceiveLimiter(max_jobs, batch_size=16, jobs_at_limit=lambda _: tenants.jobs_at_limit)
    poller = Poller(settings, [queue], jobs, metrics, lambda _: None, limiter, {ONLY: tenants}, clock)
    task = asyncio.create_task(poller.run())
    try:
        yield poller
    finally:
        poller.stop_receiving()
        task.cancel()


@in_virtual_time
async def test_other_tenants_find_a_place_while_one_fills_the_queue() -> None:
    queue = TenantQueue(virtual_time())
    jobs = Jobs(queue, 600)
    queue.send("acme", 300)
    with polling(queue, jobs, max_jobs_per_tenant=2):
        await asyncio.sleep(400)
        queue.send("globex")
        queue.send(None)
        for entry in [each for each in queue.entries.values() if each.tenant != "acme"]:
            entry.visible_at = 0  # and a fair queue hands them out first
        queue.entries = dict(sorted(queue.entries.items(), key=lambda item: item[1].tenant == "acme"))
        await asyncio.sleep(5)
    assert jobs.most["acme"] == 2, "although the limiter had capacity for others"
    assert [round(wait, 1) for wait in jobs.waits("globex") + jobs.waits(None)] == pytest.approx([1, 1], abs=1.1)


@in_virtual_time
async def test_without_a_limit_one_tenant_fills_the_daemon() -> None:
    queue = TenantQueue(virtual_time())
    jobs = Jobs(queue, 600)
    queue.send("acme", 10)
    with polling(queue, jobs, max_jobs_per_tenant=0):
        await asyncio.sleep(100)
        queue.send("globex")
        await asyncio.sleep(100)
    assert jobs.waits("globex") == []
    assert queue.returned == []


@in_virtual_time
async def test_looking_for_other_tenants_spends_few_receives_on_each_message() -> None:
    """SQS moves a message to the dead-letter queue after a number of receives."""
    queue = TenantQueue(virtual_time(), known_limits=QueueLimits(max_receives=100))
    jobs = Jobs(queue, 7200)
    queue.send("acme", 1000)
    with polling(queue, jobs, max_jobs_per_tenant=1):
        await asyncio.sleep(1800)
    assert len(queue.asked) <= 2 * 1800 + 10
    assert set(queue.asked[2:]) <= {1, 2}
    assert max(entry.receives for entry in queue.entries.values()) <= 16, "half an hour costs few of 100"
    assert jobs.most == {"acme": 1}


@in_virtual_time
async def test_a_place_is_filled_as_soon_as_it_is_free() -> None:
    """All other messages of the tenant are hidden for minutes at that time."""
    queue = TenantQueue(virtual_time())
    jobs = Jobs(queue, 500)
    queue.send("acme", 4)
    with polling(queue, jobs, max_jobs_per_tenant=1):
        await asyncio.sleep(1700)
    starts = [at for at, _, _ in jobs.started]
    pauses = [later - earlier - 500 for earlier, later in itertools.pairwise(starts)]
    assert len(pauses) == 3
    assert max(pauses) < 2


@in_virtual_time
async def test_a_message_runs_before_its_receives_are_used_up() -> None:
    queue = TenantQueue(virtual_time(), known_limits=QueueLimits(max_receives=10))
    jobs = Jobs(queue, 50_000)
    queue.send("acme", 2)
    with polling(queue, jobs, max_jobs_per_tenant=1):
        await asyncio.sleep(3600)
    assert jobs.most == {"acme": 2}, "over the limit, but not dead-lettered by SQS"
    assert max(message.receive_count for _, _, message in jobs.started) == 5


@in_virtual_time
async def test_messages_received_while_the_daemon_stops_are_released_at_once() -> None:
    queue = TenantQueue(virtual_time())
    jobs = Jobs(queue, 500)
    queue.send("acme", 2)
    with polling(queue, jobs, max_jobs_per_tenant=1) as poller:
        await asyncio.sleep(0.01)  # the first receive is in flight
        poller.stop_receiving()
        await asyncio.sleep(1)
    assert (jobs.interrupted, queue.returned) == (2, [])


@in_virtual_time
async def test_a_failing_queue_neither_blocks_nor_ends_the_poller() -> None:
    queue = TenantQueue(virtual_time(), failing=True)
    jobs = Jobs(queue, 500)
    queue.send("acme", 5)
    with polling(queue, jobs, max_jobs_per_tenant=1) as poller:
        await asyncio.sleep(20)
        assert poller.jobs_in_flight == 1
        assert poller.stalled_seconds < 2
        queue.failing = False
        queue.send("globex")
        await asyncio.sleep(10)
    assert jobs.most == {"acme": 1, "globex": 1}


@in_virtual_time
async def test_no_call_is_sent_for_a_message_that_another_daemon_may_hold() -> None:
    """SQS might end the other daemon's lease."""
    queue, metrics = TenantQueue(virtual_time()), Metrics()
    tenants = TenantLimit(1, queue, metrics, 10, virtual_time())
    queue.send("acme", 2)
    tenants.add("acme")
    assert await tenants.give_back(await queue.receive(2)) == []
    (_, first), (_, second) = queue.returned
    tenants.remove("acme")
    await asyncio.sleep(max(first, second) - MARGIN_SECONDS)
    await tenants.recall()
    assert queue.released == []


@in_virtual_time
async def test_as_many_messages_are_recalled_as_there_are_places() -> None:
    queue, metrics = TenantQueue(virtual_time()), Metrics()
    tenants = TenantLimit(2, queue, metrics, 10, virtual_time())
    for name in ("acme", "globex"):
        queue.send(name, 4)
        tenants.add(name)
        tenants.add(name)
    await tenants.give_back(await queue.receive(8))
    assert tenants.jobs_at_limit == 4
    await tenants.recall()
    assert queue.released == []
    tenants.remove("globex")
    assert tenants.jobs_at_limit == 2
    await tenants.recall()
    assert queue.released == ["m-4"], "the oldest of the tenant with a place"


def test_messages_without_a_tenant_are_not_limited() -> None:
    tenants = TenantLimit(1, TenantQueue(VirtualTime()), Metrics(), 10)
    for _ in range(5):
        tenants.add(None)
    assert tenants.has_place(None)
    assert tenants.jobs_at_limit == 0


@pytest.mark.parametrize("receive_count", [1, 2, 5, 1000, 10**6])
def test_the_time_of_a_return_grows_and_is_bounded(receive_count: int) -> None:
    assert 15 <= return_seconds(receive_count) <= RETURN_MAX_SECONDS


@pytest.mark.parametrize(
    ("receive_count", "age_seconds", "limits", "wanted"),
    [
        (1, 0, QueueLimits(), True),
        (4, 0, QueueLimits(max_receives=10), True),
        (5, 0, QueueLimits(max_receives=10), False),
        (1, 0, QueueLimits(max_receives=1), False),
        (49, 0, QueueLimits(max_receives=1000), True),
        (50, 0, QueueLimits(max_receives=1000), False),
        (1, 1.4 * DAY, QueueLimits(retention_seconds=14 * DAY), True),
        (1, 1.6 * DAY, QueueLimits(retention_seconds=14 * DAY), False),
        (1, 1801, QueueLimits(retention_seconds=3600), False),
    ],
)
def test_a_message_waits_only_with_receives_and_time_to_spare(
    receive_count: int, age_seconds: float, limits: QueueLimits, wanted: bool
) -> None:
    message = replace(received(receive_count=receive_count, tenant="acme"), sent_at=EPOCH)
    assert may_return(message, limits, EPOCH + age_seconds) is wanted
    if wanted:  # its first failed attempt afterwards is still retried
        later = replace(message, receive_count=receive_count + 1)
        assert not is_last_delivery(later, limits, EPOCH + age_seconds + RETURN_MAX_SECONDS, some_settings())


def test_the_metrics_name_only_listed_tenants() -> None:
    metrics = Metrics(("acme",))
    assert [metrics.tenants.label(name) for name in ("acme", "globex", "none", 'a"}{\\', None)] == [
        "acme",
        "other",
        "other",
        "other",
        "none",
    ]
