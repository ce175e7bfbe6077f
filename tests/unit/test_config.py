"""Settings from the environment, and the messages for invalid ones."""

import logging
import sys
import threading
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from daemon.config import MAX_LEASE_SECONDS, Settings, load_settings, variable
from daemon.errors import ConfigError
from daemon.protocol.priority import ONLY, Priority
from daemon.telemetry.logs import configure
from tests.support.builders import some_settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("TRANSCRIPTD_QUEUE_URL", "https://sqs/q")
    monkeypatch.setenv("TRANSCRIPTD_DLQ_URL", "https://sqs/d")


def test_two_urls_are_enough() -> None:
    settings = load_settings()
    assert settings.model == "large-v3"
    assert settings.heartbeat_seconds * 3 <= settings.visibility_timeout_seconds


def test_secrets_may_be_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("WEBHOOK_URL", "https://app.example.com/h")
    (tmp_path / "WEBHOOK_SECRET").write_text("whsec_YWJj whsec_ZGVm\n")
    (tmp_path / "HF_TOKEN").write_text("")  # as install.sh creates it
    (tmp_path / "OTEL_EXPORTER_OTLP_HEADERS").write_text("key=of-a-file")
    settings = load_settings()
    assert [secret.get_secret_value() for secret in settings.webhook_secret] == ["whsec_YWJj", "whsec_ZGVm"]
    assert settings.hf_token is None
    assert "of-a-file" in settings.secrets
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_eHl6")
    assert [secret.get_secret_value() for secret in load_settings().webhook_secret] == ["whsec_eHl6"]


@pytest.mark.parametrize(("content", "words"), [(b"\xff", "not text in UTF-8"), (None, "Is a directory")])
def test_unreadable_credential_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, words: str
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = tmp_path / "WEBHOOK_SECRET"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as refused:
        load_settings()
    assert str(path) in str(refused.value)


def test_lists_are_comma_separated_and_standard_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSCRIPTD_INPUT_BUCKETS", "a-bucket, b-bucket")
    monkeypatch.setenv("TRANSCRIPTD_FORMATS", "md")
    monkeypatch.setenv("WEBHOOK_URL", "https://app.example.com/h")
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_YWJj whsec_ZGVm")
    monkeypatch.setenv("DEBUG", "true")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    settings = load_settings()
    assert settings.input_buckets == ("a-bucket", "b-bucket")
    assert settings.formats == ("md",)
    assert [secret.get_secret_value() for secret in settings.webhook_secret] == ["whsec_YWJj", "whsec_ZGVm"]
    assert settings.logging_level == "debug"
    assert "hf_secret" not in repr(settings)
    assert "whsec" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TRANSCRIPTD_HEARTBEAT_SECONDS", "50", "at most a third"),
        ("TRANSCRIPTD_VISIBILITY_TIMEOUT_SECONDS", "30", "at most a third"),
        ("TRANSCRIPTD_JOB_TIMEOUT_SECONDS", "43000", "at most 11.5 h"),
        ("TRANSCRIPTD_MIN_SPEAKERS", "9", "at most max_speakers"),
        ("TRANSCRIPTD_DLQ_URL", "https://sqs/q", "different queues"),
        ("WEBHOOK_URL", "https://app.example.com/h", "need WEBHOOK_SECRET"),
        ("TRANSCRIPTD_OUTPUT_KMS_KEY_ID", "alias/x", "needs output_encryption=aws:kms"),
        ("TRANSCRIPTD_OUTPUT_ENCRYPTION", "kms", "TRANSCRIPTD_OUTPUT_ENCRYPTION: "),
        ("TRANSCRIPTD_OUTPUT_ACL", "public-read", "TRANSCRIPTD_OUTPUT_ACL: "),
        ("TRANSCRIPTD_S3_ADDRESSING_STYLE", "host", "TRANSCRIPTD_S3_ADDRESSING_STYLE: "),
        ("TRANSCRIPTD_BATCH_SIZE", "many", "TRANSCRIPTD_BATCH_SIZE: "),
        ("TRANSCRIPTD_FORMATS", "pdf", "TRANSCRIPTD_FORMATS"),
        ("TRANSCRIPTD_MODLE", "x", "did you mean TRANSCRIPTD_MODEL?"),
    ],
)
def test_invalid_value_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^invalid settings|is not a setting") as caught:
        load_settings()
    assert words in caught.value.message


TWO_QUEUES = {
    "queue_url": "interactive=https://sqs/a, batch=https://sqs/b",
    "dlq_url": "batch=https://sqs/d interactive=https://sqs/c",
}

CROSS_CHECKS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # rule → settings that violate it, the closest ones that do not, and the message
    "heartbeat": (
        {"visibility_timeout_seconds": 120, "heartbeat_seconds": 40.1},
        {"visibility_timeout_seconds": 120, "heartbeat_seconds": 40},
        "heartbeat_seconds must be at most a third",
    ),
    "receive": (
        {"visibility_timeout_seconds": 30, "heartbeat_seconds": 5, "receive_wait_time_seconds": 15},
        {"visibility_timeout_seconds": 30, "heartbeat_seconds": 5, "receive_wait_time_seconds": 14},
        "receive_wait_time_seconds must be less than half",
    ),
    "stall": (
        {
            "receive_wait_time_seconds": 20,
            "queue_timeout_seconds": 10,
            "queue_backoff_max_seconds": 30,
            "poll_stall_seconds": 59,
        },
        {
            "receive_wait_time_seconds": 20,
            "queue_timeout_seconds": 10,
            "queue_backoff_max_seconds": 30,
            "poll_stall_seconds": 60,
        },
        "poll_stall_seconds must be at least",
    ),
    "job": (
        {"job_timeout_seconds": MAX_LEASE_SECONDS - 1799},
        {"job_timeout_seconds": MAX_LEASE_SECONDS - 1800},
        "job_timeout_seconds must be at most 11.5 h",
    ),
    "group": (
        {"autoscaling_group": "g", "host": "none"},
        {"autoscaling_group": "g", "host": "ec2"},
        "autoscaling_group needs host=ec2",
    ),
    **{
        name: ({name: value}, {name: value, "autoscaling_group": "g", "host": "ec2"}, "need autoscaling_group")
        for name, value in {"launch_hook": "h", "termination_hook": "h", "idle_exit_seconds": 600}.items()
    },
    "idle": (
        {"idle_exit_seconds": 39, "receive_wait_time_seconds": 20, "autoscaling_group": "g", "host": "ec2"},
        {"idle_exit_seconds": 40, "receive_wait_time_seconds": 20, "autoscaling_group": "g", "host": "ec2"},
        "idle_exit_seconds must be at least two receive waits",
    ),
    "speakers": (
        {"min_speakers": 3, "max_speakers": 2},
        {"min_speakers": 2, "max_speakers": 2},
        "min_speakers must be at most max_speakers",
    ),
    "dlq": ({"dlq_url": "https://sqs/q"}, {"dlq_url": "https://sqs/e"}, "must be different queues"),
    "queue names": (
        {"queue_url": "https://sqs/a https://sqs/b", "dlq_url": "https://sqs/c"},
        {"queue_url": "a=https://sqs/a b=https://sqs/b", "dlq_url": "b=https://sqs/d a=https://sqs/c"},
        "several queues need a name each",
    ),
    "queue name twice": (
        {"queue_url": "a=https://sqs/a a=https://sqs/b", "dlq_url": "a=https://sqs/c"},
        {"queue_url": "a=https://sqs/a", "dlq_url": "a=https://sqs/c"},
        "several queues need a name each",
    ),
    "reserved queue name": (
        {"queue_url": "outbox=https://sqs/a", "dlq_url": "outbox=https://sqs/c"},
        {"queue_url": "inbox=https://sqs/a", "dlq_url": "inbox=https://sqs/c"},
        "several queues need a name each",
    ),
    "dlq of each": (
        {**TWO_QUEUES, "dlq_url": "interactive=https://sqs/c"},
        TWO_QUEUES,
        "one dead-letter queue for each queue",
    ),
    "shared dlq": (
        {**TWO_QUEUES, "dlq_url": "interactive=https://sqs/c batch=https://sqs/c"},
        TWO_QUEUES,
        "must be different queues",
    ),
    "weights": (
        {**TWO_QUEUES, "queue_weights": "interactive=3"},
        {**TWO_QUEUES, "queue_weights": "interactive=3,batch=0.5"},
        "queue_weights must have a number above 0",
    ),
    "weight of nothing": (
        {**TWO_QUEUES, "queue_weights": "interactive=3 batch=0"},
        {**TWO_QUEUES, "queue_weights": "interactive=3 batch=1"},
        "queue_weights must have a number above 0",
    ),
    "weight that is none": (
        {**TWO_QUEUES, "queue_weights": "interactive=nan batch=1"},
        TWO_QUEUES,
        "queue_weights must have a number above 0",
    ),
    "lease of a stranger": (
        {**TWO_QUEUES, "queue_visibility_timeout_seconds": "other=600"},
        {**TWO_QUEUES, "queue_visibility_timeout_seconds": "batch=600"},
        "queue_visibility_timeout_seconds must have numbers",
    ),
    "heartbeat of one queue": (
        {**TWO_QUEUES, "queue_visibility_timeout_seconds": "batch=60"},
        {**TWO_QUEUES, "queue_visibility_timeout_seconds": "batch=90"},
        "heartbeat_seconds must be at most a third",
    ),
    "place for each queue": (
        {**TWO_QUEUES, "max_jobs_in_flight": 1},
        {**TWO_QUEUES, "max_jobs_in_flight": 2},
        "max_jobs_in_flight must be at least the number of queues",
    ),
    "outbox is the queue": (
        {"outbox_url": "https://sqs/q"},
        {"outbox_url": "https://sqs/o"},
        "outbox_url must differ",
    ),
    "outbox is the dlq": (
        {"outbox_url": "https://sqs/d"},
        {"outbox_url": "https://sqs/o"},
        "outbox_url must differ",
    ),
    "schedule": (
        {"outbox_retry_schedule_seconds": (5, 5)},
        {"outbox_retry_schedule_seconds": (5, 6)},
        "outbox_retry_schedule_seconds must be positive and increasing",
    ),
    "url without secret": (
        {"webhook_url": "https://a/h"},
        {"webhook_url": "https://a/h", "webhook_secret": "whsec_x"},
        "need WEBHOOK_SECRET",
    ),
    "hosts without secret": (
        {"webhook_hosts": ("a",)},
        {"webhook_hosts": ("a",), "webhook_secret": "whsec_x"},
        "need WEBHOOK_SECRET",
    ),
    "url without TLS": (
        {"webhook_url": "http://a/h", "webhook_secret": "whsec_x"},
        {"webhook_url": "http://a/h", "webhook_secret": "whsec_x", "webhook_allow_http": True},
        "WEBHOOK_URL must be https",
    ),
    "url of another scheme": (
        {"webhook_url": "ftp://a/h", "webhook_secret": "whsec_x", "webhook_allow_http": True},
        {"webhook_url": "https://a/h", "webhook_secret": "whsec_x", "webhook_allow_http": True},
        "WEBHOOK_URL must be https",
    ),
}


@pytest.mark.parametrize(("breaks", "keeps", "words"), CROSS_CHECKS.values(), ids=CROSS_CHECKS)
def test_contradictory_settings_are_rejected(breaks: dict[str, Any], keeps: dict[str, Any], words: str) -> None:
    load_settings(**keeps)
    with pytest.raises(ConfigError) as caught:
        load_settings(**breaks)
    assert words in caught.value.message


SECRETS = {
    "WEBHOOK_SECRET": ("whsec_b25lLW9uZQ== whsec_dHdvLXR3bw==", ["whsec_b25lLW9uZQ==", "b25lLW9uZQ==", "dHdvLXR3bw=="]),
    "HF_TOKEN": ("hf_planted", ["hf_planted"]),
    "OTEL_EXPORTER_OTLP_HEADERS": ("authorization=Basic planted,x-key=second-one", ["Basic planted", "second-one"]),
    "AWS_SECRET_ACCESS_KEY": ("planted/key", ["planted/key"]),
    "AWS_SESSION_TOKEN": ("planted-session", ["planted-session"]),
}


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_is_redacted_in_logs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, hidden = SECRETS[name]
    for each in SECRETS:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    logger, stream = logging.getLogger("transcriptd.planted"), StringIO()
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level, hook, thread_hook = root.level, sys.excepthook, threading.excepthook
    try:
        configure("info", "poller", hidden=load_settings().secrets, stream=stream)
        for secret in hidden:
            logger.warning("a fault", extra={"error": f"the peer said {secret}!"})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        sys.excepthook, threading.excepthook = hook, thread_hook
    lines = stream.getvalue()
    assert lines.count("the peer said ") == len(hidden)
    assert not [secret for secret in hidden if secret in lines]


def test_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSCRIPTD_QUEUE_URL")
    with pytest.raises(ConfigError, match="TRANSCRIPTD_QUEUE_URL: Field required"):
        load_settings()


def test_errors_contain_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_c2VjcmV0")
    monkeypatch.setenv("TRANSCRIPTD_HEARTBEAT_SECONDS", "50")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "c2VjcmV0" not in caught.value.message


def test_queues_are_in_the_order_of_the_setting() -> None:
    given = {**TWO_QUEUES, "queue_weights": "batch=1 interactive=3", "queue_visibility_timeout_seconds": "batch=600"}
    interactive, batch = some_settings(**given).queues
    assert (interactive.name, interactive.url, interactive.dlq_url) == ("interactive", "https://sqs/a", "https://sqs/c")
    assert (interactive.priority, batch.priority) == (Priority(0, 3.0), Priority(1, 1.0))
    assert (interactive.visibility_timeout_seconds, batch.visibility_timeout_seconds) == (120, 600)
    (only,) = some_settings().queues
    assert (only.name, only.priority) == ("jobs", ONLY)
