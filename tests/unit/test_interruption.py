"""Instance metadata and the notices in it, on virtual time where it matters."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from daemon.imds import Imds, MetadataUnavailable
from daemon.interruption import SPOT_NOTICE_SECONDS, SPOT_RESERVE_SECONDS, InterruptionWatch, Kind, Notice
from daemon.metrics import Metrics
from tests.ec2 import INSTANCE_ID, FakeEc2
from tests.virtual_time import EPOCH, Clock

# --- metadata


@pytest.fixture
def ec2() -> Iterator[FakeEc2]:
    with FakeEc2() as fake:
        yield fake


async def test_metadata_are_read_with_a_token_that_is_asked_for_once(ec2: FakeEc2) -> None:
    async with Imds(ec2.url) as imds:
        assert await imds.get("instance-id") == INSTANCE_ID
        assert await imds.get("spot/instance-action") is None
    assert (ec2.token_ttl_requests, ec2.without_token) == (1, 0)


async def test_a_token_that_is_not_valid_any_more_is_replaced(ec2: FakeEc2) -> None:
    async with Imds(ec2.url) as imds:
        await imds.get("instance-id")
        ec2.tokens.clear()
        assert await imds.get("instance-id") == INSTANCE_ID
    assert ec2.token_ttl_requests == 2


async def test_a_token_is_refreshed_long_before_it_ends(ec2: FakeEc2, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Imds(ec2.url) as imds:
        await imds.get("instance-id")
        later = time.monotonic() + 4 * 3600
        monkeypatch.setattr("daemon.imds.time.monotonic", lambda: later)
        await imds.get("instance-id")
    assert ec2.token_ttl_requests == 2


async def test_what_is_not_an_answer_is_an_error(ec2: FakeEc2) -> None:
    ec2.metadata_down = True
    async with Imds(ec2.url) as imds:
        with pytest.raises(MetadataUnavailable, match="HTTP 503"):
            await imds.get("instance-id")
    async with Imds("http://127.0.0.1:1") as imds:
        with pytest.raises(MetadataUnavailable):
            await imds.get("instance-id")


# --- notices


@dataclass
class Metadata:
    """What the service says, by path."""

    says: dict[str, str] = field(default_factory=dict)
    down: bool = False
    asked: int = 0

    async def get(self, path: str) -> str | None:
        self.asked += 1
        if self.down:
            raise MetadataUnavailable("switched off")
        return self.says.get(path)


def in_seconds(seconds: float) -> str:
    at = datetime.fromtimestamp(EPOCH + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps({"action": "terminate", "time": at})


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"transcriptd_{name}_total", labels)


async def test_nothing_is_noticed_while_there_is_nothing() -> None:
    watch = InterruptionWatch(Metadata(), Metrics(), 5)
    await watch.look()
    assert not watch.noticed.is_set()


@pytest.mark.parametrize(
    ("path", "says", "notice"),
    [
        ("spot/instance-action", in_seconds(120), Notice(Kind.SPOT, EPOCH + 120)),
        ("autoscaling/target-lifecycle-state", "Terminated", Notice(Kind.TERMINATION)),
        ("events/recommendations/rebalance", '{"noticeTime": "2026-11-22T10:00:00Z"}', Notice(Kind.REBALANCE)),
    ],
)
async def test_each_notice_is_noticed_once(path: str, says: str, notice: Notice) -> None:
    metrics = Metrics()
    watch = InterruptionWatch(Metadata({path: says}), metrics, 5)
    for _ in range(3):
        await watch.look()
    assert watch.notices == {notice.kind: notice}
    assert watch.noticed.is_set()
    assert sample(metrics, "interruptions", kind=notice.kind.value) == 1


@pytest.mark.parametrize("state", ["InService", "Standby", "Warmed:Stopped"])
async def test_other_lifecycle_states_mean_nothing(state: str) -> None:
    watch = InterruptionWatch(Metadata({"autoscaling/target-lifecycle-state": state}), Metrics(), 5)
    await watch.look()
    assert not watch.noticed.is_set()


async def test_a_spot_notice_that_cannot_be_read_still_gives_two_minutes() -> None:
    watch = InterruptionWatch(Metadata({"spot/instance-action": "<html>"}), Metrics(), 5)
    await watch.look()
    ends_at = watch.notices[Kind.SPOT].ends_at
    assert ends_at is not None
    assert abs(ends_at - time.time() - SPOT_NOTICE_SECONDS) < 5


async def test_a_service_that_fails_says_nothing() -> None:
    metrics, metadata = Metrics(), Metadata(down=True)
    watch = InterruptionWatch(metadata, metrics, 5)
    for _ in range(3):
        await watch.look()
    assert not watch.noticed.is_set()
    assert sample(metrics, "metadata_failures") == 3
    metadata.down, metadata.says = False, {"spot/instance-action": in_seconds(120)}
    await watch.look()
    assert watch.noticed.is_set()


def test_a_spot_instance_hurries_half_a_minute_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.patch(monkeypatch)
    metadata = Metadata()
    loop = clock.open_loop()
    hurried: list[float] = []

    async def scenario() -> None:
        watch = InterruptionWatch(metadata, Metrics(), 5)
        watching = asyncio.create_task(watch.run())
        await watch.last_moment()
        hurried.append(clock.now)
        watching.cancel()

    task = loop.create_task(scenario())
    clock.advance(600)
    assert metadata.asked >= 3 * 600 // 5 - 3  # three paths, every five seconds
    metadata.says["spot/instance-action"] = in_seconds(clock.now + 120)
    clock.advance(89)
    assert hurried == []
    clock.advance(2)
    assert hurried == [pytest.approx(600 + 120 - SPOT_RESERVE_SECONDS, abs=1)]
    assert task.done()
    clock.close_loop(loop)
