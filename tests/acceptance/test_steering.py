"""People follow, list and cancel the jobs of a real daemon: status.json, `watch`, `jobs`, `cancel`, and what is left."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.command_line import run_tool

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(
        status_seconds="0.2", cancel_poll_seconds="0.2", checkpoint_after_seconds="0", webhook_progress_seconds="0.1"
    ) as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        yield daemon


def status_of(world: World, job_id: str) -> dict[str, Any]:
    """Return the status of a job, empty if there is none."""
    body = world.outputs(job_id).get("status.json")
    status: dict[str, Any] = json.loads(body) if body else {}
    if status:
        jsonschema.validate(status, json.loads((DOCS / "status.schema.json").read_text()))
    return status


def wait_for_state(world: World, job_id: str, state: str) -> dict[str, Any]:
    wait_for(lambda: status_of(world, job_id).get("state") == state, f"{job_id} is {state}")
    return status_of(world, job_id)


def tool(world: World, *words: str) -> Any:
    return run_tool(world.aws.environment, *words)


def test_cancelled_job_leaves_nothing_and_disturbs_no_other(world: World, daemon: DaemonProcess) -> None:
    gate = world.folder / "gate"
    world.publish("other", "call.wav", options={"initial_prompt": f"until {gate}"})
    world.publish("unwanted", "call.wav", options={"initial_prompt": "resume 3600"}, metadata={"tenant": 7})
    running = wait_for_state(world, "unwanted", "running")
    assert (running["attempt"], running["error"]) == (1, None)
    assert 0 < running["overall_fraction"] < 1
    world.wait_until_kept("unwanted")

    done = tool(world, "cancel", "unwanted")
    assert done.returncode == 0, done.stderr
    event = world.wait_for("unwanted", "job.cancelled")
    jsonschema.validate(event, json.loads((DOCS / "webhook.schema.json").read_text()))
    assert (event["data"]["error"]["code"], event["data"]["metadata"]) == ("cancelled", {"tenant": 7})
    wait_for(lambda: world.queue_depth() == (0, 1), "the message is deleted")
    wait_for(lambda: set(world.outputs("unwanted")) == {"status.json", "webhook.json"}, "nothing else is left")
    assert status_of(world, "unwanted")["state"] == "cancelled"
    watched = tool(world, "watch", "unwanted")
    assert watched.returncode == 1
    assert "cancelled: job unwanted was cancelled on request" in watched.stderr

    gate.touch()
    world.wait_for("other", "job.completed")
    wait_for_state(world, "other", "completed")
    assert [seen.event["type"] for seen in world.events("other")].count("job.started") == 1
    assert not [letter for letter in world.dead_letters() if "unwanted" in letter["body"]]
    refused = tool(world, "cancel", "other")
    assert refused.returncode == 1
    assert "is finished" in refused.stderr

    world.publish("unwanted", "call.wav")  # wanted after all
    world.wait_for("unwanted", "job.completed")
    assert wait_for_state(world, "unwanted", "completed")["attempt"] == 1
    metrics = daemon.get("/metrics")
    assert 'transcriptd_deliveries_total{outcome="cancelled",reason="cancelled"} 1.0' in metrics
    assert "cancelled" in [line["outcome"] for line in daemon.log_entries("job finished")]


def test_jobs_are_listed_and_a_refused_message_is_among_the_failed(world: World, daemon: DaemonProcess) -> None:
    world.publish("fine", "call.wav")
    world.publish("misspelt", "call.wav", options={"diarise": True})
    wait_for_state(world, "fine", "completed")
    failed = wait_for_state(world, "misspelt", "failed")
    assert (failed["attempt"], failed["error"]["code"]) == (0, "unknown_field")
    listed = [json.loads(line) for line in tool(world, "jobs", "--json").stdout.splitlines()]
    states = {each["job_id"]: each["state"] for each in listed}
    assert (states["fine"], states["misspelt"]) == ("completed", "failed")
    assert listed[0]["updated_at"] >= listed[-1]["updated_at"][:19]
    only = tool(world, "jobs", "--failed", "--limit", "1")
    assert only.returncode == 0, only.stderr
    (_, row) = only.stdout.splitlines()
    assert row.split()[:2] == ["failed", "misspelt"]
    assert "unknown_field" in row
    assert tool(world, "jobs", "--since", "0s").stdout == ""
    watched = tool(world, "watch", "misspelt")
    assert watched.returncode == 1
    assert "failed: unknown_field" in watched.stderr


def test_progress_of_a_job_only_grows(world: World, daemon: DaemonProcess) -> None:
    world.publish("grows", "call.wav", options={"initial_prompt": "resume 1"})
    world.wait_for("grows", "job.completed")
    schema = json.loads((DOCS / "webhook.schema.json").read_text())
    events = [seen.event for seen in world.events("grows")]
    for event in events:
        jsonschema.validate(event, schema)
    fractions = [event["data"]["progress"]["overall_fraction"] for event in events if event["data"]["progress"]]
    assert fractions
    assert fractions == sorted(fractions)
    assert json.loads(world.outputs("grows")["manifest.json"])
    jsonschema.validate(
        json.loads(world.outputs("grows")["manifest.json"]), json.loads((DOCS / "manifest.schema.json").read_text())
    )
