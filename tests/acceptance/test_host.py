"""The real daemon on an instance that is taken away, idles, or turns out to be unfit."""

from collections.abc import Iterator

import pytest

from daemon.embedded.process import DaemonProcess
from daemon.launcher import EXIT_HOST_ENDS, EXIT_SETUP_FAILED
from tests.acceptance.world import PATIENCE_SECONDS, World, open_world
from tests.ec2 import FakeEc2
from tests.media import chirp, make_wav
from tests.waiting import wait_for


@pytest.fixture
def ec2() -> Iterator[FakeEc2]:
    with FakeEc2() as fake:
        yield fake


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


def test_the_group_may_count_on_it_once_the_models_are_loaded(ec2: FakeEc2, world: World) -> None:
    ec2.failing = 2  # the service fails first
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        wait_for(lambda: len(ec2.calls) == 3, "the launch hook was completed")
        publish(world, "job-1", 0)
        world.wait_for("job-1", "job.completed")
    assert ec2.told() == ["complete launching CONTINUE"] * 3


def test_an_instance_that_cannot_load_its_models_is_abandoned(ec2: FakeEc2, world: World) -> None:
    with world.daemon(pipeline="tests.pipelines.scripted:RaisesInSetup", runner_start_attempts="1") as daemon:
        assert exit_of(daemon) == EXIT_SETUP_FAILED
    assert ec2.told() == ["complete launching ABANDON"]


def test_a_device_that_keeps_failing_gives_the_instance_up(ec2: FakeEc2, world: World) -> None:
    with world.daemon(device_failures="2", retry_base_seconds="0.1", max_attempts="10") as daemon:
        world.publish("job-1", "short.wav", options={"initial_prompt": "cuda"})
        assert exit_of(daemon) == EXIT_SETUP_FAILED
    assert ec2.told() == ["complete launching CONTINUE", "Unhealthy"]
    assert sum(world.queue_depth()) == 1  # for another instance


def test_a_termination_waits_for_the_job_in_hand(ec2: FakeEc2, world: World) -> None:
    with world.daemon() as daemon:
        publish(world, "in-hand", 3)
        world.wait_for("in-hand", "job.started")
        ec2.terminate()
        wait_for(lambda: "heartbeat terminating" in ec2.told(), "the hook is kept alive")
        publish(world, "later", 0)
        assert exit_of(daemon) == EXIT_HOST_ENDS
    world.wait_for("in-hand", "job.completed")
    assert world.events("later") == []
    told = ec2.told()
    assert told.count("heartbeat terminating") > 2
    assert told[-1] == "complete terminating CONTINUE"


def test_a_rebalance_finishes_the_job_in_hand_and_asks_for_the_end(ec2: FakeEc2, world: World) -> None:
    ec2.on_call = lambda call: ec2.terminate() if call["Action"].startswith("Terminate") else None
    with world.daemon() as daemon:
        publish(world, "in-hand", 2)
        world.wait_for("in-hand", "job.started")
        ec2.recommend_rebalance()
        assert exit_of(daemon) == EXIT_HOST_ENDS
    world.wait_for("in-hand", "job.completed")
    told = [call for call in ec2.told() if not call.startswith("heartbeat")]
    assert told == ["complete launching CONTINUE", "terminate", "complete terminating CONTINUE"]


def test_a_spot_interruption_releases_what_cannot_finish_in_time(ec2: FakeEc2, world: World) -> None:
    with world.daemon() as daemon:
        publish(world, "short", 1)
        world.wait_for("short", "job.progress")  # it is on the device: the other one cannot get there first
        publish(world, "long", 3000)
        world.wait_for("long", "job.started")
        ec2.interrupt(in_seconds=60)  # 30 s more than what is kept for the release
        assert exit_of(daemon) == EXIT_HOST_ENDS
        stopped = next(daemon.log_entries("stopped"))
    world.wait_for("short", "job.completed")
    assert stopped["clean"] is False
    assert world.queue_depth() == (1, 0)  # visible at once, for another instance
    assert ec2.told() == ["complete launching CONTINUE"]


def test_metadata_that_fail_end_nothing(ec2: FakeEc2, world: World) -> None:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        ec2.metadata_down = True
        wait_for(lambda: any(daemon.log_entries("instance metadata unavailable")), "the failure is seen")
        publish(world, "job-1", 0)
        world.wait_for("job-1", "job.completed")
        assert "transcriptd_metadata_failures_total 0.0" not in daemon.get("/metrics")


def test_an_idle_instance_ends_itself_unless_the_group_wants_no_fewer(ec2: FakeEc2, world: World) -> None:
    ec2.refused.add("TerminateInstanceInAutoScalingGroup")
    with world.daemon(idle_exit_seconds="2") as daemon:
        publish(world, "first", 0)
        world.wait_for("first", "job.completed")
        wait_for(lambda: "terminate and shrink" in ec2.told(), "it asked for its end")
        publish(world, "second", 0)  # it was refused, and goes on
        world.wait_for("second", "job.completed")
        ec2.on_call = lambda call: ec2.terminate() if call["Action"].startswith("Terminate") else None
        ec2.refused.clear()
        assert exit_of(daemon) == EXIT_HOST_ENDS
    told = [call for call in ec2.told() if not call.startswith("heartbeat")]
    assert set(told[1:-1]) == {"terminate and shrink"}
    assert told[-1] == "complete terminating CONTINUE"
