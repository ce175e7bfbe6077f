"""Every background task of the real daemon is made to fail once; the daemon reports it and continues or exits."""

from collections.abc import Iterator
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.background import TaskName
from daemon.demo.process import DaemonProcess
from daemon.launcher import EXIT_HOST_ENDS, EXIT_SETUP_FAILED
from tests.support.aws.ec2 import FakeEc2
from tests.support.media.files import chirp, make_wav
from tests.support.monitoring.samples import scraped


@pytest.fixture
def world(ec2: FakeEc2) -> Iterator[World]:
    with open_world() as world:
        world.settings.update(ec2.environment)
        world.upload("short.wav", make_wav(world.folder / "short.wav", chirp(1.0)))
        yield world


def daemon_with_a_fault_in(part: str, world: World, **settings: str) -> DaemonProcess:
    return world.daemon(module="tests.support.dying_daemon", arguments=(part,), **settings)


def failures(daemon: DaemonProcess) -> list[dict[str, Any]]:
    return list(daemon.log_entries("background task failed"))


def test_failed_background_tasks_are_reported_and_restarted(ec2: FakeEc2, world: World) -> None:
    with daemon_with_a_fault_in("background", world) as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        wait_for(lambda: len(failures(daemon)) >= len(TaskName), "all tasks have failed")
        wait_for(lambda: "complete launching CONTINUE" in ec2.call_names(), "the launch hook is completed")
        world.publish("job-1", "short.wav")
        world.wait_for("job-1", "job.completed")
        found = scraped(daemon.get("/metrics"))
        ec2.terminate()  # detected by a restarted task
        assert daemon.process.wait(PATIENCE_SECONDS) == EXIT_HOST_ENDS
    assert sorted(line["task"] for line in failures(daemon)) == sorted(TaskName)
    assert all("Fault" in line["traceback"] for line in failures(daemon))
    for name in TaskName:
        assert found[f'transcriptd_background_task_failures_total{{task="{name}"}}'] == 1
    assert "heartbeat terminating" in ec2.call_names()


def test_internal_error_in_the_poller_drains_and_ends_the_daemon(world: World) -> None:
    world.publish("job-1", "short.wav")
    with daemon_with_a_fault_in("poller", world) as daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == 1
    assert [line["task"] for line in failures(daemon)] == ["poller"]
    events = [line["event"] for line in daemon.log_entries()]
    assert events.index("background task failed") < events.index("draining") < events.index("stopped")


def test_internal_error_in_runner_supervision_replaces_the_instance(ec2: FakeEc2, world: World) -> None:
    with daemon_with_a_fault_in("runner", world) as daemon:
        world.publish("job-1", "short.wav", options={"initial_prompt": "sigkill"})
        assert daemon.process.wait(PATIENCE_SECONDS) == EXIT_SETUP_FAILED
    assert [line["task"] for line in failures(daemon)] == ["runners failed"]
    assert ec2.call_names()[-1] == "Unhealthy"
