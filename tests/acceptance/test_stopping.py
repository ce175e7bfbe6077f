"""Stopping is never a crash: real signals, followed by SIGKILL as at the end of a container's grace period."""

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=6, heartbeat_seconds="2", max_crashed_deliveries="3") as world:
        world.upload("call.wav", sample_call())
        yield world


def wait_until_logged(daemon: DaemonProcess, event: str) -> None:
    wait_for(lambda: any(daemon.log_entries(event)), event)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_killed_after_a_stop_signal_is_no_crash(world: World, number: signal.Signals) -> None:
    """Three deliveries end with a stop signal and SIGKILL; the fourth completes the job, in its first attempt."""
    job = f"job-{number.name.lower()}"
    gate = world.folder / job
    world.publish(job, "call.wav", options={"initial_prompt": f"until {gate}"})
    for count in range(1, 4):
        with world.daemon(f"{job}-{count}") as daemon:
            wait_until_logged(daemon, "job started")
            daemon.process.send_signal(number)
            wait_until_logged(daemon, "draining")
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(1)  # the job cannot finish; the shortest grace period ends
            daemon.process.kill()
            assert daemon.process.wait() == -signal.SIGKILL
        deliveries = json.loads(world.outputs(job)["checkpoints/deliveries.json"])["deliveries"]
        assert [(each["outcome"], each["reason"]) for each in deliveries] == [("released", "interrupted")] * count
    gate.touch()
    with world.daemon(f"{job}-last"):
        world.wait_for(job, "job.completed", PATIENCE_SECONDS)
        world.wait_until_empty()
    assert json.loads(world.outputs(job)["manifest.json"])["attempt"] == 1
    assert world.dead_letters() == []
