"""Instance metadata and the notices in it, on virtual time where timing matters."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from daemon.aws.imds import Imds, MetadataUnavailable
from daemon.aws.interruption import (
    SPOT_NOTICE_SECONDS,
    SPOT_RESERVE_SECONDS,
    InterruptionKind,
    InterruptionMonitor,
    InterruptionNotice,
)
from daemon.telemetry.metrics import Metrics
from tests.support.aws.ec2 import INSTANCE_ID, FakeEc2
from tests.support.time.virtual import EPOCH, VirtualTime

# --- metadata


async def test_metadata_is_read_with_a_cached_token(ec2: FakeEc2) -> None:
    async with Imds(ec2.url) as imds:
        assert await imds.get("instance-id") == INSTANCE_ID
        assert await imds.get("spot/instance-action") is None
    assert (ec2.token_ttl_requests, ec2.without_token) == (1, 0)


async def test_expired_token_is_replaced(ec2: FakeEc2) -> None:
    async with Imds(ec2.url) as imds:
        await imds.get("instance-id")
        ec2.tokens.clear()
        assert await imds.get("instance-id") == INSTANCE_ID
    assert ec2.token_ttl_requests == 2


async def test_token_is_refreshed_long_before_it_expires(ec2: FakeEc2) -> None:
    clock = VirtualTime()
    async with Imds(ec2.url, clock) as imds:
        await imds.get("instance-id")
        clock.now += 4 * 3600
        await imds.get("instance-id")
    assert ec2.token_ttl_requests == 2


async def test_unexpected_response_is_an_error(ec2: FakeEc2) -> None:
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
    """The responses of the metadata service, by path."""

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


async def test_no_notice_no_interruption() -> None:
    watch = InterruptionMonitor(Metadata(), Metrics(), 5)
    await watch.look()
    assert not watch.noticed.is_set()


@pytest.mark.parametrize(
    ("path", "says", "notice"),
    [
        ("spot/instance-action", in_seconds(120), InterruptionNotice(InterruptionKind.SPOT, EPOCH + 120)),
        ("autoscaling/target-lifecycle-state", "Terminated", InterruptionNotice(InterruptionKind.TERMINATION)),
        (
            "events/recommendations/rebalance",
            '{"noticeTime": "2026-11-22T10:00:00Z"}',
            InterruptionNotice(InterruptionKind.REBALANCE),
        ),
    ],
)
async def test_each_notice_is_reported_once(path: str, says: str, notice: InterruptionNotice) -> None:
    metrics = Metrics()
    watch = InterruptionMonitor(Metadata({path: says}), metrics, 5)
    for _ in range(3):
        await watch.look()
    assert watch.notices == {notice.kind: notice}
    assert watch.noticed.is_set()
    assert sample(metrics, "interruptions", kind=notice.kind.value) == 1


@pytest.mark.parametrize("state", ["InService", "Standby", "Warmed:Stopped"])
async def test_other_lifecycle_states_are_ignored(state: str) -> None:
    watch = InterruptionMonitor(Metadata({"autoscaling/target-lifecycle-state": state}), Metrics(), 5)
    await watch.look()
    assert not watch.noticed.is_set()


async def test_unreadable_spot_notice_still_gives_two_minutes() -> None:
    clock = VirtualTime()
    watch = InterruptionMonitor(Metadata({"spot/instance-action": "<html>"}), Metrics(), 5, clock)
    await watch.look()
    assert watch.notices[InterruptionKind.SPOT].ends_at == clock.unix() + SPOT_NOTICE_SECONDS


async def test_failing_service_causes_no_interruption() -> None:
    metrics, metadata = Metrics(), Metadata(down=True)
    watch = InterruptionMonitor(metadata, metrics, 5)
    for _ in range(3):
        await watch.look()
    assert not watch.noticed.is_set()
    assert sample(metrics, "imds_poll_failures") == 3
    metadata.down, metadata.says = False, {"spot/instance-action": in_seconds(120)}
    await watch.look()
    assert watch.noticed.is_set()


def test_spot_instance_stops_half_a_minute_before_its_end() -> None:
    clock = VirtualTime()
    metadata = Metadata()
    loop = clock.open_loop()
    hurried: list[float] = []

    async def scenario() -> None:
        watch = InterruptionMonitor(metadata, Metrics(), 5, clock)
        watching = asyncio.create_task(watch.run())
        await watch.release_deadline()
        hurried.append(clock.now)
        watching.cancel()

    task = loop.create_task(scenario())
    clock.advance(600)
    assert metadata.asked >= 3 * 600 // 5 - 3  # three paths every five seconds
    metadata.says["spot/instance-action"] = in_seconds(clock.now + 120)
    clock.advance(89)
    assert hurried == []
    clock.advance(2)
    assert hurried == [pytest.approx(600 + 120 - SPOT_RESERVE_SECONDS, abs=1)]
    assert task.done()
    clock.close_loop(loop)
