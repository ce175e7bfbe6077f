"""A finished job of a real daemon gets more formats, other speakers and redactions, without a new transcription."""

import hashlib
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
from tests.support.monitoring.samples import scraped

DOCS = Path(__file__).parents[2] / "docs"
SPOKEN = {"initial_prompt": "say write to jane@example.com today or call me then"}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        yield daemon


def complete(world: World, job_id: str, **fields: Any) -> dict[str, Any]:
    """Run a job and return its event."""
    world.publish(job_id, "call.wav", **fields)
    event = world.wait_for(job_id, "job.completed")
    world.wait_until_empty()
    return event


def fail(world: World, job_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run a job that fails and return its error."""
    before = len(failures(world, job_id))
    world.send(json.dumps({"job_id": job_id, **body}))
    wait_for(lambda: len(failures(world, job_id)) > before, f"{job_id} failed")
    world.wait_until_empty()
    world.dead_letters()
    event = failures(world, job_id)[-1]
    jsonschema.validate(event, json.loads((DOCS / "webhook.schema.json").read_text()))
    error: dict[str, Any] = event["data"]["error"]
    return error


def failures(world: World, job_id: str) -> list[dict[str, Any]]:
    return [seen.event for seen in world.events(job_id) if seen.event["type"] == "job.failed"]


def completions(world: World, job_id: str) -> list[Any]:
    return [seen for seen in world.events(job_id) if seen.event["type"] == "job.completed"]


def checked_manifest(world: World, job_id: str) -> dict[str, Any]:
    """Return the manifest. Every file that it names is there, with its digest."""
    outputs = world.outputs(job_id)
    manifest: dict[str, Any] = json.loads(outputs["manifest.json"])
    jsonschema.validate(manifest, json.loads((DOCS / "manifest.schema.json").read_text()))
    for output in manifest["outputs"]:
        assert hashlib.sha256(outputs[name_of(output)]).hexdigest() == output["sha256"]
    assert not [name for name in outputs if name.startswith("checkpoints/")]
    return manifest


def with_address(outputs: dict[str, bytes]) -> list[str]:
    """Return the transcripts that have the spoken address. (The manifest has it as well, because the job's prompt has.)"""
    return [name for name, body in outputs.items() if b"jane@" in body and name.startswith("transcript")]


def name_of(output: dict[str, Any]) -> str:
    return str(output["key"]).rpartition("/")[2]


def names(manifest: dict[str, Any]) -> dict[str, str]:
    return {output["format"]: name_of(output) for output in manifest["outputs"]}


def words_of(world: World, job_id: str) -> list[tuple[Any, ...]]:
    transcript = json.loads(world.outputs(job_id)["transcript.json"])
    return [
        (word["word"], word["start"], word["end"]) for segment in transcript["segments"] for word in segment["words"]
    ]


def test_job_gets_more_formats_when_it_is_sent_again(world: World, daemon: DaemonProcess) -> None:
    first = complete(world, "more", options={**SPOKEN, "redact": ["email"], "formats": ["json", "md"]})
    published = world.outputs("more")
    stages = scraped(daemon.get("/metrics"))['transcriptd_stage_duration_seconds_count{stage="asr"}']

    wanted = {**SPOKEN, "redact": ["email"], "formats": ["json", "srt", "html"], "audio_url": "../call.wav"}
    for _ in range(2):  # a repetition of the message changes nothing
        world.publish("more", "call.wav", options=wanted, metadata={"again": True})
        wait_for(lambda: len(completions(world, "more")) >= 2, "job.completed of the added files")
        world.wait_until_empty()
    again = completions(world, "more")
    assert len(again) == 2, "the receiver has the event of the added files, so it is not sent again"
    assert again[1].id != again[0].id, "a receiver must not take it for a duplicate"
    files = again[1].event["data"]["output"]["files"]
    assert {name: key.rpartition("/")[2] for name, key in files.items()} == {
        **{"json": "transcript.json", "md": "transcript.md"},
        **{"srt": "transcript.srt", "html": "transcript.html"},
    }
    assert again[1].event["data"]["metadata"] == {"again": True}
    manifest = checked_manifest(world, "more")
    outputs = world.outputs("more")
    assert names(manifest) == {name: key.rpartition("/")[2] for name, key in files.items()}
    assert [each["formats"] for each in manifest["renderings"]] == [["srt", "html"]]
    assert {name: outputs[name] for name in ("transcript.json", "transcript.md")} == {
        name: published[name] for name in ("transcript.json", "transcript.md")
    }
    assert b"[EMAIL]" in outputs["transcript.srt"]
    assert not with_address(outputs), "a later file undoes no redaction"
    assert json.loads(outputs["status.json"])["state"] == "completed"
    assert first["data"]["usage"]["device_seconds"] == manifest["usage"]["device_seconds"]
    metrics = scraped(daemon.get("/metrics"))
    assert metrics['transcriptd_stage_duration_seconds_count{stage="asr"}'] == stages, "no runner worked"
    assert metrics['transcriptd_late_outputs_total{format="srt"}'] == 1
    assert metrics['transcriptd_deliveries_total{outcome="published",reason="rendered"}'] == 1

    # Other subtitles get a new name: what the manifest of a moment ago names stays as it is.
    world.publish("more", "call.wav", options={**wanted, "subtitles": {"speaker_labels": False}})
    wait_for(lambda: len(completions(world, "more")) == 3, "job.completed of the other subtitles")
    world.wait_until_empty()
    manifest = checked_manifest(world, "more")
    other = names(manifest)["srt"]
    assert other != "transcript.srt"
    now = world.outputs("more")
    assert now["transcript.srt"] == outputs["transcript.srt"]
    assert b"SPEAKER_00" in now["transcript.srt"]
    assert b"SPEAKER_00" not in now[other]
    assert names(manifest)["html"] == "transcript.html"
    assert world.dead_letters() == []

    error = fail(world, "more", {"input": {"bucket": "media", "key": "call.wav"}, "options": {"formats": ["tsv"]}})
    assert error["code"] == "job_id_conflict", "the redaction is another"
    assert "transcript.tsv" not in world.outputs("more")


def test_transcript_that_is_not_there_or_not_the_same_is_not_rendered(world: World, daemon: DaemonProcess) -> None:
    source = {"input": {"bucket": "media", "key": "call.wav"}}
    complete(world, "no-json", options={"formats": ["txt"]})
    error = fail(world, "no-json", {**source, "options": {"formats": ["txt", "srt"]}})
    assert error["code"] == "transcript_unavailable"
    assert "has no transcript.json" in error["message"]
    assert json.loads(world.outputs("no-json")["webhook.json"])["type"] == "job.completed", (
        "the result keeps its record"
    )
    assert json.loads(world.outputs("no-json")["status.json"])["state"] == "completed"
    left = {"manifest.json", "status.json", "transcript.txt", "webhook.json"}
    wait_for(lambda: set(world.outputs("no-json")) == left, "nothing else is left")

    complete(world, "altered", options={"formats": ["json"]})
    key = "transcripts/altered/transcript.json"
    body = world.outputs("altered")["transcript.json"]
    for content, problem in (
        (body.replace(b"hello", b"howdy"), "is not the file that the manifest describes"),
        (body + b" " * 1000, "is larger than"),
        (None, "was removed"),
    ):
        if content is None:
            world.aws.s3.delete_object(Bucket="results", Key=key)
        else:
            world.aws.s3.put_object(Bucket="results", Key=key, Body=content)
        error = fail(world, "altered", {**source, "options": {"formats": ["srt"]}})
        assert (error["code"], problem in error["message"]) == ("transcript_unavailable", True), error
    assert "transcript.srt" not in world.outputs("altered")


def test_job_is_rendered_from_the_command_line(world: World, daemon: DaemonProcess, tmp_path: Path) -> None:
    complete(world, "tool", options={"formats": ["json"]})
    done = run_tool(world.aws.environment, "render", "tool", "--format", "srt", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"s3://results/transcripts/tool/transcript.{name}" for name in ("srt", "json")]
    assert "1 added, 1 there already" in done.stderr
    assert names(checked_manifest(world, "tool")) == {"json": "transcript.json", "srt": "transcript.srt"}

    saved = run_tool(world.aws.environment, "render", "tool", "--format", "vtt", "--save", str(tmp_path / "here"))
    assert saved.returncode == 0, saved.stderr
    assert "hello there" in (tmp_path / "here" / "transcript.vtt").read_text()
    assert "transcript.vtt" not in world.outputs("tool")

    missing = run_tool(world.aws.environment, "render", "nobody", "--format", "srt")
    assert (missing.returncode, "is not finished" in missing.stderr) == (1, True), missing.stderr


def test_job_keeps_the_words_of_another(world: World, daemon: DaemonProcess) -> None:
    complete(world, "first", options={**SPOKEN, "formats": ["json", "md"]})
    asr = 'transcriptd_stage_duration_seconds_count{stage="asr"}'
    counted = scraped(daemon.get("/metrics"))[asr]
    source = {"bucket": "media", "key": "call.wav", "words_of": "first"}

    event = complete(world, "speakers", input=source, options={"num_speakers": 3, "formats": ["json", "srt"]})
    assert event["data"]["input"]["words_of"] == "first"
    assert words_of(world, "speakers") == words_of(world, "first")
    transcript = json.loads(world.outputs("speakers")["transcript.json"])
    assert transcript["job_id"] == "speakers"
    assert transcript["speakers"] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
    manifest = checked_manifest(world, "speakers")
    assert (manifest["input"]["words_of"], manifest["speakers"]) == ("first", 3)
    assert manifest["usage"]["device_seconds"] == {"diarize": 0.001}
    assert (manifest["options"]["num_speakers"], manifest["options"]["initial_prompt"]) == (
        3,
        SPOKEN["initial_prompt"],
    ), "the other options are those of the words"

    event = complete(world, "redacted", input=source, options={"redact": ["email"], "formats": ["json", "txt"]})
    assert event["data"]["usage"]["device_seconds"] == {}
    assert "download" not in event["data"]["durations_seconds"]
    outputs = world.outputs("redacted")
    assert not with_address(outputs)
    assert json.loads(outputs["transcript.json"])["redactions"] == {"email": 1}
    assert [word[1:] for word in words_of(world, "redacted")] == [word[1:] for word in words_of(world, "first")]

    # What is redacted stays so, also in the words that a third job takes from it.
    wishes = ("--words-of", "redacted", "--job-id", "third", "--option", "num_speakers=2")
    sent = run_tool(world.aws.environment, "submit", "s3://media/call.wav", *wishes)
    assert sent.returncode == 0, sent.stderr
    world.wait_for("third", "job.completed")
    world.wait_until_empty()
    assert words_of(world, "third") == words_of(world, "redacted")
    metrics = scraped(daemon.get("/metrics"))
    assert metrics[asr] == counted, "nothing was transcribed again"
    assert metrics['transcriptd_results_with_kept_words_total{work="diarize"}'] == 2
    assert metrics['transcriptd_results_with_kept_words_total{work="redact"}'] == 1

    before = len(completions(world, "speakers"))
    world.publish("speakers", "call.wav", input=source, options={"num_speakers": 3, "formats": ["json", "srt"]})
    world.wait_until_empty()
    assert len(completions(world, "speakers")) == before
    error = fail(world, "speakers", {"input": source, "options": {"num_speakers": 2}})
    assert error["code"] == "job_id_conflict"


def test_job_that_cannot_keep_the_words_is_refused(world: World, daemon: DaemonProcess) -> None:
    complete(world, "source", options={"formats": ["json"]})
    source = {"bucket": "media", "key": "call.wav", "words_of": "source"}
    error = fail(world, "other-language", {"input": source, "options": {"language": "de"}})
    assert error["code"] == "needs_transcription"
    assert "options.language" in error["message"]
    error = fail(world, "of-nothing", {"input": {**source, "words_of": "nothing"}})
    assert error["code"] == "transcript_unavailable"
    world.upload("other.wav", sample_call())
    error = fail(world, "other-recording", {"input": {**source, "key": "other.wav"}})
    assert error["code"] == "recording_changed"
    complete(world, "split", options={"channels": "split", "formats": ["json"]})
    error = fail(world, "of-split", {"input": {**source, "words_of": "split"}, "options": {"diarize": True}})
    assert error["code"] == "invalid_speakers"
    try:
        world.upload("call.wav", sample_call().read_bytes() + b"\0\0")
        for job_id, options in (("changed", {"diarize": True}), ("changed-redaction", {"redact": ["email"]})):
            error = fail(world, job_id, {"input": source, "options": options})
            assert error["code"] == "recording_changed", error
    finally:
        world.upload("call.wav", sample_call())
    assert not [name for name in world.outputs("changed") if name.startswith("transcript")]
