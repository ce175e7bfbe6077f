"""A message is deleted only after its outcome was stored: a real daemon in front of an AWS that denies calls."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate
from tests.support.webhooks.receiver import OK, Behaviour, Receiver, threaded_receiver

# With a lease of ten seconds, a message that was not deleted reappears soon.
LEASE = {"visibility_timeout_seconds": 10, "heartbeat_seconds": "2"}
# While the daemon decides the outcome of the message, a failing receiver is either still being retried, or already
# given up.
QUICK = {"webhook_attempts": "1"}
PATIENT = {"webhook_attempts": "9", "webhook_backoff_min_seconds": "20", "webhook_backoff_max_seconds": "30"}


@dataclass
class Site:
    world: World
    gate: Gate
    daemon: DaemonProcess
    receiver: Receiver

    def publish(self, job_id: str, key: str) -> None:
        self.world.publish(job_id, key, webhook={"url": self.receiver.url})

    def wait_until_unsettled(self) -> None:
        """Wait until the first delivery has ended without an outcome."""
        wait_for(lambda: any(self.daemon.log_entries("job finished")), "a delivery has ended")
        assert not next(iter(self.daemon.log_entries("job finished")))["settled"]


@pytest.fixture(params=[QUICK, PATIENT], ids=["quick", "patient"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with (
        open_world(**LEASE, **request.param, webhook_hosts="127.0.0.1", outbox_retry_schedule_seconds="1,600") as world,  # type: ignore[arg-type]
        Gate(world.aws.endpoint_url) as gate,
        threaded_receiver(Receiver()) as receiver,
    ):
        world.upload("call.wav", sample_call())
        world.settings["AWS_ENDPOINT_URL"] = gate.url
        with world.daemon() as daemon:
            assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
            yield Site(world, gate, daemon, receiver)


def test_message_stays_while_its_event_is_neither_delivered_nor_stored(site: Site) -> None:
    site.receiver.default = Behaviour(status=503)
    site.gate.denied["sqs:SendMessage"] = "sqs:SendMessage"  # the outbox accepts nothing
    site.publish("job-1", "call.wav")
    site.wait_until_unsettled()
    assert "sqs:DeleteMessage" not in site.gate.calls
    assert "manifest.json" in site.world.outputs("job-1")
    site.receiver.default = OK
    site.gate.denied.clear()
    site.world.wait_until_empty()
    wait_for(lambda: b'"delivered"' in site.world.outputs("job-1").get("webhook.json", b""), "the event is delivered")


def test_failure_event_is_sent_only_once_the_dead_letter_is_stored(site: Site) -> None:
    site.gate.denied["sqs:SendMessage"] = "sqs:SendMessage"  # the dead-letter queue accepts nothing
    site.publish("job-1", "none.wav")
    site.wait_until_unsettled()
    assert "job.failed" not in site.receiver.types
    assert "sqs:DeleteMessage" not in site.gate.calls
    site.gate.denied.clear()
    site.world.wait_until_empty()
    assert site.receiver.types.count("job.failed") == 1
    assert [letter["failure"]["code"] for letter in site.world.dead_letters()] == ["object_missing"]
