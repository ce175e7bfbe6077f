"""Parts of the tools that no command shows on demand: lease extension and expiry, unexpected responses, rare states."""

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from daemon.cli import leased_messages
from daemon.cli.arguments import duration
from daemon.cli.command import Stop, ToolError, UsageError, age, contract_settings, open_sqs, printable, send
from daemon.cli.dlq import _edited
from daemon.cli.edits import apply, removal, setting
from daemon.cli.leased_messages import DeadLetter, LeasedMessages
from daemon.cli.result import Display
from daemon.cli.watch import JobState
from daemon.demo.aws import EmbeddedAws
from daemon.errors import InvalidJob
from daemon.jobs.delivery_log import DeliveryLog, DeliveryRecord
from daemon.jobs.validation import parse_job
from daemon.schema.job_status import JobStatus, StatusError
from tests.support.notifications import from_s3

JOB = '{"job_id": "a", "input": {"bucket": "media", "key": "k"}%s}'


# --- leases ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws() as aws:
        aws.sqs.send_message(QueueUrl=aws.dlq_url, MessageBody=JOB % "")
        yield aws


def test_held_messages_stay_held_beyond_their_first_lease(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased_messages, "LEASE_SECONDS", 4)
    monkeypatch.setattr(leased_messages, "EXTEND_PERIOD_SECONDS", 0.5)
    with Stop() as stop, LeasedMessages(aws.sqs, aws.dlq_url) as leased:
        (letter,) = leased.receive(10, stop)
        over = time.monotonic() + 2.5 * leased_messages.LEASE_SECONDS
        while time.monotonic() < over:
            assert leased.is_leased(letter)
            assert "Messages" not in aws.sqs.receive_message(QueueUrl=aws.dlq_url, WaitTimeSeconds=1)
    assert len(aws.sqs.receive_message(QueueUrl=aws.dlq_url)["Messages"]) == 1, "released at the end"


def test_expired_lease_is_known_to_have_expired(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased_messages, "LEASE_SECONDS", 1)
    monkeypatch.setattr(leased_messages, "EXTEND_PERIOD_SECONDS", 3600.0)
    with Stop() as stop, LeasedMessages(aws.sqs, aws.dlq_url) as leased:
        (letter,) = leased.receive(10, stop)
        while leased.is_leased(letter):
            time.sleep(0.05)
        assert len(aws.sqs.receive_message(QueueUrl=aws.dlq_url, WaitTimeSeconds=5)["Messages"]) == 1


def test_released_message_is_not_hidden_again(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leased_messages, "EXTEND_PERIOD_SECONDS", 0.01)
    with Stop() as stop, LeasedMessages(aws.sqs, aws.dlq_url) as leased:
        for _ in range(5):
            (letter,) = leased.receive(10, stop)
            leased.release([letter.message_id])
            assert not leased.is_leased(letter)


# --- a proxy instead of SQS ------------------------------------------------------------------------------------------


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Yield the address of a proxy that gives the same response to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("body", [b"<html>please log in</html>", b"", b"{}", b'{"MessageId": ""}'])
def test_response_of_a_proxy_is_not_taken_for_a_sent_message(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tool would delete a message from the dead-letter queue that was never sent."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "embedded")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with answering(body) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises((ToolError, BotoCoreError, ClientError)):
            send(open_sqs(url), url + "/queue", "{}", {})


# --- output ---------------------------------------------------------------------------------------------------------


def test_messages_moved_by_sqs_are_labelled() -> None:
    letter = DeadLetter("m", "{}", {}, {"DeadLetterQueueSourceArn": "arn:aws:sqs:r:1:jobs", "SentTimestamp": "1000"})
    assert letter.reason == leased_messages.MOVED_BY_SQS
    assert "maxReceiveCount" in letter.explanation
    assert DeadLetter("m", "{}", {}, {}).reason == leased_messages.NO_REASON


def test_state_of_a_job_is_described() -> None:
    first = DeliveryRecord(message_id="m", receive_count=1, worker_id="w", begun_at=0.0)
    second = first.model_copy(update={"receive_count": 2})
    assert str(JobState()) == "waiting for a daemon"
    begun = DeliveryLog().begin(first)
    assert "on w, attempt 1" in str(JobState(deliveries=begun.deliveries))
    failed = begun.end("m", 1, "retried", "runner_crashed", message="it died", consumes_attempt=True)
    said = str(JobState(deliveries=failed.deliveries))
    assert said == "waiting for the next delivery; attempt 1 was retried (runner_crashed: it died)"
    again = JobState(deliveries=failed.begin(second).deliveries)
    assert "on w, attempt 2" in str(again)
    assert again.failure is None
    over = failed.begin(second).end("m", 2, "dead_lettered", "runner_crashed", consumes_attempt=True)
    failure = JobState(deliveries=over.deliveries).failure
    assert failure
    assert failure.code == "runner_crashed"


def test_status_of_a_job_is_described() -> None:
    status = JobStatus(
        job_id="j",
        state="running",
        attempt=2,
        stage="asr",
        stage_fraction=0.42,
        overall_fraction=0.27,
        remaining_seconds=190,
        error=None,
        message_id="m",
        receive_count=3,
        worker_id="gpu-1",
        started_at="",
        updated_at="",
    )
    said = "27%: recognizing speech (42%), about 3m left; on gpu-1, attempt 2"
    assert str(JobState(status=status)) == said
    unknown = status.model_copy(update={"stage": "new", "stage_fraction": None, "remaining_seconds": None})
    assert str(JobState(status=unknown)) == "27%: new; on gpu-1, attempt 2"
    for state in ("failed", "cancelled"):
        ended = JobState(status=status.model_copy(update={"state": state, "error": StatusError(code="c", message="m")}))
        assert ended.failure == StatusError(code="c", message="m")
    assert JobState(status=status.model_copy(update={"state": "interrupted"})).failure is None


def test_terminal_gets_one_line_that_is_updated() -> None:
    screen = StringIO()
    with Display(Console(file=screen, force_terminal=True, width=120), "job-1") as display:
        display.show("waiting: [red] is no markup")
        assert display._bar
        display._bar.refresh()
        assert "job-1: waiting: [red] is no markup" in screen.getvalue()
        assert "%" not in screen.getvalue()
        display.show("27%: recognizing speech", 0.27)
    assert "job-1: 27%: recognizing speech" in screen.getvalue()
    assert "waiting" not in screen.getvalue().rpartition("27%")[2]


def test_times() -> None:
    assert [duration(text) for text in ("90", "1.5s", "30m", "12h", "7d", "2w")] == [
        *(90.0, 1.5, 1800.0, 43_200.0, 604_800.0, 1_209_600.0)
    ]
    for wrong in ("", "d", "-1s", "7 d", "1y", "٣d5"):
        with pytest.raises(argparse.ArgumentTypeError):
            duration(wrong)
    assert [age(seconds) for seconds in (-1, 45, 60, 12_000, 187_200)] == ["0s", "45s", "1m", "3h 20m", "2d 4h"]


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\tb\nü\x1b[31m\x9b\u202e\r\ud800") == "a\tb\nü\\x1b[31m\\x9b\\u202e\\r\\ud800"


def test_edits() -> None:
    message: dict[str, Any] = {"options": {"model": "base", "gone": 1}}
    edits = [
        setting("options.model=large-v3"),
        setting("options.num_speakers=2"),
        setting("metadata.a.b=null"),
        setting("text=a=b"),
        removal("options.gone"),
        removal("never.there"),
    ]
    apply(edits, message)
    assert message == {
        "options": {"model": "large-v3", "num_speakers": 2},
        "metadata": {"a": {"b": None}},
        "text": "a=b",
    }
    with pytest.raises(ValueError, match="model is not an object"):
        apply([setting("options.model.size=1")], message)
    for wrong in ("model", "=1", "a..b=1"):
        with pytest.raises(UsageError):
            setting(wrong)


# --- settings --------------------------------------------------------------------------------------------------------


def test_message_is_checked_with_the_known_settings_of_the_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = JOB % ', "output": {"bucket": "theirs"}, "webhook": {"url": "https://app.example.com/hook"}'
    assert parse_job(elsewhere, contract_settings()).output_bucket == "theirs"
    monkeypatch.setenv("TRANSCRIPTD_OUTPUT_BUCKETS", "ours")
    with pytest.raises(InvalidJob, match="theirs"):
        parse_job(elsewhere, contract_settings())
    monkeypatch.setenv("TRANSCRIPTD_OUTPUT_BUCKETS", "theirs")
    monkeypatch.setenv("TRANSCRIPTD_WEBHOOK_HOSTS", "other.example.com")
    with pytest.raises(InvalidJob, match="webhook"):
        parse_job(elsewhere, contract_settings())


def test_edited_notification_is_a_job_message_with_its_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text("[calls]\nprefix = 'calls/'\noptions.channels = 'split'\n")
    monkeypatch.setenv("TRANSCRIPTD_PROFILES", str(file))
    letter = DeadLetter("m-1", json.dumps(from_s3("media", "calls/a.wav", version_id="v1")), {}, {})
    edited = json.loads(_edited(letter, [setting("options.channels=mix")]))
    assert (edited["profile"], edited["options"]) == ("calls", {"channels": "mix"})
    assert edited["input"] == {"bucket": "media", "key": "calls/a.wav", "version_id": "v1"}
    assert _edited(letter, []) == letter.body
    monkeypatch.delenv("TRANSCRIPTD_PROFILES")
    named = DeadLetter("m-1", JOB % ', "profile": "calls"', {}, {})  # only the daemon knows the profile
    assert json.loads(_edited(named, [setting("options.language=de")]))["profile"] == "calls"
    with pytest.raises(UsageError, match="not a JSON object"):
        _edited(DeadLetter("m-1", "[]", {}, {}), [setting("job_id=a")])
