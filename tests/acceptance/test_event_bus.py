"""Events of real daemons on an event bus: beside webhooks, through an outage of the bus, and after a crash."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import jsonschema

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

BUS = "jobs"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "webhook.schema.json").read_text())
# With a lease of ten seconds, a message that was not deleted reappears soon.
LEASE: dict[str, Any] = {"visibility_timeout_seconds": 10, "heartbeat_seconds": "2"}


class Bus:
    """The event bus with the rule of docs/webhooks.md, whose target is a queue."""

    def __init__(self, world: World, pattern: str) -> None:
        self._sqs: SQSClient = world.aws.sqs
        self._url = self._sqs.create_queue(QueueName="consumer")["QueueUrl"]
        arn = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        events: Any = boto3.client(
            "events",
            endpoint_url=world.aws.endpoint_url,
            region_name=world.aws.region,
            aws_access_key_id="tests",
            aws_secret_access_key="tests",
        )
        events.create_event_bus(Name=BUS)
        events.put_rule(Name="transcripts", EventBusName=BUS, EventPattern=pattern)
        events.put_targets(Rule="transcripts", EventBusName=BUS, Targets=[{"Id": "consumer", "Arn": arn}])
        self._arrived: list[dict[str, Any]] = []

    def about(self, job_id: str) -> list[dict[str, Any]]:
        """Return the events about a job so far, in order of arrival."""
        while messages := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                self._arrived.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return [event for event in self._arrived if event["detail"]["data"]["job_id"] == job_id]

    def wait_for(self, job_id: str, event_type: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            found[:] = [event for event in self.about(job_id) if event["detail-type"] == event_type]
            return bool(found)

        wait_for(arrived, f"{event_type} of {job_id} is on the bus")
        return found[0]


def outbox_depth(world: World) -> int:
    names: Any = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    found: Any = world.aws.sqs.get_queue_attributes(QueueUrl=world.aws.outbox_url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def ended(daemon: DaemonProcess, job_id: str) -> list[dict[str, Any]]:
    return [line for line in daemon.log_entries("job finished") if line["job_id"] == job_id]


def documented_pattern() -> str:
    page = (
        (Path(__file__).parents[2] / "docs" / "webhooks.md")
        .read_text()
        .partition("## Receive events from EventBridge")[2]
    )
    return page.partition("```json\n")[2].partition("```")[0]


def test_events_reach_the_bus_through_an_outage_and_a_crash() -> None:
    with (
        open_world(
            **LEASE,
            event_bus=BUS,
            webhook_attempts="1",
            outbox_retry_schedule_seconds="1,2,4,8,600",
            brake_after_failures="100",
        ) as world,
        Gate(world.aws.endpoint_url) as gate,
    ):
        bus = Bus(world, documented_pattern())
        world.upload("call.wav", sample_call())
        world.settings["AWS_ENDPOINT_URL"] = gate.url
        with world.daemon("first") as daemon:
            assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
            _both_sinks_get_the_same(world, bus)
            _message_stays_until_the_outbox_has_the_event(world, gate, daemon)
            # The daemon is killed after it published the result and told the webhook, but not the bus.
            gate.held = {"events:PutEvents", "sqs:SendMessage"}
            world.publish("killed", "call.wav")
            wait_for(lambda: b'"delivered"' in world.outputs("killed").get("webhook.json", b""), "the webhook is told")
            daemon.process.kill()
            daemon.process.wait()
        gate.held, gate.denied = set(), {}
        assert bus.about("killed") == bus.about("waiting") == []
        with world.daemon("second") as daemon:
            assert bus.wait_for("killed", "job.completed")["detail"]["data"]["attempt"] == 1
            late, first = bus.wait_for("waiting", "job.completed")["detail"], world.wait_for("waiting", "job.completed")
            assert (late["id"], late["data"]) == (first["id"], first["data"]), "stored and read again"
            world.wait_until_empty()
            wait_for(lambda: outbox_depth(world) == 0, "the outbox is empty")
            (line,) = ended(daemon, "killed")
            assert (line["webhook"], line["event_bus"]) == ("known", "delivered")
            assert 'transcriptd_outbox_events_total{result="delivered",sink="event_bus"} 1.0' in daemon.get("/metrics")
            assert daemon.stop() == 0
        assert [seen.event["type"] for seen in world.events("killed")].count("job.completed") == 1


def _both_sinks_get_the_same(world: World, bus: Bus) -> None:
    world.publish("both", "call.wav", metadata={"order": "für dich"})
    world.publish("broken", "none.wav")
    for job_id, final in (("both", "job.completed"), ("broken", "job.failed")):
        event = bus.wait_for(job_id, final)
        assert event["detail"] == world.wait_for(job_id, final)
        jsonschema.validate(event["detail"], SCHEMA)
        assert (event["source"], event["detail-type"]) == ("transcriptd", final)
        done = final == "job.completed"
        assert event["resources"] == (["arn:aws:s3:::results/transcripts/both/manifest.json"] if done else [])
        assert [seen["detail-type"] for seen in bus.about(job_id)] == [final], "the rule selects final events"


def _message_stays_until_the_outbox_has_the_event(world: World, gate: Gate, daemon: DaemonProcess) -> None:
    gate.denied = {call: call for call in ("events:PutEvents", "sqs:SendMessage")}  # the bus, and the outbox
    world.publish("waiting", "call.wav")
    wait_for(lambda: bool(ended(daemon, "waiting")), "a delivery has ended")
    line = ended(daemon, "waiting")[0]
    assert (line["outcome"], line["settled"], line["event_bus"]) == ("published", False, "failed")
    assert world.queue_depth() != (0, 0)
    del gate.denied["sqs:SendMessage"]
    world.wait_until_empty()
    assert ended(daemon, "waiting")[-1]["event_bus"] == "stored"
    assert outbox_depth(world) == 1
    (failing,) = daemon.log_entries("event bus failing")
    assert "events:PutEvents" in failing["error"]
    failures = 'transcriptd_event_attempts_total{event="job.completed",result="failed",sink="event_bus"}'
    assert f"{failures} 1.0" in daemon.get("/metrics")
