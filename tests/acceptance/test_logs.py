"""The log of the real daemon during many failures: one schema, one summary per delivery, two lines per outage. It
contains no secret and no transcript text, although the inputs and responses are full of both."""

import base64
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import SECRET, World, open_world
from daemon.telemetry.log_schema import SUMMARY, json_schema
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Fault
from tests.support.media.files import chirp, make_wav
from tests.support.webhooks.receiver import OK, Behaviour, Receiver, threaded_receiver

PLANTED = "planted"  # planted in all content that must not be logged
ROTATED = "whsec_" + base64.b64encode(b"planted, the secret before this.").decode()
SIGNED_URL = "https://media.example.com/call.wav?X-Amz-Signature=planted"

SETTINGS = {
    "heartbeat_seconds": "0.5",
    "queue_timeout_seconds": "10",
    "queue_backoff_max_seconds": "0.5",
    "storage_timeout_seconds": "10",
    "retry_base_seconds": "0.2",
    "max_attempts": "2",
    "webhook_hosts": "127.0.0.1",
    "webhook_attempts": "2",
    "webhook_backoff_min_seconds": "0.1",
    "webhook_backoff_max_seconds": "0.2",
    "outbox_retry_schedule_seconds": ",".join(map(str, range(1, 90))),
    "webhook_progress_seconds": "0.1",
    "runner_restart_base_seconds": "0.1",
    "max_device_failures": "9",
}

# Rejected bodies, each with text that must not be quoted.
REFUSED = [
    f"{PLANTED} and no JSON",
    f'{{"job_id": "cut-off", "metadata": {{"note": "{PLANTED}"',
    json.dumps({"job_id": "no-input", "metadata": {"note": PLANTED}}),
    json.dumps({"job_id": "list", "input": {"bucket": "media", "key": "k"}, "options": [{"initial_prompt": PLANTED}]}),
    json.dumps({"job_id": "text", "input": {"bucket": "media", "key": "k"}, "options": PLANTED}),
    json.dumps({"job_id": "hook", "input": {"bucket": "media", "key": "k"}, "webhook": f"https://x/{PLANTED}"}),
    json.dumps({"job_id": "words", "input": {"bucket": "media", "key": "k"}, "options": {"hotwords": [PLANTED]}}),
]


@dataclass
class Night:
    lines: list[dict[str, Any]]
    text: str
    received: float

    def of(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]

    def summary(self, job_id: str) -> list[dict[str, Any]]:
        return self.of("job finished", job_id=job_id)


@pytest.fixture(scope="module")
def night() -> Iterator[Night]:
    with ExitStack() as stack:
        world = stack.enter_context(open_world(visibility_timeout_seconds=20, **SETTINGS))
        world.upload("call.wav", make_wav(world.folder / "call.wav", chirp(1.0)))
        world.upload("notes.txt", b"planted " * 100)
        proxy = stack.enter_context(Proxy(world.aws.endpoint_url, ["daemon"], lambda _: None))
        flaky = stack.enter_context(threaded_receiver(Receiver(default=Behaviour(500, body=b"planted answer"))))
        world.settings |= {
            "AWS_ENDPOINT_URL": proxy.urls["daemon"],
            "AWS_SECRET_ACCESS_KEY": "planted-secret-access-key",
            "AWS_SESSION_TOKEN": "planted-session-token",
            "HF_TOKEN": "hf_planted_token",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=planted-collector-key",
            "TRANSCRIPTD_OTLP_ENDPOINT": "http://127.0.0.1:9/planted",  # nothing listens there
            "WEBHOOK_SECRET": f"{SECRET} {ROTATED}",
            "WEBHOOK_URL": world.receiver.url.replace("://", "://planted:planted@") + "?token=planted",
        }
        daemon = stack.enter_context(world.daemon())
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        daemon.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: any(daemon.log_entries("log level changed")), "at debug level")

        live(world, proxy, flaky)

        received = next(
            float(line.split()[1])
            for line in daemon.get("/metrics").splitlines()
            if line.startswith("transcriptd_messages_received_total{")
        )
        assert daemon.stop() == 0, daemon.log_tail()
        text = daemon.log_path.read_text()
        yield Night([json.loads(line) for line in text.splitlines()], text, received)


def live(world: World, proxy: Proxy, flaky: Receiver) -> None:
    """Provoke every kind of failure and wait until the queue is empty again."""

    def publish(job_id: str, prompt: str = "", key: str = "call.wav", **fields: Any) -> None:
        options = {"initial_prompt": prompt, "hotwords": PLANTED, "vocabulary": [PLANTED], "audio_url": SIGNED_URL}
        world.publish(job_id, key, options=options, metadata={"note": PLANTED}, **fields)

    def outage(calls: str, began: str, many: int) -> None:
        """Cause an outage of a dependency while one job is running and another one waits."""
        publish(f"in-hand-{began}", "sleep 1")
        world.wait_for(f"in-hand-{began}", "job.started")
        proxy.fail(calls, Fault.ERROR, PATIENCE_SECONDS, "daemon")
        try:
            wait_for(lambda: proxy.faults_injected[Fault.ERROR] >= many, f"{many} calls went wrong")
        finally:
            proxy.calm()
            proxy.faults_injected.clear()
        world.wait_for(f"in-hand-{began}", "job.completed")

    for body in REFUSED:
        world.send(body)
    publish("no-media", key="notes.txt")
    publish("warned", "warn")
    publish("said", "say the planted words")
    publish("chatter", "chatter planted")
    publish("unexpected", "raise planted")
    publish("unheard", webhook={"url": f"{flaky.url}?token={PLANTED}"})
    for job_id in ("warned", "said", "chatter"):
        world.wait_for(job_id, "job.completed")
    for job_id in ("unexpected", "no-media"):
        world.wait_for(job_id, "job.failed")
    world.wait_until_empty()
    publish("crash", "sigkill")  # alone, because jobs running next to it would be repeated
    world.wait_for("crash", "job.failed")
    world.wait_until_empty()
    outage("sqs:ReceiveMessage", "sqs", 8)
    flaky.default = OK

    def delivered() -> bool:
        record = world.outputs("unheard").get("webhook.json")
        return record is not None and json.loads(record)["result"] == "delivered"

    wait_for(delivered, "the receiver that was down got its event")
    outage("s3:*", "s3", 8)
    publish("said", "say the planted words")  # a completed job once more
    world.wait_until_empty()


def test_every_line_matches_the_schema(night: Night) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for line in night.lines:
        problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(line)]
        assert problems == [], line
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None
        assert line["timestamp"][10:23].count(".") == 1, "milliseconds are always present"
    assert {line["process"] for line in night.lines} == {"poller", "runner"}


def test_no_secret_and_no_transcript_text_is_logged(night: Night) -> None:
    secrets = (SECRET, SECRET.removeprefix("whsec_"), ROTATED, ROTATED.removeprefix("whsec_"), "hf_planted_token")
    assert [line for line in night.text.splitlines() if PLANTED in line] == []
    assert [secret for secret in secrets if secret in night.text] == []
    assert night.of("log level changed", log_level="debug"), "at debug level, too"
    assert night.of("progress")


def test_each_delivery_has_one_summary(night: Night) -> None:
    summaries = night.of("job finished")
    assert len(summaries) == night.received
    deliveries = Counter((line["message_id"], line["receive_count"]) for line in summaries)
    assert set(deliveries.values()) == {1}
    assert all(SUMMARY.keys() <= line.keys() for line in summaries), "all fields, whatever the outcome"


def test_summary_has_all_fields_of_a_job(night: Night) -> None:
    done, again = night.summary("said")
    assert (done["level"], done["outcome"], done["reason"], done["settled"]) == ("INFO", "published", "published", True)
    stages = done["stages_seconds"]
    assert list(stages) == ["download", "decode", "wait", "vad", "asr", "align", "diarize", "publish", "settle"]
    assert sum(stages.values()) - stages["vad"] * 4 <= done["duration_seconds"], "the scripted stages are not real"
    assert done["audio_seconds"] == pytest.approx(1.0, abs=0.01)
    assert done["real_time_factor"] == pytest.approx(0.004, abs=0.001)
    assert done["input_bytes"] > 10_000
    assert done["output_bytes"] > 100
    assert (done["model"], done["language"], done["speakers"]) == ("base", "en", 1)
    assert (done["webhook"], done["error"], done["failed_in"]) == ("delivered", None, None)
    assert (again["reason"], again["webhook"]) == ("duplicate", "known")
    assert list(again["stages_seconds"]) == ["settle"]
    assert night.summary("warned")[0]["warnings"] == ["scripted"]
    assert night.summary("unheard")[0]["webhook"] == "stored"


def test_summary_has_the_reason_of_a_failure(night: Night) -> None:
    (no_media,) = night.summary("no-media")
    assert (no_media["level"], no_media["outcome"], no_media["failed_in"]) == ("ERROR", "dead_lettered", "decode")
    assert no_media["reason"] == "media_unreadable"
    assert no_media["error"]
    first, second = night.summary("unexpected")
    assert (first["level"], first["outcome"], first["attempt"]) == ("WARNING", "retried", 1)
    assert (second["outcome"], second["reason"], second["attempt"]) == ("dead_lettered", "internal_error", 2)
    assert second["error"] == "ValueError", "its type, because its message may quote anything"
    assert [line["reason"] for line in night.summary("crash")] == ["runner_crashed"] * 2
    assert len(night.of("job finished", failed_in="check", outcome="dead_lettered")) == len(REFUSED)


def test_lines_about_a_job_have_its_ids_in_both_processes(night: Night) -> None:
    about_jobs = ("job started", "stage done", "progress", "job failed unexpectedly", "event delivered")
    lines = [line for event in about_jobs for line in night.of(event)]
    assert {line["event"] for line in lines} == set(about_jobs)
    for line in lines:
        from_outbox = line["logger"] == "transcriptd.outbox"  # only the event is known
        assert {"job_id", *(() if from_outbox else ("message_id", "receive_count"))} <= line.keys(), line
    in_runner = [line for line in night.of("job failed unexpectedly") if line["process"] == "runner"]
    assert [line["job_id"] for line in in_runner] == ["unexpected", "unexpected"]
    assert all(line["traceback"].endswith("builtins.ValueError: ValueError\n") for line in in_runner)
    assert all("scripted_pipeline.py" in line["traceback"] for line in in_runner), "the line has the location"
    ended = night.of("runner ended", reason="signal")
    assert [line["job_ids"] for line in ended] == [["crash"], ["crash"]]


def test_library_messages_match_the_schema_without_their_content(night: Night) -> None:
    said = [line for line in night.of("library message") if line["process"] == "runner"]
    assert {line["logger"] for line in said} >= {"a.library", "py.warnings"}
    assert any(line["detail"].endswith(": heard %s") for line in said)
    assert any(line["detail"].endswith(": UserWarning") for line in said)
    assert night.of("runner printed", line="native output"), "standard output of native code is captured"
    assert night.of("unhandled exception", task="chatter")


@pytest.mark.parametrize(
    ("down", "up", "failures"),
    [
        ("queue unavailable", "queue available again", 2),
        ("storage unavailable", "storage available again", 1),  # from calls that were tried four times each
        ("webhook receiver failing", "webhook receiver working again", 2),
    ],
)
def test_outage_is_logged_when_it_starts_and_when_it_ends(night: Night, down: str, up: str, failures: int) -> None:
    began, ended = night.of(down), night.of(up)
    assert len(began) == len(ended) == 1, (began, ended)
    assert began[0]["level"] == ended[0]["level"], "both lines have the same level"
    assert began[0]["error"]
    assert ended[0]["down_seconds"] > 0
    assert ended[0]["failures"] >= failures
    assert "job_id" not in began[0] | ended[0]
