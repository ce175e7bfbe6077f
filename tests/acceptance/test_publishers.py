"""One publisher attacks the daemon or the jobs of another publisher."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import SECRET, World, open_world
from daemon.aws.dead_letter import message_bytes
from daemon.demo.process import DaemonProcess
from daemon.demo.receiver import WebhookReceiver
from daemon.demo.recordings import sample_call

THEIRS = b"an object of another application"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(checkpoint_after_seconds="0", webhook_hosts="*") as world:
        world.upload("call.wav", sample_call())
        world.upload("merger-with-acme.wav", sample_call())
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        yield daemon


def finish(world: World, job_id: str, **fields: Any) -> None:
    world.publish(job_id, "call.wav", **fields)
    world.wait_for(job_id, "job.completed")
    world.wait_until_empty()


def refuse(world: World, job_id: str, key: str = "call.wav", **fields: Any) -> dict[str, Any]:
    """Publish a job that fails; return the error of its event."""
    world.publish(job_id, key, **fields)
    error: dict[str, Any] = world.wait_for(job_id, "job.failed")["data"]["error"]
    world.wait_until_empty()
    return error


def put(world: World, key: str) -> None:
    world.aws.s3.put_object(Bucket=world.aws.output_bucket, Key=key, Body=THEIRS)


def contents(world: World, key: str) -> bytes:
    return world.aws.s3.get_object(Bucket=world.aws.output_bucket, Key=key)["Body"].read()


def peak_bytes(daemon: DaemonProcess) -> int:
    """Return the most memory that the poller has had so far."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


HUGE = 1_000_000  # characters; SQS allows 1 MiB


def test_huge_messages_take_neither_memory_nor_a_lease(world: World, daemon: DaemonProcess) -> None:
    bodies = [
        {"job_id": "huge", "input": {"bucket": "media", "key": "a"}, "options": {"redact": [1] * (HUGE // 3)}},
        {"job_id": "huge", "options": {f"a{number}": 1 for number in range(HUGE // 20)}},
        {"job_id": "huge", "metadata": {"a": "x" * HUGE}},
        {"Records": [{}] * (HUGE // 4)},
        {
            "Type": "Notification",
            "TopicArn": "a",
            "Message": json.dumps({"job_id": "huge", "options": [0] * (HUGE // 4)}),
        },
    ]
    gate = world.folder / "gate"
    world.publish("honest", "call.wav", options={"initial_prompt": f"until {gate}"})
    world.wait_for("honest", "job.started")
    before_bytes = peak_bytes(daemon)
    for body in bodies * 5:
        world.send(json.dumps(body))
    wait_for(lambda: world.queue_depth() == (0, 1), "all of them are settled")
    gate.touch()
    world.wait_for("honest", "job.completed")
    world.wait_until_empty()
    assert peak_bytes(daemon) - before_bytes < 200 * 1024 * 1024
    letters = [letter for letter in world.dead_letters() if '"huge"' in letter["body"]]
    assert [letter["failure"]["code"] for letter in letters] == ["invalid_json"] * 15
    assert not list(daemon.log_entries("lease lost"))


@pytest.mark.parametrize("prefix", ["", "other-application/", "transcripts-2/", "other-application/transcripts/"])
def test_prefix_outside_the_deployments_is_refused(world: World, daemon: DaemonProcess, prefix: str) -> None:
    job_id = "outside-" + prefix.replace("/", "-")
    names = ("transcript.json", "checkpoints/0123456789abcdef/asr.json")
    for name in names:
        put(world, f"{prefix}{job_id}/{name}")
    assert refuse(world, job_id, output={"prefix": prefix})["code"] == "prefix_not_allowed"
    assert [contents(world, f"{prefix}{job_id}/{name}") for name in names] == [THEIRS, THEIRS]


def test_no_job_lies_among_the_checkpoints_of_another(world: World, daemon: DaemonProcess) -> None:
    gate = world.folder / "resumed"
    world.publish("order-1", "call.wav", options={"initial_prompt": f"until {gate}"})
    world.wait_for("order-1", "job.started")
    world.publish("checkpoints", "call.wav", output={"prefix": "transcripts/order-1/"})
    assert world.wait_for("checkpoints", "job.failed")["data"]["error"]["code"] == "prefix_not_allowed"
    assert "checkpoints/deliveries.json" in world.outputs("order-1")
    gate.touch()
    world.wait_for("order-1", "job.completed")
    world.wait_until_empty()


def test_object_of_another_application_is_neither_overwritten_nor_removed(world: World, daemon: DaemonProcess) -> None:
    put(world, "transcripts/occupied-1/transcript.json")
    put(world, "transcripts/occupied-2/checkpoints/notes.txt")
    error = refuse(world, "occupied-1")
    assert error["code"] == "output_occupied"
    assert "transcripts/occupied-1/transcript.json" in error["message"]
    assert contents(world, "transcripts/occupied-1/transcript.json") == THEIRS
    put(world, "transcripts/occupied-2/checkpoints/notes.txt")
    finish(world, "occupied-2", options={"initial_prompt": "resume 0"})
    kept = [name for name in world.outputs("occupied-2") if name.startswith("checkpoints/")]
    assert kept == ["checkpoints/notes.txt"]


def test_conflict_says_nothing_about_the_other_publisher(world: World, daemon: DaemonProcess) -> None:
    world.publish("order-2", "merger-with-acme.wav", metadata={"secret": "planted"})
    world.wait_for("order-2", "job.completed")
    world.wait_until_empty()
    wait_for(lambda: b'"completed"' in world.outputs("order-2").get("status.json", b""), "its status is written")
    before = world.outputs("order-2")
    assert refuse(world, "order-2")["code"] == "job_id_conflict"
    (event,) = (seen.event for seen in world.events("order-2") if seen.event["type"] == "job.failed")
    assert event["data"]["output"] is None
    (letter,) = (letter for letter in world.dead_letters() if "order-2" in letter["body"])
    for text in (json.dumps(event), json.dumps(letter)):
        assert "merger" not in text
        assert "planted" not in text
    assert world.outputs("order-2") == before, "even the record of the final event"


def test_job_id_that_was_taken_with_other_options_is_a_conflict(world: World, daemon: DaemonProcess) -> None:
    finish(world, "order-3", options={"diarize": False})
    assert refuse(world, "order-3")["code"] == "job_id_conflict"
    assert [letter["failure"]["code"] for letter in world.dead_letters() if "order-3" in letter["body"]] == [
        "job_id_conflict"
    ]


def test_each_receiver_gets_the_event_of_the_same_job(world: World, daemon: DaemonProcess) -> None:
    """Whoever takes a job_id first does not take the owner's event with it."""
    seen: list[str] = []
    with WebhookReceiver(SECRET, lambda event: seen.append(event.event["type"])) as other:
        world.publish("order-4", "call.wav", webhook={"url": other.url})
        wait_for(lambda: "job.completed" in seen, "the first receiver has the event")
        world.wait_until_empty()
    assert json.loads(world.outputs("order-4")["webhook.json"])["result"] == "delivered"
    finish(world, "order-4")


def test_forged_outbox_message_is_not_signed_and_sent(world: World, daemon: DaemonProcess) -> None:
    """Who may send to the outbox may not make the deployment sign a payload, nor write to a bucket."""
    body = {
        "version": 1,
        "url": world.receiver.url,
        "event": {
            "id": "msg_forged",
            "at": "2026-01-01T00:00:00Z",
            "job_id": "forged",
            "status": "completed",
            "attempt": 1,
            "output": {"bucket": "media", "prefix": "stolen/"},
        },
        "first_attempt_at": "2026-01-01T00:00:00Z",
        "not_before": "2026-01-01T00:00:00Z",
    }
    world.aws.sqs.send_message(QueueUrl=world.aws.outbox_url, MessageBody=json.dumps(body))
    wait_for(lambda: any(daemon.log_entries("outbox message not trusted")), "the message is read")
    assert world.events("forged") == []
    assert "Contents" not in world.aws.s3.list_objects_v2(Bucket="media", Prefix="stolen/")


@pytest.mark.parametrize("limit_bytes", [1024 * 1024, 256 * 1024], ids=["the newer limit", "the older limit"])
def test_longest_message_is_dead_lettered_with_its_reason(
    world: World, daemon: DaemonProcess, limit_bytes: int
) -> None:
    """The reason does not fit next to such a body, and a dead-letter queue may have the older limit of SQS."""
    limit: Any = {"MaximumMessageSize": str(limit_bytes)}
    world.aws.sqs.set_queue_attributes(QueueUrl=world.aws.dlq_url, Attributes=limit)
    try:
        world.send("longest" + "ü" * (1024 * 512 - 4))
        world.wait_until_empty()
    finally:
        world.aws.sqs.set_queue_attributes(
            QueueUrl=world.aws.dlq_url, Attributes={"MaximumMessageSize": str(1024 * 1024)}
        )
    (letter,) = (letter for letter in world.dead_letters() if letter["body"].startswith("longest"))
    assert letter["failure"]["code"] == "invalid_json"
    assert letter["failure"]["body_bytes"] == 1024 * 1024 - 1
    assert message_bytes(letter["body"], letter["attributes"]) <= limit_bytes
    assert json.loads(daemon.get("/readyz"))["checks"]["brake"]["ok"]
