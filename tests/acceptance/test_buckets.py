"""Buckets that are not as the daemon expects: the requester pays, or there is no such bucket."""

from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate
from tests.support.readiness import readiness


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        yield world


def test_requester_pays_bucket_needs_the_setting_that_the_error_names(world: World) -> None:
    with Gate(world.aws.endpoint_url) as gate:
        gate.payers_only.add(world.aws.input_bucket)
        world.settings["AWS_ENDPOINT_URL"] = gate.url
        world.publish("refused", "call.wav")
        with world.daemon() as daemon:
            world.wait_for("refused", "job.failed")
            world.wait_until_empty()
            assert list(daemon.log_entries("brake engaged")) == []
        (letter,) = world.dead_letters()
        assert letter["failure"]["code"] == "access_denied"
        assert "set TRANSCRIPTD_REQUESTER_PAYS=true" in letter["failure"]["message"]
        world.publish("paid", "call.wav")
        with world.daemon(requester_pays="true") as daemon:
            world.wait_for("paid", "job.completed")
            world.wait_until_empty()
            proved = 'transcriptd_downloads_proved_total{checksum="none"} 1.0'
            assert proved not in daemon.get("/metrics"), "the call for the checksum is paid too"
    assert world.dead_letters() == []


def test_missing_output_bucket_pauses_receiving_until_it_is_created(world: World) -> None:
    jobs = [f"job-{number}" for number in range(6)]
    for job in jobs:
        world.publish(job, "call.wav")
    with world.daemon(output_bucket="typo", max_attempts="1") as daemon:
        wait_for(lambda: any(daemon.log_entries("brake engaged")), "the brake is engaged")
        ready, why = readiness(daemon)
        assert not ready
        assert why is not None
        assert why.startswith("the output bucket fails for every job: s3://typo")
        assert "the bucket does not exist (404); create it or correct its name" in why
        assert world.dead_letters() == []
        world.aws.create_bucket("typo")
        for job in jobs:
            world.wait_for(job, "job.completed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty()
    assert world.dead_letters() == []


def test_output_bucket_that_is_deleted_while_the_daemon_runs_loses_no_job(world: World) -> None:
    s3, bucket = world.aws.s3, world.aws.output_bucket
    with world.daemon(max_attempts="1", brake_after_failures="1") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        world.publish("during", "call.wav", options={"initial_prompt": "sleep 1"})
        world.wait_for("during", "job.started")
        for item in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"])
        s3.delete_bucket(Bucket=bucket)
        wait_for(lambda: any(daemon.log_entries("brake engaged")), "the brake is engaged")
        world.publish("waiting", "call.wav")
        world.aws.create_bucket(bucket)
        for job in ("during", "waiting"):
            world.wait_for(job, "job.completed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty()
    assert world.dead_letters() == []


def test_missing_bucket_that_a_job_names_is_the_fault_of_the_job(world: World) -> None:
    world.publish("job-1", "call.wav", output={"bucket": "nowhere"})
    with world.daemon(output_buckets="nowhere") as daemon:
        world.wait_for("job-1", "job.failed")
        world.wait_until_empty()
        assert list(daemon.log_entries("brake engaged")) == []
        assert readiness(daemon) == (True, None)
    (letter,) = world.dead_letters()
    assert "s3://nowhere" in letter["failure"]["message"]
    assert "the bucket does not exist" in letter["failure"]["message"]
