"""The real daemon with real signals: a job from message to outputs, the daemon's logs and metrics, and its shutdown."""

import json
import signal
from collections.abc import Iterator
from datetime import datetime

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.support.media.files import repeated_call


@pytest.fixture
def world() -> Iterator[World]:
    with open_world() as world:
        world.upload("call.wav", sample_call())
        yield world


def test_job_produces_outputs_events_metrics_and_one_summary_line(world: World) -> None:
    with world.daemon(webhook_progress_seconds="0.1", input_buckets="media") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        world.publish("job-1", "call.wav", metadata={"tenant": 7}, options={"initial_prompt": "warn"})
        completed = world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        world.wait_until_counted(daemon, 1)
        ready = json.loads(daemon.get("/readyz"))
        metrics = daemon.get("/metrics")
        assert daemon.get("/healthz") == '{"status": "ok"}'
        assert daemon.stop() == 0

    outputs = world.outputs("job-1")
    assert set(outputs) == {"manifest.json", "status.json", "transcript.json", "transcript.md", "webhook.json"}
    status = json.loads(outputs["status.json"])
    assert (status["state"], status["overall_fraction"], status["attempt"]) == ("completed", 1.0, 1)
    manifest = json.loads(outputs["manifest.json"])
    assert [output["size_bytes"] for output in manifest["outputs"]] == [
        len(outputs["transcript.json"]),
        len(outputs["transcript.md"]),
    ]
    assert manifest["duration_seconds"] == 30.0
    assert manifest["metadata"] == {"tenant": 7}
    assert manifest["input"]["size_bytes"] == sample_call().stat().st_size
    warning = {"code": "scripted", "stage": "asr", "message": "asked for"}
    assert manifest["warnings"] == [warning]
    assert json.loads(outputs["transcript.json"])["warnings"] == [warning]
    assert outputs["transcript.md"].decode().endswith("# Notes\n\n- scripted: asked for\n")

    types = [seen.event["type"] for seen in world.events("job-1")]
    assert types[0] == "job.started"
    assert types[-1] == "job.completed"
    assert all(seen.verified for seen in world.events("job-1"))
    data = completed["data"]
    assert data["output"]["files"]["json"] == "transcripts/job-1/transcript.json"
    assert data["metadata"] == {"tenant": 7}
    assert {"download", "decode", "vad", "asr"} <= set(data["durations_seconds"])
    assert data["warnings"] == [warning]

    assert ready["ready"] is True
    assert set(ready["checks"]) == {
        *("phase", "runner", "disk", "sandbox", "poll", "brake"),
        *("sqs", "dead_letter_queue", "s3"),
    }
    assert ready["checks"]["runner"]["devices"]["cpu"]["state"] == "ready"
    for line in (
        'transcriptd_deliveries_total{outcome="published",reason="published"} 1.0',
        "transcriptd_audio_seconds_total 30.0",
        'transcriptd_stage_duration_seconds_count{stage="decode"} 1.0',
        'transcriptd_warnings_total{code="scripted"} 1.0',
        'transcriptd_runner_state{device="cpu",state="ready"} 1.0',
    ):
        assert line in metrics

    entries = list(daemon.log_entries())
    assert [entry for entry in entries if entry["event"] == "unstructured"] == []
    (summary,) = daemon.log_entries("job finished")
    assert summary["outcome"] == "published"
    assert summary["job_id"] == "job-1"
    assert summary["stages_seconds"]["decode"] > 0
    about = [entry for entry in entries if entry["event"] in ("job started", "job finished")]
    assert all(entry["job_id"] == "job-1" for entry in about)


def test_presigned_audio_url_is_in_the_page_and_nowhere_else(world: World) -> None:
    presigned = "https://media.example.com/call.wav?X-Amz-Signature=planted"
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        world.publish("job-1", "call.wav", options={"formats": ["json", "html"], "audio_url": presigned})
        completed = world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        assert daemon.stop() == 0
    outputs = world.outputs("job-1")
    assert f' src="{presigned}">'.encode() in outputs["transcript.html"]
    assert [name for name, body in outputs.items() if b"planted" in body] == ["transcript.html"]
    assert "planted" not in json.dumps(completed)
    assert "planted" not in daemon.log_path.read_text()


def test_a_redelivered_finished_job_is_recognised(world: World) -> None:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "call.wav")
        first = world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        before = world.outputs("job-1")
        assert json.loads(before["webhook.json"])["result"] == "delivered"
        world.seen.clear()
        world.publish("job-1", "call.wav")
        world.wait_until_empty()
        assert world.seen == [], "the delivery of the webhook is recorded"
        world.aws.s3.delete_object(Bucket="results", Key="transcripts/job-1/webhook.json")
        world.publish("job-1", "call.wav")
        again = world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        world.wait_until_counted(daemon, 3)
        metrics = daemon.get("/metrics")
    del before["webhook.json"]
    assert before.items() <= world.outputs("job-1").items()
    assert again["data"]["output"] == first["data"]["output"]
    assert 'transcriptd_deliveries_total{outcome="published",reason="duplicate"} 2.0' in metrics
    assert 'transcriptd_stage_duration_seconds_count{stage="download"} 1.0' in metrics, "recognised before any download"


def test_unusual_prefix_is_taken_literally(world: World) -> None:
    prefix = "x//%2e%2e\\..\\ü+ &語/"
    with world.daemon(output_prefixes="*") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "call.wav", output={"prefix": prefix})
        world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
    listed = world.aws.s3.list_objects_v2(Bucket=world.aws.output_bucket)["Contents"]
    names = {item["Key"].removeprefix(f"{prefix}job-1/") for item in listed}
    assert names == {"manifest.json", "status.json", "transcript.json", "transcript.md", "webhook.json"}


def test_job_id_reused_for_another_recording_is_rejected(world: World) -> None:
    world.upload("other.wav", sample_call())
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "call.wav")
        world.wait_for("job-1", "job.completed")
        world.publish("job-1", "other.wav")
        failed = world.wait_for("job-1", "job.failed")
    assert failed["data"]["error"]["code"] == "job_id_conflict"


def test_sigterm_lets_the_job_in_progress_finish(world: World) -> None:
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        gate = world.folder / "gate"
        world.publish("job-1", "call.wav", options={"initial_prompt": f"until {gate}"})
        world.wait_for("job-1", "job.started")
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: any(daemon.log_entries("draining")), "draining")
        world.publish("job-2", "call.wav")
        gate.touch()
        assert daemon.process.wait(PATIENCE_SECONDS) == 0
    assert "manifest.json" in world.outputs("job-1")
    assert world.events("job-2") == []
    assert world.queue_depth() == (1, 0), "the job that was not started is available to another daemon"


@pytest.mark.parametrize("how", ["deadline", "second signal"])
def test_job_that_cannot_finish_in_time_is_released(world: World, how: str) -> None:
    with world.daemon(drain_timeout_seconds="1" if how == "deadline" else "300") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "call.wav", options={"initial_prompt": "sleep 3600"})
        world.wait_for("job-1", "job.progress")
        daemon.process.send_signal(signal.SIGTERM)
        if how == "second signal":
            wait_for(lambda: any(daemon.log_entries("draining")), "draining")
            for _ in range(5):  # repeated signals must not deadlock it
                daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_SECONDS) == 1
    assert world.queue_depth() == (1, 0)
    (summary,) = daemon.log_entries("job finished")
    assert (summary["outcome"], summary["reason"]) == ("released", "interrupted")
    assert "manifest.json" not in world.outputs("job-1")
    assert "job.failed" not in [seen.event["type"] for seen in world.events("job-1")]


@pytest.mark.parametrize(("after_seconds", "kept"), [("0", 1), ("600", 0)])
def test_completed_first_delivery_leaves_no_checkpoints(world: World, after_seconds: str, kept: int) -> None:
    """Nor does it store any checkpoint if it finishes before they are worth storing."""
    with world.daemon(checkpoint_after_seconds=after_seconds) as daemon:
        world.publish("kept", "call.wav", options={"initial_prompt": "resume 0"})
        world.wait_for("kept", "job.completed")
    (line,) = daemon.log_entries("job finished")
    assert line["checkpoints_kept"] == kept
    assert not [name for name in world.outputs("kept") if name.startswith("checkpoints/")]


def test_early_checkpoint_is_stored_in_time(world: World) -> None:
    with world.daemon(checkpoint_after_seconds="2", drain_timeout_seconds="0") as daemon:
        world.publish("job-1", "call.wav", options={"initial_prompt": "resume 600"})
        world.wait_until_kept("job-1")
        assert daemon.stop() == 1
        (started,) = daemon.log_entries("job started")
    listed = world.aws.s3.list_objects_v2(Bucket="results", Prefix="transcripts/job-1/checkpoints/")["Contents"]
    (kept_at,) = (each["LastModified"] for each in listed if each["Key"].endswith("/asr-00000.json"))
    # S3 reports whole seconds.
    assert (kept_at - datetime.fromisoformat(started["timestamp"])).total_seconds() > 2 - 1


def test_another_daemon_continues_from_the_checkpoints(world: World) -> None:
    world.publish("job-1", "call.wav", options={"initial_prompt": "resume 3600"})
    with world.daemon("first", drain_timeout_seconds="0", checkpoint_after_seconds="0") as daemon:
        world.wait_until_kept("job-1")
        assert daemon.stop() == 1
    assert world.queue_depth() == (1, 0)
    with world.daemon("second") as daemon:
        world.wait_for("job-1", "job.completed")
        world.wait_until_empty()
        (line,) = daemon.log_entries("checkpoints restored")
        assert line["checkpoints_restored"] == 1
        assert 'transcriptd_checkpoints_total{result="restored"} 1.0' in daemon.get("/metrics")
    outputs = world.outputs("job-1")
    assert json.loads(outputs["manifest.json"])["attempt"] == 1
    assert not [name for name in outputs if name.startswith("checkpoints/")], "removed after the manifest"


def test_runner_crash_costs_an_attempt_and_the_last_one_dead_letters_the_job(world: World) -> None:
    with world.daemon(retry_base_seconds="0.1", max_attempts="2", runner_restart_base_seconds="0.1") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "call.wav", options={"initial_prompt": "sigkill"})
        failed = world.wait_for("job-1", "job.failed")
        world.publish("job-2", "call.wav")
        world.wait_for("job-2", "job.completed")
        metrics = daemon.get("/metrics")
    assert failed["data"]["error"]["code"] == "runner_crashed"
    (letter,) = world.dead_letters()
    assert letter["failure"]["attempt"] == 2
    assert 'transcriptd_deliveries_total{outcome="retried",reason="runner_crashed"} 1.0' in metrics
    assert 'transcriptd_runner_restarts_total{device="cpu",reason="signal"} 2.0' in metrics


@pytest.mark.parametrize("megabytes", [8, 40])
def test_large_objects_arrive_whole(world: World, megabytes: int) -> None:
    """Downloads use parallel parts of 16 MiB; the decoder reads the same samples from the assembled file."""
    times = megabytes * 1024 * 1024 // sample_call().stat().st_size
    world.upload("large.wav", repeated_call(world.folder / "large.wav", times))
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "large.wav")
        world.wait_for("job-1", "job.completed")
    manifest = json.loads(world.outputs("job-1")["manifest.json"])
    assert manifest["duration_seconds"] == pytest.approx(30 * times)


def test_unusable_settings_have_their_own_exit_status(world: World) -> None:
    with world.daemon(heartbeat_seconds="100") as daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == 78
    assert "at most a third" in daemon.log_path.read_text()


def test_runner_that_cannot_start_ends_the_daemon_before_it_receives(world: World) -> None:
    world.publish("job-1", "call.wav")
    settings = {
        "pipeline": "bench.scripted_pipeline:RaisesInSetup",
        "runner_start_attempts": "2",
        "runner_restart_base_seconds": "0.1",
    }
    with world.daemon(**settings) as daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == 70
    assert world.queue_depth() == (1, 0)
    (line,) = daemon.log_entries("start-up failed")
    assert "no such model" in line["error"]


def test_redacted_text_is_in_no_output_and_no_log() -> None:
    with open_world() as world:
        world.upload("call.wav", sample_call())
        prompt = "say Mail jane@example.com or dial 415-555-2671, dammit shit."
        options = {"initial_prompt": prompt, "redact": ["email", "phone"], "profanity": "mask"}
        with world.daemon(log_level="debug") as daemon:
            world.publish("job-1", "call.wav", options=options)
            event = world.wait_for("job-1", "job.completed")
            world.wait_until_empty()
            metrics = daemon.get("/metrics")
        outputs = world.outputs("job-1")
        manifest = json.loads(outputs.pop("manifest.json"))  # which repeats the job's own options
        assert json.loads(outputs["transcript.json"])["segments"][0]["text"] == (
            "Mail [EMAIL] or dial [PHONE], dammit s***."
        )
        assert manifest["redactions"] == {"email": 1, "phone": 1, "profanity": 1}
        assert 'transcriptd_redactions_total{kind="phone"} 1.0' in metrics
        everything = json.dumps(event) + daemon.log_path.read_text() + str(outputs)
        for secret in ("jane", "555-2671", "shit"):
            assert secret not in everything
