"""The real daemon on an instance that is terminated, idles, or is unfit."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.launcher import EXIT_HOST_ENDS, EXIT_SETUP_FAILED
from tests.support.aws.ec2 import FakeEc2
from tests.support.media.files import chirp, make_wav


@pytest.fixture
def world(ec2: FakeEc2) -> Iterator[World]:
    with open_world() as world:
        world.settings.update(ec2.environment)
        world.upload("short.wav", make_wav(world.folder / "short.wav", chirp(1.0)))
        yield world


def exit_of(daemon: DaemonProcess) -> int:
    return daemon.process.wait(PATIENCE_SECONDS)


def publish(world: World, job_id: str, seconds: float) -> None:
    world.publish(job_id, "short.wav", options={"initial_prompt": f"sleep {seconds}"})


def publish_until(world: World, job_id: str, released: Path) -> None:
    """Publish a job that ends once the file exists, however slow the machine is."""
    world.publish(job_id, "short.wav", options={"initial_prompt": f"until {released}"})


def test_group_gets_the_instance_once_the_models_are_loaded(ec2: FakeEc2, world: World) -> None:
    ec2.failing = 2  # the service fails first
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        wait_for(lambda: len(ec2.calls) == 3, "the launch hook was completed")
        publish(world, "job-1", 0)
        world.wait_for("job-1", "job.completed")
    assert ec2.call_names() == ["complete launching CONTINUE"] * 3


def test_instance_that_cannot_load_its_models_is_abandoned(ec2: FakeEc2, world: World) -> None:
    with world.daemon(pipeline="bench.scripted_pipeline:RaisesInSetup", runner_start_attempts="1") as daemon:
        assert exit_of(daemon) == EXIT_SETUP_FAILED
    assert ec2.call_names() == ["complete launching ABANDON"]


def test_device_that_keeps_failing_replaces_the_instance(ec2: FakeEc2, world: World) -> None:
    with world.daemon(max_device_failures="2", retry_base_seconds="0.1", max_attempts="10") as daemon:
        world.publish("job-1", "short.wav", options={"initial_prompt": "cuda"})
        assert exit_of(daemon) == EXIT_SETUP_FAILED
    assert ec2.call_names() == ["complete launching CONTINUE", "Unhealthy"]
    assert sum(world.queue_depth()) == 1  # for another instance


def test_termination_waits_for_the_job_in_progress(ec2: FakeEc2, world: World) -> None:
    released = world.folder / "released"
    with world.daemon() as daemon:
        publish_until(world, "in-progress", released)
        world.wait_for("in-progress", "job.started")
        ec2.terminate()
        wait_for(lambda: ec2.call_names().count("heartbeat terminating") > 2, "the hook receives heartbeats")
        publish(world, "later", 0)
        released.touch()
        assert exit_of(daemon) == EXIT_HOST_ENDS
    world.wait_for("in-progress", "job.completed")
    assert world.events("later") == []
    calls = ec2.call_names()
    assert calls[-1] == "complete terminating CONTINUE"
    assert calls.count("complete terminating CONTINUE") == 1


def test_rebalance_finishes_the_job_in_progress_and_terminates_the_instance(ec2: FakeEc2, world: World) -> None:
    ec2.on_call = lambda call: ec2.terminate() if call["Action"].startswith("Terminate") else None
    released = world.folder / "released"
    with world.daemon() as daemon:
        publish_until(world, "in-progress", released)
        world.wait_for("in-progress", "job.started")
        ec2.recommend_rebalance()
        wait_for(lambda: any(daemon.log_entries("draining")), "the daemon drains")
        assert daemon.process.poll() is None
        released.touch()
        assert exit_of(daemon) == EXIT_HOST_ENDS
    world.wait_for("in-progress", "job.completed")
    calls = [call for call in ec2.call_names() if not call.startswith("heartbeat")]
    assert calls == ["complete launching CONTINUE", "terminate", "complete terminating CONTINUE"]


def test_spot_interruption_releases_a_job_that_cannot_finish_in_time(ec2: FakeEc2, world: World) -> None:
    with world.daemon() as daemon:
        publish(world, "short", 1)
        world.wait_for("short", "job.progress")  # it is on the device: the other one cannot get there first
        publish(world, "long", 3000)
        world.wait_for("long", "job.started")
        ec2.interrupt(in_seconds=60)  # 30 s more than the time reserved for the release
        assert exit_of(daemon) == EXIT_HOST_ENDS
        stopped = next(daemon.log_entries("stopped"))
    world.wait_for("short", "job.completed")
    assert stopped["clean"] is False
    assert world.queue_depth() == (1, 0)  # visible at once, for another instance
    assert ec2.call_names() == ["complete launching CONTINUE"]


def test_failing_metadata_ends_nothing(ec2: FakeEc2, world: World) -> None:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        ec2.metadata_down = True
        wait_for(lambda: any(daemon.log_entries("instance metadata unavailable")), "the failure is seen")
        publish(world, "job-1", 0)
        world.wait_for("job-1", "job.completed")
        assert "transcriptd_imds_poll_failures_total 0.0" not in daemon.get("/metrics")


def test_idle_instance_terminates_unless_the_group_is_at_its_minimum(ec2: FakeEc2, world: World) -> None:
    ec2.refused.add("TerminateInstanceInAutoScalingGroup")
    with world.daemon(idle_exit_seconds="2") as daemon:
        publish(world, "first", 0)
        world.wait_for("first", "job.completed")
        wait_for(lambda: "terminate and shrink" in ec2.call_names(), "it requested its termination")
        publish(world, "second", 0)  # the request was denied, and the daemon continues
        world.wait_for("second", "job.completed")
        ec2.on_call = lambda call: ec2.terminate() if call["Action"].startswith("Terminate") else None
        ec2.refused.clear()
        assert exit_of(daemon) == EXIT_HOST_ENDS
    calls = [call for call in ec2.call_names() if not call.startswith("heartbeat")]
    assert set(calls[1:-1]) == {"terminate and shrink"}
    assert calls[-1] == "complete terminating CONTINUE"
