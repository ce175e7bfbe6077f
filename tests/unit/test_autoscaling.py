"""Calls to an Auto Scaling group, over real HTTP: no heartbeat follows the completion of a lifecycle hook."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.aws.autoscaling import AutoScalingGroup, open_group
from tests.support.aws.ec2 import INSTANCE_ID, FakeEc2

HOOK = "terminating"


@pytest.fixture
async def group(ec2: FakeEc2, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AutoScalingGroup]:
    for name, value in {
        "AWS_ENDPOINT_URL_AUTO_SCALING": ec2.url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
    }.items():
        monkeypatch.setenv(name, value)
    async with open_group("fleet", INSTANCE_ID) as group:
        yield group


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, PATIENCE_SECONDS)


async def test_completion_waits_for_the_heartbeat_in_flight_and_is_the_last_call(
    ec2: FakeEc2, group: AutoScalingGroup
) -> None:
    received, answer = threading.Event(), threading.Event()
    answered: list[str] = []  # in the order in which the service finishes them

    def hold_heartbeats(call: dict[str, str]) -> None:
        if call["Action"] == "RecordLifecycleActionHeartbeat":
            received.set()
            answer.wait(PATIENCE_SECONDS)
        answered.append(call["Action"])

    ec2.on_call = hold_heartbeats
    heartbeats = asyncio.create_task(group.heartbeat(HOOK, 0.01))
    await until(received)
    completion = asyncio.create_task(group.complete(HOOK, "CONTINUE"))
    for _ in range(20):  # more iterations than a completion sent too early would need
        await asyncio.sleep(0.01)
    assert not any(call.startswith("complete") for call in ec2.call_names())
    answer.set()
    assert await completion
    await asyncio.wait_for(heartbeats, PATIENCE_SECONDS)  # the completion ended them
    assert answered == ["RecordLifecycleActionHeartbeat", "CompleteLifecycleAction"]


async def test_completed_hook_sends_no_heartbeat(ec2: FakeEc2, group: AutoScalingGroup) -> None:
    assert await group.complete(HOOK, "CONTINUE")
    await asyncio.wait_for(group.heartbeat(HOOK, 0.01), PATIENCE_SECONDS)
    assert ec2.call_names() == ["complete terminating CONTINUE"]


async def test_heartbeats_continue_after_a_failure(ec2: FakeEc2, group: AutoScalingGroup) -> None:
    third = threading.Event()
    ec2.failing = 2
    ec2.on_call = lambda _: third.set() if len(ec2.calls) >= 3 else None
    heartbeats = asyncio.create_task(group.heartbeat(HOOK, 0.01))
    await until(third)
    assert await group.complete(HOOK, "CONTINUE")
    await asyncio.wait_for(heartbeats, PATIENCE_SECONDS)
    assert ec2.call_names()[-1] == "complete terminating CONTINUE"


async def test_rejected_completion_still_ends_the_heartbeats(ec2: FakeEc2, group: AutoScalingGroup) -> None:
    ec2.refused.add("CompleteLifecycleAction")
    heartbeats = asyncio.create_task(group.heartbeat(HOOK, 0.01))
    assert not await group.complete(HOOK, "CONTINUE")
    await asyncio.wait_for(heartbeats, PATIENCE_SECONDS)
