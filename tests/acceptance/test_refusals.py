"""Answers of S3 and SQS that no retry cures, on a real daemon: each message ends with a code and an event, or the brake
waits for the deployment to be corrected."""

import json
from collections.abc import Iterator

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate
from tests.support.readiness import readiness

XML, JSON, HTML = "application/xml", "application/x-amz-json-1.0", "text/html"
PAGE = b"<html><head><title>403 Forbidden</title></head><body><center>nginx</center></body></html>"
EXPIRED = json.dumps(
    {
        "__type": "com.amazonaws.sqs#InvalidParameterValueException",
        "message": "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
    }
).encode()


def s3_error(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>refused</Message></Error>".encode()


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        yield world


def deliveries(daemon: DaemonProcess, outcome: str, reason: str) -> float:
    name = f'transcriptd_deliveries_total{{outcome="{outcome}",reason="{reason}"}} '
    return next(float(line.rpartition(" ")[2]) for line in daemon.get("/metrics").splitlines() if line.startswith(name))


def test_permanent_refusals_of_the_input_end_the_job_with_a_code_and_an_event(world: World, gate: Gate) -> None:
    cases = {
        "sse-c": (400, XML, s3_error("InvalidRequest"), "object_refused"),
        "signature": (403, XML, s3_error("SignatureDoesNotMatch"), "object_refused"),
        "unknown": (418, XML, s3_error("CodeOfTheFuture"), "object_refused"),
        "not-implemented": (501, XML, s3_error("NotImplemented"), "object_refused"),
        "page": (403, HTML, PAGE, "access_denied"),
        "empty": (403, XML, b"", "access_denied"),
    }
    for name, (status, kind, body, _) in cases.items():
        gate.answers[f"s3:GET:{name}.wav"] = (status, kind, body)
        world.publish(name, f"{name}.wav")
    with world.daemon() as daemon:
        for name in cases:
            world.wait_for(name, "job.failed")
        world.wait_until_empty()
        assert list(daemon.log_entries("storage unavailable")) == []
        assert list(daemon.log_entries("brake engaged")) == []
    letters = {json.loads(letter["body"])["job_id"]: letter["failure"]["code"] for letter in world.dead_letters()}
    assert letters == {name: code for name, (*_, code) in cases.items()}


def test_store_without_conditional_writes_blames_the_deployment(world: World, gate: Gate) -> None:
    gate.answers["s3:PUT:*"] = (501, XML, s3_error("NotImplemented"))
    world.publish("job-1", "call.wav")
    with world.daemon(brake_after_failures="1") as daemon:
        wait_for(lambda: bool(list(daemon.log_entries("brake engaged"))), "the brake is engaged")
        assert readiness(daemon)[0] is False
        gate.answers.clear()
        world.wait_for("job-1", "job.completed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty()
    assert world.dead_letters() == []


def test_retries_end_with_a_code_and_an_event_before_sqs_redrives_the_message(world: World, gate: Gate) -> None:
    gate.answers["s3:GET:call.wav"] = (503, XML, s3_error("SlowDown"))
    attributes = world.aws.sqs.get_queue_attributes(QueueUrl=world.aws.queue_url, AttributeNames=["RedrivePolicy"])
    policy = json.loads(attributes["Attributes"]["RedrivePolicy"]) | {"maxReceiveCount": 2}
    world.aws.sqs.set_queue_attributes(QueueUrl=world.aws.queue_url, Attributes={"RedrivePolicy": json.dumps(policy)})
    world.publish("job-1", "call.wav")
    with world.daemon() as daemon:
        world.wait_for("job-1", "job.failed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty()
        ends = [end["outcome"] for end in daemon.log_entries("job finished")]
        assert ends == ["retried", "dead_lettered"]
    assert [letter["failure"]["code"] for letter in world.dead_letters()] == ["storage_unavailable"]


def test_missing_dead_letter_queue_stops_receiving_from_the_start(world: World) -> None:
    typo = world.aws.dlq_url + "-typo"
    for number in range(4):
        world.publish(f"bad-{number}", "none.wav")
    with world.daemon(dlq_url=typo) as daemon:
        wait_for(lambda: bool(list(daemon.log_entries("brake engaged"))), "the brake is engaged")
        ready, why = readiness(daemon)
        assert not ready
        assert why is not None
        assert why.startswith("the dead-letter queue fails for every job")
        world.aws.sqs.create_queue(QueueName=typo.rpartition("/")[2])
        for number in range(4):
            world.wait_for(f"bad-{number}", "job.failed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty(2 * PATIENCE_SECONDS)
        wait_for(lambda: readiness(daemon) == (True, None), "the daemon is ready")  # readiness is cached for a while


def test_refused_dead_letter_frees_its_place_and_is_counted_once_it_is_stored(world: World, gate: Gate) -> None:
    gate.denied["sqs:SendMessage"] = "sqs:sendmessage"
    world.publish("job-1", "none.wav")
    with world.daemon() as daemon:
        wait_for(lambda: bool(list(daemon.log_entries("brake engaged"))), "the brake is engaged")
        (end,) = daemon.log_entries("job finished")
        assert not end["settled"]
        assert gate.calls.count("sqs:SendMessage") == 1
        assert deliveries(daemon, "dead_lettered", "object_missing") == 0
        assert deliveries(daemon, "unsettled", "object_missing") == 1
        gate.denied.clear()
        world.wait_for("job-1", "job.failed", 2 * PATIENCE_SECONDS)
        world.wait_until_empty(2 * PATIENCE_SECONDS)
        wait_for(lambda: deliveries(daemon, "dead_lettered", "object_missing") == 1, "the dead letter is counted")
    assert len(world.dead_letters()) == 1


def test_job_finishes_although_its_message_was_purged(world: World) -> None:
    world.publish("job-1", "call.wav", options={"initial_prompt": "sleep 6"})
    with world.daemon() as daemon:
        world.wait_for("job-1", "job.started")
        world.aws.sqs.purge_queue(QueueUrl=world.aws.queue_url)
        world.wait_for("job-1", "job.completed")
        wait_for(lambda: any(daemon.log_entries("job finished")), "the delivery has ended")
        (end,) = daemon.log_entries("job finished")
        assert (end["outcome"], end["settled"]) == ("published", True)
        assert len(list(daemon.log_entries("message gone"))) == 1
        assert list(daemon.log_entries("lease lost")) == []
    assert "manifest.json" in world.outputs("job-1")
    assert world.dead_letters() == []


def test_failure_of_a_job_whose_message_was_purged_is_not_lost(world: World) -> None:
    world.publish("job-1", "call.wav", options={"initial_prompt": "sleep 30"})
    with world.daemon(drain_timeout_seconds="1") as daemon:
        world.wait_for("job-1", "job.started")
        world.aws.sqs.purge_queue(QueueUrl=world.aws.queue_url)
        wait_for(lambda: any(daemon.log_entries("message gone")), "the daemon noticed")
        daemon.stop()
        world.wait_for("job-1", "job.failed")
    assert [letter["failure"]["code"] for letter in world.dead_letters()] == ["message_gone"]


@pytest.mark.parametrize(
    ("prompt", "stops", "code"), [("sleep 60", True, "message_gone"), ("sigkill 2", False, "runner_crashed")]
)
def test_job_is_not_lost_if_its_outcome_call_reveals_the_purge(
    world: World, prompt: str, stops: bool, code: str
) -> None:
    """The heartbeat, which usually notices first, is not due yet."""
    world.publish("job-1", "call.wav", options={"initial_prompt": prompt})
    settings = {"visibility_timeout_seconds": "60", "heartbeat_seconds": "20", "drain_timeout_seconds": "1"}
    with world.daemon(**settings) as daemon:
        world.wait_for("job-1", "job.started")
        world.aws.sqs.purge_queue(QueueUrl=world.aws.queue_url)
        if stops:
            daemon.stop()
        world.wait_for("job-1", "job.failed")
    assert [letter["failure"]["code"] for letter in world.dead_letters()] == [code]


def test_outcome_that_s3_refuses_is_recorded_before_the_job_starts_again(world: World, gate: Gate) -> None:
    """Otherwise the delivery would count as a crash of its job. A second refusal of the record is the deployment's, too."""
    world.publish("job-1", "call.wav", options={"initial_prompt": "sleep 1"})
    with world.daemon(max_crashed_deliveries="1") as daemon:
        world.wait_for("job-1", "job.started")
        gate.answers["s3:PUT:*"] = (403, XML, s3_error("AccessDenied"))
        wait_for(lambda: len(list(daemon.log_entries("job finished"))) == 2, "a second delivery has ended")
        reasons = [end["reason"] for end in daemon.log_entries("job finished")]
        assert reasons == ["output_refused"] * 2
        assert any(daemon.log_entries("outcome not recorded"))
        gate.answers.clear()
        world.wait_for("job-1", "job.completed", 2 * PATIENCE_SECONDS)
    assert world.dead_letters() == []


def test_expired_receipt_handle_is_not_deleted_again_and_the_redelivery_is_recognised(world: World, gate: Gate) -> None:
    gate.answers["sqs:DeleteMessage"] = (400, JSON, EXPIRED)
    world.publish("job-1", "call.wav")
    with world.daemon() as daemon:
        wait_for(lambda: any(daemon.log_entries("job finished")), "the delivery has ended")
        assert gate.calls.count("sqs:DeleteMessage") == 1
        gate.answers.clear()
        world.wait_until_empty()
        wait_for(lambda: len(list(daemon.log_entries("job finished"))) == 2, "the redelivery has ended")
        ends = [(end["reason"], end["settled"]) for end in daemon.log_entries("job finished")]
        assert ends == [("published", False), ("duplicate", True)]
        assert list(daemon.log_entries("brake engaged")) == []
