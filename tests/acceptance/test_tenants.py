"""Tenants: the message group is kept wherever a job goes, and one tenant's jobs leave a place for another's."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.waiting import wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.command_line import run_tool

STRANGE = 'gl"obex\\{}'  # allowed by SQS


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(
        max_jobs_per_tenant="1",
        metrics_tenants="acme,initech",
        max_attempts="1",
        webhook_attempts="1",
        webhook_hosts="127.0.0.1",
    ) as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    with world.daemon() as daemon:
        yield daemon


def line(daemon: DaemonProcess, event: str, job_id: str) -> dict[str, Any]:
    """Return the first such log line about the job, once it is there."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [each for each in daemon.log_entries(event) if each.get("job_id") == job_id]
        return bool(found)

    wait_for(is_there, f"{event} of {job_id}")
    return found[0]


def stored(world: World, job_id: str, name: str, state: str = "completed") -> dict[str, Any]:
    """Return a JSON object of the job, once it is there and, if it has a state, in this one."""
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(json.loads(world.outputs(job_id).get(name, b"{}")))
        return bool(found) and found.get("state", state) == state

    wait_for(is_there, f"{name} of {job_id}")
    return found


def count(daemon: DaemonProcess, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(daemon.get("/metrics"))
    samples = (each for family in families for each in family.samples if each.name == f"transcriptd_tenant_{name}")
    return sum(each.value for each in samples if labels.items() <= each.labels.items())


def test_tenant_is_in_everything_that_describes_the_job(world: World, daemon: DaemonProcess) -> None:
    world.publish("initech-job", "call.wav", tenant="initech")
    assert world.wait_for("initech-job", "job.started")["data"]["tenant"] == "initech"
    assert world.wait_for("initech-job", "job.completed")["data"]["tenant"] == "initech"
    manifest = stored(world, "initech-job", "manifest.json")
    assert manifest["tenant"] == "initech"
    assert stored(world, "initech-job", "status.json")["tenant"] == "initech"
    for event in ("job started", "job finished"):
        assert line(daemon, event, "initech-job")["tenant"] == "initech"
    wait_for(lambda: count(daemon, "deliveries_total", tenant="initech", outcome="published") == 1, "counted")
    assert count(daemon, "audio_seconds_total", tenant="initech") == manifest["usage"]["audio_seconds"]
    used_seconds = sum(manifest["usage"]["device_seconds"].values())
    assert count(daemon, "device_seconds_total", tenant="initech") == pytest.approx(used_seconds)
    assert count(daemon, "queue_wait_seconds_count", tenant="initech") == 1
    wait_for(lambda: count(daemon, "jobs_in_flight", tenant="initech") == 0, "not in flight")


@pytest.mark.parametrize("group_id", [None, "two words", "línea"])
def test_message_without_a_valid_group_has_no_tenant(world: World, daemon: DaemonProcess, group_id: str | None) -> None:
    """SQS accepts only printable ASCII; the one here accepts anything."""
    job_id = f"none-{uuid.uuid4().hex[:8]}"
    world.publish(job_id, "call.wav", tenant=group_id)
    assert world.wait_for(job_id, "job.completed")["data"]["tenant"] is None
    assert stored(world, job_id, "manifest.json")["tenant"] is None
    assert stored(world, job_id, "status.json")["tenant"] is None
    assert "tenant" not in line(daemon, "job finished", job_id)


def test_tenant_is_kept_on_the_dead_letter_and_on_its_redrive(world: World, daemon: DaemonProcess) -> None:
    world.publish("strange-job", "call.wav", tenant=STRANGE, options={"initial_prompt": "raise"})
    assert world.wait_for("strange-job", "job.failed")["data"]["tenant"] == STRANGE
    assert stored(world, "strange-job", "status.json", "failed")["tenant"] == STRANGE
    world.send("no JSON", tenant=STRANGE)
    assert world.wait_for(None, "job.failed")["data"]["tenant"] == STRANGE

    def dlq(*words: str) -> Any:
        done = run_tool(world.aws.environment, "dlq", *words)
        assert done.returncode == 0, done.stderr
        return done

    wait_for(lambda: count(daemon, "deliveries_total", tenant="other", outcome="dead_lettered") == 2, "two letters")
    (letter,) = map(json.loads, dlq("list", "--job", "strange-job", "--json").stdout.splitlines())
    assert letter["tenant"] == STRANGE
    assert dlq("list", "--tenant", "acme", "--json").stdout == ""
    assert f"tenant       {STRANGE}\n" in dlq("show", "strange-job").stdout
    edit = ("--set", "options.initial_prompt=null")
    assert "strange-job" in dlq("redrive", "strange-job", *edit).stdout
    assert world.wait_for("strange-job", "job.completed")["data"]["tenant"] == STRANGE
    dlq("purge", "--tenant", STRANGE, "--yes")
    assert world.dead_letters() == []


def test_event_waits_in_the_outbox_in_the_group_of_its_tenant(world: World, daemon: DaemonProcess) -> None:
    """So that the events of one tenant, whose receiver is down, do not delay the others'."""
    aws = world.aws
    world.publish("undelivered", "call.wav", tenant="acme", webhook={"url": "http://127.0.0.1:9/none"})
    assert line(daemon, "job finished", "undelivered")["webhook"] == "stored"
    found: list[Any] = []

    def is_there() -> bool:
        names: Any = ["MessageGroupId"]
        received = aws.sqs.receive_message(QueueUrl=aws.outbox_url, MessageSystemAttributeNames=names)
        found.extend(received.get("Messages", []))
        return bool(found)

    wait_for(is_there, "the event is in the outbox")
    assert found[0]["Attributes"]["MessageGroupId"] == "acme"
    aws.sqs.delete_message(QueueUrl=aws.outbox_url, ReceiptHandle=found[0]["ReceiptHandle"])


def test_submit_sends_for_a_tenant(world: World, daemon: DaemonProcess) -> None:
    call = ("submit", f"s3://{world.aws.input_bucket}/call.wav", "--job-id", "submitted", "--tenant")
    refused = run_tool(world.aws.environment, *call, "two words")
    assert refused.returncode == 2
    assert "--tenant 'two words' is not a message group ID" in refused.stderr
    done = run_tool(world.aws.environment, *call, "globex")
    assert done.returncode == 0, done.stderr
    assert world.wait_for("submitted", "job.completed")["data"]["tenant"] == "globex"


def test_tenant_at_its_limit_leaves_a_place_and_loses_no_attempt(world: World, daemon: DaemonProcess) -> None:
    gate = world.folder / "gate"
    world.publish("slow-0", "call.wav", tenant="acme", options={"initial_prompt": f"until {gate}"})
    world.wait_for("slow-0", "job.started")
    for number in (1, 2):
        world.publish(f"slow-{number}", "call.wav", tenant="acme")
    wait_for(lambda: count(daemon, "messages_returned_total", tenant="acme") >= 2, "both have been returned")
    assert count(daemon, "jobs_in_flight", tenant="acme") == 1
    world.publish("quick", "call.wav", tenant="globex")
    world.wait_for("quick", "job.completed")
    assert [len(world.events(f"slow-{number}")) for number in (1, 2)] == [0, 0]
    assert [entry["tenant"] for entry in daemon.log_entries("tenant at its limit")] == ["acme"]
    gate.touch()
    for number in (1, 2):
        world.wait_for(f"slow-{number}", "job.completed")
        end = line(daemon, "job finished", f"slow-{number}")
        assert end["attempt"] == 1
        assert end["receive_count"] > 1
    world.wait_until_empty()
    assert world.dead_letters() == []
