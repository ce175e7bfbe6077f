"""The dead-letter brake with a real daemon: with a broken policy no message is moved, and after the fix all jobs
complete."""

import json
from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate
from tests.support.readiness import readiness

JOBS = [f"job-{number}" for number in range(6)]


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        world.upload("notes.txt", b"nobody spoke " * 100)
        yield world


def engaged(daemon: DaemonProcess, resource: str) -> bool:
    return f'transcriptd_brake_engaged{{queue="jobs",resource="{resource}"}} 1.0' in daemon.get("/metrics").splitlines()


def test_output_bucket_that_denies_access_pauses_receiving_until_it_is_fixed(world: World, gate: Gate) -> None:
    gate.denied["s3:PUT:*"] = "s3:PutObject"
    for job in JOBS:
        world.publish(job, "call.wav")
    with world.daemon(max_jobs_in_flight="1", max_attempts="1") as daemon:
        wait_for(lambda: bool(list(daemon.log_entries("receiving paused"))), "receiving is paused")
        ready, why = readiness(daemon)
        assert not ready
        assert why is not None
        assert why.startswith("the output bucket fails for every job: s3://results/")
        assert "access denied" in why
        assert json.loads(daemon.get("/status.json"))["receiving"]["paused"] == why
        assert engaged(daemon, "output")
        (line,) = daemon.log_entries("brake engaged")
        assert (line["level"], line["reason"], line["failures"]) == ("ERROR", "output", 3)
        ends = [(end["outcome"], end["reason"]) for end in daemon.log_entries("job finished")]
        assert ends == [("retried", "output_refused")] * 3
        assert world.dead_letters() == []
        probes = gate.calls.count("s3:PUT:.transcriptd-probe")
        wait_for(lambda: gate.calls.count("s3:PUT:.transcriptd-probe") > probes, "probed")
        assert len(list(daemon.log_entries("job finished"))) == 3, "nothing was received in that time"

        gate.denied.clear()
        for job in JOBS:
            world.wait_for(job, "job.completed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty()
        assert readiness(daemon) == (True, None)
        assert not engaged(daemon, "output")
        assert len(list(daemon.log_entries("brake released"))) == 1
    assert world.dead_letters() == []
    for job in JOBS:
        assert json.loads(world.outputs(job)["manifest.json"])["attempt"] == 1, "no attempt was used"
    left = world.aws.s3.list_objects_v2(Bucket=world.aws.output_bucket, Prefix="transcripts/.")
    assert left.get("Contents", []) == []


def test_dead_letter_queue_that_denies_access_pauses_receiving_until_it_is_fixed(world: World, gate: Gate) -> None:
    gate.denied["sqs:SendMessage"] = "sqs:sendmessage"
    for job in JOBS[:4]:
        world.publish(job, "notes.txt")
    with world.daemon() as daemon:
        wait_for(lambda: bool(list(daemon.log_entries("receiving paused"))), "receiving is paused")
        ready, why = readiness(daemon)
        assert not ready
        assert why is not None
        assert why.startswith("the dead-letter queue fails for every job: SQS SendMessage failed")
        assert engaged(daemon, "dead_letter_queue")
        gate.denied.clear()
        for job in JOBS[:4]:
            world.wait_for(job, "job.failed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty(2 * PATIENCE_SECONDS)
    letters = {json.loads(letter["body"])["job_id"]: letter["failure"]["code"] for letter in world.dead_letters()}
    assert letters == dict.fromkeys(JOBS[:4], "media_unreadable")


def test_bucket_chosen_by_a_job_does_not_engage_the_brake(world: World, gate: Gate) -> None:
    world.aws.s3.create_bucket(Bucket="theirs")
    gate.denied["s3:PUT:*"] = "s3:PutObject"
    for job in JOBS:
        world.publish(job, "call.wav", output={"bucket": "theirs"})
    with world.daemon(output_buckets="theirs") as daemon:
        for job in JOBS:
            world.wait_for(job, "job.failed")
        world.wait_until_empty()
        assert list(daemon.log_entries("brake engaged")) == []
        assert readiness(daemon) == (True, None)
    assert {letter["failure"]["code"] for letter in world.dead_letters()} == {"access_denied"}


def test_recording_that_s3_refuses_is_no_outage(world: World, gate: Gate) -> None:
    """S3 answers every call, so the log must not say that it is unavailable, and available again, for one object."""
    world.upload("odd.wav", sample_call())
    gate.refused["s3:*:odd.wav"] = (400, "InvalidRequest")
    with world.daemon() as daemon:
        world.publish("odd", "odd.wav")
        for job in JOBS[:3]:
            world.publish(job, "call.wav")
            world.wait_for(job, "job.completed")
        wait_for(
            lambda: any(end["job_id"] == "odd" for end in daemon.log_entries("job finished")),
            "the odd job has an outcome",
        )
        assert list(daemon.log_entries("storage unavailable")) == []


def test_bucket_policy_that_demands_headers_is_met_by_settings(world: World, gate: Gate) -> None:
    """Without the settings the advice names them; with them, everything that the daemon writes has the headers."""
    key = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    gate.demanded = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": key,
        "x-amz-acl": "bucket-owner-full-control",
    }
    world.publish("job-0", "call.wav")
    with world.daemon("without") as daemon:
        wait_for(lambda: bool(list(daemon.log_entries("brake engaged"))), "the brake is engaged")
        (line,) = daemon.log_entries("brake engaged")
        assert "access denied to PutObject (AccessDenied); the role needs s3:PutObject" in line["error"]
        assert "TRANSCRIPTD_OUTPUT_ENCRYPTION" in line["error"]
        assert "s3:GetObject" not in line["error"]
    assert world.dead_letters() == []
    settings = {
        "output_encryption": "aws:kms",
        "output_kms_key_id": key,
        "output_acl": "bucket-owner-full-control",
        "checkpoint_after_seconds": "0",
    }
    with world.daemon("with", **settings) as daemon:
        world.wait_for("job-0", "job.completed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty()
        assert list(daemon.log_entries("brake engaged")) == []
    for name in ("manifest.json", "transcript.json", "transcript.md"):
        head = world.aws.s3.head_object(Bucket=world.aws.output_bucket, Key=f"transcripts/job-0/{name}")
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)
