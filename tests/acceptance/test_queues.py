"""Several queues: a backlog of one delays no job of a more urgent one, and each message stays with its queue."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.support.command_line import run_tool
from tests.support.monitoring.samples import scraped

Queues = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(max_jobs_in_flight="3", retry_base_seconds="0.1", checkpoint_after_seconds="0") as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture(scope="module")
def queues(world: World) -> Queues:
    return world.add_queues("interactive", "batch")


def publish(world: World, queues: Queues, queue: str, job_id: str, key: str = "call.wav", prompt: str = "") -> None:
    job = {"job_id": job_id, "input": {"bucket": "media", "key": key}, "options": {"initial_prompt": prompt or None}}
    world.aws.sqs.send_message(QueueUrl=queues[queue][0], MessageBody=json.dumps(job))


def counts(world: World, url: str) -> tuple[int, int]:
    """Return the numbers of visible and in-flight messages."""
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found: Any = world.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return int(found[names[0]]), int(found[names[1]])


def manifest_of(world: World, job_id: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(world.outputs(job_id)["manifest.json"])
    return manifest


def variables(world: World) -> dict[str, str]:
    return {**world.aws.environment, **world.settings}


@pytest.mark.parametrize("weights", ["", "interactive=3 batch=1"], ids=["strict", "weighted"])
def test_interactive_jobs_overtake_a_backlog_on_two_daemons(world: World, queues: Queues, weights: str) -> None:
    kind, gate = "weighted" if weights else "strict", world.folder / f"gate-{bool(weights)}"
    backlog = [f"batch-{kind}-{number}" for number in range(8)]
    urgent = [f"urgent-{kind}-{number}" for number in range(4)]
    for job_id in backlog:
        publish(world, queues, "batch", job_id, prompt=f"until {gate}")
    with (
        world.daemon("first", queue_weights=weights, worker_id="first") as first,
        world.daemon(
            "second", queue_weights=weights, worker_id="second", scratch_dir=str(world.folder / "2")
        ) as second,
    ):
        for daemon in (first, second):
            assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        wait_for(lambda: counts(world, queues["batch"][0]) == (4, 4), "the backlog fills the places left to it")
        for job_id in urgent:
            publish(world, queues, "interactive", job_id)
        for job_id in urgent:
            world.wait_for(job_id, "job.completed")
        assert counts(world, queues["batch"][0]) == (4, 4), "no batch job was interrupted"
        held = scraped(first.get("/metrics"))
        assert held['transcriptd_jobs_in_flight{queue="batch"}'] == 2
        gate.touch()
        for job_id in backlog:
            world.wait_for(job_id, "job.completed")
        for url, _ in queues.values():
            wait_for(lambda url=url: counts(world, url) == (0, 0), "the queues are empty")  # type: ignore[misc]
    ended = [entry for daemon in (first, second) for entry in daemon.log_entries("job finished")]
    assert sorted(entry["job_id"] for entry in ended) == sorted([*backlog, *urgent]), "each job ran once"
    assert {entry["queue"] for entry in ended if entry["job_id"] in urgent} == {"interactive"}
    assert [manifest_of(world, job_id)["queue"] for job_id in (backlog[0], urgent[0])] == ["batch", "interactive"]


def test_dead_letters_and_redrives_stay_with_their_queue(world: World, queues: Queues) -> None:
    publish(world, queues, "batch", "lost-1", key="later.wav")
    with world.daemon("third") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        world.wait_for("lost-1", "job.failed")
        wait_for(lambda: counts(world, queues["batch"][1]) == (1, 0), "the dead letter is in the queue of its queue")
        assert counts(world, queues["interactive"][1]) == (0, 0)

        ambiguous = run_tool(variables(world), "dlq", "list")
        assert ambiguous.returncode == 2
        assert "pass --queue with one of interactive, batch" in ambiguous.stderr
        unknown = run_tool(variables(world), "dlq", "list", "--queue", "other")
        assert unknown.returncode == 2
        assert "no queue other" in unknown.stderr
        listed = run_tool(variables(world), "dlq", "list", "--queue", "batch", "--json")
        assert json.loads(listed.stdout)["job_id"] == "lost-1", listed.stderr
        shown = run_tool(variables(world), "dlq", "show", "lost-1", "--queue", "batch")
        assert "queue        batch" in shown.stdout, shown.stderr

        world.upload("later.wav", sample_call())
        redriven = run_tool(variables(world), "dlq", "redrive", "lost-1", "--queue", "batch")
        assert redriven.returncode == 0, redriven.stderr
        world.wait_for("lost-1", "job.completed")
        assert manifest_of(world, "lost-1")["queue"] == "batch"

        submitted = run_tool(
            variables(world), "submit", "s3://media/call.wav", "--queue", "interactive", "--job-id", "by-hand"
        )
        assert submitted.returncode == 0, submitted.stderr
        world.wait_for("by-hand", "job.completed")
        assert json.loads(world.outputs("by-hand")["status.json"])["queue"] == "interactive"

        ready = json.loads(daemon.get("/readyz"))["checks"]
        assert {"sqs_interactive", "sqs_batch", "dead_letter_queue_interactive", "dead_letter_queue_batch"} <= set(
            ready
        )
        page = daemon.get("/")
        assert "Queue interactive" in page
    found = run_tool(variables(world), "check", "--only", "queue", "redrive", "dead-letters", "--json")
    texts = [each["found"] for each in json.loads(found.stdout)["checks"]]
    for url in (url for pair in queues.values() for url in pair):
        assert any(text.startswith(f"{url}: about") for text in texts), texts
