"""`transcriptd webhook`: test events and the events of ended jobs reach a receiver that verifies them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bench.world import SECRET, World, open_world
from daemon.demo.recordings import sample_call
from tests.support.command_line import run_tool


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A world with a completed, a failed and a refused job."""
    with open_world(retry_base_seconds="0.1", max_attempts="1", instance_price_per_hour="3600") as world:
        world.upload("call.wav", sample_call())
        with world.daemon():
            world.publish("good", "call.wav", metadata={"order": 7})
            world.publish("bad", "none.wav")
            world.publish("refused", "call.wav", options={"modle": "x"}, metadata={"order": 8})
            world.wait_for("good", "job.completed")
            world.wait_for("bad", "job.failed")
            world.wait_for("refused", "job.failed")
            world.wait_until_empty()
        yield world


def webhook(world: World, *words: str, **variables: str) -> Any:
    ours = {"WEBHOOK_URL": world.receiver.url, "WEBHOOK_SECRET": SECRET, "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP": "true"}
    return run_tool({**world.aws.environment, **ours, **variables}, "webhook", *words)


def test_test_event_is_signed_and_says_what_it_is(world: World) -> None:
    done = webhook(world, "send")
    assert (done.returncode, "HTTP 204" in done.stdout) == (0, True), done.stdout + done.stderr
    event = world.wait_for(None, "job.test")
    assert event["data"]["metadata"] == {"sent_by": "transcriptd webhook send"}


def test_wrong_secret_and_unreachable_receiver_are_reported(world: World) -> None:
    other = "whsec_" + "A" * 40
    wrong = webhook(world, "send", WEBHOOK_SECRET=other)
    assert wrong.returncode == 1
    assert "HTTP 401" in wrong.stdout
    nobody = webhook(world, "send", "--url", "http://127.0.0.1:9/")
    assert nobody.returncode == 1
    assert "cannot connect to 127.0.0.1:9" in nobody.stdout
    missing = webhook(world, "send", WEBHOOK_SECRET="")
    assert (missing.returncode, "WEBHOOK_SECRET" in missing.stderr) == (2, True)


def test_events_of_ended_jobs_are_sent_again_with_their_ids(world: World) -> None:
    done = webhook(world, "resend", "--since", "1d")
    assert done.returncode == 0, done.stdout + done.stderr
    for job_id, kind in (("good", "job.completed"), ("bad", "job.failed"), ("refused", "job.failed")):
        first, *again = [seen for seen in world.events(job_id) if seen.event["type"] == kind]
        assert again, job_id
        assert {each.id for each in again} == {first.id}, job_id
    first, again = (seen.event["data"] for seen in world.events("good") if seen.event["type"] == "job.completed")
    assert {**again, "input": None, "attempt": 0} == {**first, "input": None, "attempt": 0}
    assert again["input"]["key"] == first["input"]["key"]

    known = webhook(world, "resend", "--since", "1d", "--undelivered")
    assert (known.returncode, "good" in known.stdout) == (0, False)
    unfinished = webhook(world, "resend", "never-sent")
    assert (unfinished.returncode, "has not ended" in unfinished.stderr) == (1, True)


def test_usage_is_in_the_manifest_and_the_event(world: World) -> None:
    stored = world.outputs("good")
    manifest = json.loads(stored["manifest.json"])
    usage = manifest["usage"]
    assert usage["audio_seconds"] == manifest["duration_seconds"] > 0
    assert usage["device_seconds"] == {stage: manifest["timings_seconds"][stage] for stage in usage["device_seconds"]}
    assert {"vad", "asr"} <= usage["device_seconds"].keys() <= {"vad", "asr", "align", "diarize"}
    assert usage["input_bytes"] == sample_call().stat().st_size
    assert usage["output_bytes"] == sum(map(len, (stored["transcript.json"], stored["transcript.md"])))
    assert usage["price"] == pytest.approx(sum(usage["device_seconds"].values()), abs=0.01), "one device, 3600 per hour"
    assert world.wait_for("good", "job.completed")["data"]["usage"] == usage
    assert world.wait_for("bad", "job.failed")["data"]["usage"] is None


def test_event_of_a_refused_message_has_what_could_be_read(world: World) -> None:
    data = world.events("refused")[0].event["data"]
    assert (data["input"]["key"], data["metadata"]) == ("call.wav", {"order": 8})
    assert data["output"]["prefix"] == "transcripts/refused/"
    assert "webhook.json" not in world.outputs("refused"), "the place may be another job's"
