"""The daemon on an SQS that rejects stale receipt handles: what a daemon does with one shows here, and not on moto."""

import signal
from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.support.aws.strict import StrictAws


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(StrictAws, visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        yield world


def test_job_is_transcribed_and_its_message_deleted(world: World) -> None:
    world.publish("job-1", "call.wav")
    with world.daemon() as daemon:
        world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        world.wait_until_counted(daemon, 1)
        (end,) = daemon.log_entries("job finished")
        assert (end["outcome"], end["settled"]) == ("published", True)
        assert daemon.stop() == 0
    assert {"manifest.json", "transcript.json", "transcript.md"} <= set(world.outputs("job-1"))
    assert world.dead_letters() == []


def test_bad_message_is_moved_to_the_dead_letter_queue(world: World) -> None:
    world.publish("job-1", "none.wav")
    with world.daemon():
        world.wait_for("job-1", "job.failed")
        world.wait_until_empty()
    assert [letter["failure"]["code"] for letter in world.dead_letters()] == ["object_missing"]


def test_daemon_that_slept_past_its_lease_leaves_the_redelivery_alone(world: World) -> None:
    """Its receipt handle is stale, because another consumer received the message while the daemon was suspended."""
    aws = world.aws
    world.publish("job-1", "call.wav", options={"initial_prompt": "sleep 8"})
    with world.daemon() as daemon:
        world.wait_for("job-1", "job.started")
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: world.queue_depth() == (1, 0), "the lease has expired")
            received = aws.sqs.receive_message(QueueUrl=aws.queue_url, VisibilityTimeout=30)
            (other,) = received["Messages"]
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        wait_for(lambda: any(daemon.log_entries("job finished")), "the delivery has ended")
        (end,) = daemon.log_entries("job finished")
        assert end["outcome"] == "abandoned"
        assert world.queue_depth() == (0, 1), "the other consumer still holds the message"
        aws.sqs.change_message_visibility(
            QueueUrl=aws.queue_url, ReceiptHandle=other["ReceiptHandle"], VisibilityTimeout=0
        )
        world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        assert list(daemon.log_entries("brake engaged")) == []
    assert world.dead_letters() == []


def test_two_daemons_publish_one_result_for_duplicates(world: World) -> None:
    jobs = [f"job-{number}" for number in range(6)]
    for job in jobs * 2:
        world.publish(job, "call.wav", options={"initial_prompt": "sleep 1"})
    with world.daemon("one") as one, world.daemon("two") as two:
        for job in jobs:
            world.wait_for(job, "job.completed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty(2 * PATIENCE_SECONDS)
        for daemon in (one, two):
            assert list(daemon.log_entries("brake engaged")) == []
            assert daemon.stop() == 0
        ends = [end for daemon in (one, two) for end in daemon.log_entries("job finished")]
    published = [end["job_id"] for end in ends if end["reason"] == "published"]
    assert len(published) == len(set(published)), "no job has two results"
    assert all("manifest.json" in world.outputs(job) for job in jobs)
    assert world.dead_letters() == []
