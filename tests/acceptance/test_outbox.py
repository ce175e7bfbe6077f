"""Final events survive a receiver's outage and a daemon's restart, and the job is unaffected."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook

from bench.waiting import PATIENCE_SECONDS
from bench.world import SECRET, World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.webhooks.receiver import OK, Behaviour, ReceivedEvent, Receiver, threaded_receiver

DOWN = Behaviour(status=503)
QUICK = {"webhook_attempts": "2", "webhook_backoff_min_seconds": "0.1", "webhook_backoff_max_seconds": "0.2"}
PATIENT = {"webhook_attempts": "9", "webhook_backoff_min_seconds": "20", "webhook_backoff_max_seconds": "30"}


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(webhook_hosts="127.0.0.1", outbox_retry_schedule_seconds="2,5,8,15,30,60,600") as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with threaded_receiver(Receiver(default=DOWN)) as receiver:
        yield receiver


def wait_until(
    true: Callable[[], bool], what: str, daemon: DaemonProcess, timeout_seconds: float = PATIENCE_SECONDS
) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not true():
        assert time.monotonic() < deadline, (what, daemon.log_tail())
        time.sleep(0.1)


def outbox_depth(world: World) -> int:
    """Return the number of events: visible, in flight and delayed."""
    names: Any = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    found: Any = world.aws.sqs.get_queue_attributes(QueueUrl=world.aws.outbox_url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def record(world: World) -> dict[str, Any]:
    body = world.outputs("job-1").get("webhook.json")
    return json.loads(body) if body else {}


def finals(receiver: Receiver) -> list[ReceivedEvent]:
    return [seen for seen in list(receiver.events) if seen.event["type"] in ("job.completed", "job.failed")]


def publish_and_wait_for_the_outbox(world: World, receiver: Receiver, daemon: DaemonProcess, key: str) -> None:
    assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
    world.publish("job-1", key, webhook={"url": receiver.url})
    wait_until(lambda: outbox_depth(world) == 1, "the event is in the outbox", daemon)
    world.wait_until_empty()


@pytest.mark.parametrize(
    ("key", "event_type"), [("call.wav", "job.completed"), ("none.wav", "job.failed")], ids=["completed", "failed"]
)
def test_event_survives_its_receivers_outage_and_a_restart(
    world: World, receiver: Receiver, key: str, event_type: str
) -> None:
    with world.daemon("first", **QUICK) as first:
        publish_and_wait_for_the_outbox(world, receiver, first, key)
        assert ("manifest.json" in world.outputs("job-1")) is (event_type == "job.completed"), "the job is unaffected"
        assert len(world.dead_letters()) == (event_type == "job.failed")
        assert first.stop() == 0
    assert record(world) == {}, "the event is still pending"
    tried = len(finals(receiver))
    assert tried >= 2

    receiver.default = OK
    with world.daemon("second", **QUICK) as second:
        wait_until(lambda: bool(record(world)), "the delivery is recorded", second)
        wait_until(lambda: outbox_depth(world) == 0, "the outbox is empty", second)
        metrics = second.get("/metrics")
        assert second.stop() == 0
    seen = finals(receiver)
    assert len(seen) == tried + 1
    assert {one.event["type"] for one in seen} == {event_type}
    assert len({one.headers["webhook-id"] for one in seen}) == 1
    assert len({one.body for one in seen}) == 1
    for one in seen:
        Webhook(SECRET).verify(one.body, one.headers)
    found = record(world)
    assert (found["event_id"], found["type"]) == (seen[-1].headers["webhook-id"], event_type)
    assert (found["result"], found["status"]) == ("delivered", 204)
    assert 'transcriptd_outbox_events_total{result="delivered",sink="webhook"} 1.0' in metrics


def test_daemon_that_stops_between_two_attempts_moves_the_event_to_the_outbox(world: World, receiver: Receiver) -> None:
    with world.daemon("first", **PATIENT) as first:
        assert first.wait_until_ready(PATIENCE_SECONDS), first.log_tail()
        world.publish("job-1", "call.wav", webhook={"url": receiver.url})
        wait_until(lambda: len(finals(receiver)) >= 1, "the first try", first)
        world.wait_until_empty()
        first.process.send_signal(signal.SIGTERM)
        first.process.send_signal(signal.SIGINT)  # a second signal shortens the drain
        assert first.process.wait(PATIENCE_SECONDS) == 0
    assert outbox_depth(world) == 1
    receiver.default = OK
    with world.daemon("second", **PATIENT) as second:
        wait_until(lambda: record(world).get("result") == "delivered", "the delivery is recorded", second)
    assert len({one.headers["webhook-id"] for one in finals(receiver)}) == 1


def test_gone_ends_the_retries(world: World, receiver: Receiver) -> None:
    with world.daemon(**QUICK) as daemon:
        publish_and_wait_for_the_outbox(world, receiver, daemon, "call.wav")
        receiver.default = Behaviour(status=410)
        wait_until(lambda: bool(record(world)), "the end is recorded", daemon)
        wait_until(lambda: outbox_depth(world) == 0, "the outbox is empty", daemon)
    assert (record(world)["result"], record(world)["status"]) == ("gone", 410)


def test_end_of_the_schedule_ends_the_retries_and_a_redelivery_sends_it_again(world: World, receiver: Receiver) -> None:
    with world.daemon(**QUICK, outbox_retry_schedule_seconds="4,8") as daemon:
        publish_and_wait_for_the_outbox(world, receiver, daemon, "call.wav")
        wait_until(lambda: bool(record(world)), "the end is recorded", daemon)
        wait_until(lambda: outbox_depth(world) == 0, "the outbox is empty", daemon)
        assert (record(world)["result"], record(world)["status"]) == ("exhausted", 503)
        assert 'transcriptd_outbox_events_total{result="exhausted",sink="webhook"} 1.0' in daemon.get("/metrics")

        receiver.default = OK
        world.publish("job-1", "call.wav", webhook={"url": receiver.url})
        wait_until(lambda: record(world)["result"] == "delivered", "the event is delivered again", daemon)
        delivered = len(finals(receiver))
        world.publish("job-1", "call.wav", webhook={"url": receiver.url})
        wait_until(lambda: len(list(daemon.log_entries("job finished"))) == 3, "it is recognised", daemon)
        time.sleep(0.5)
        assert len(finals(receiver)) == delivered, "an event recorded as delivered is not sent again"
    assert len({one.headers["webhook-id"] for one in finals(receiver)}) == 1
