"""Empty variables, and the rules for queue URLs."""

import os

import pytest

from daemon.config import Settings, load_settings, variable
from daemon.environment import drop_empty_variables
from daemon.errors import ConfigError
from daemon.settings_rules import queue_region

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/jobs"
DLQ = "https://sqs.eu-west-1.amazonaws.com/123456789012/dead"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("TRANSCRIPTD_QUEUE_URL", QUEUE)
    monkeypatch.setenv("TRANSCRIPTD_DLQ_URL", DLQ)


def test_every_setting_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_settings()
    for name in Settings.model_fields:
        if name not in ("queue_url", "dlq_url"):
            monkeypatch.setenv(variable(name), "")
    monkeypatch.setenv("TRANSCRIPTD_NOT_A_SETTING", "")
    assert load_settings() == expected


def test_empty_queue_url_is_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSCRIPTD_QUEUE_URL", "")
    with pytest.raises(ConfigError, match="TRANSCRIPTD_QUEUE_URL: Field required"):
        load_settings()


def test_empty_variables_are_removed_for_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "HF_TOKEN", "https_proxy", "NO_PROXY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", " ")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    drop_empty_variables()
    assert not {"AWS_PROFILE", "AWS_REGION", "HF_TOKEN", "https_proxy", "NO_PROXY", "AWS_ENDPOINT_URL"} & set(
        os.environ
    )
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "", "no GPU, which has a meaning"
    assert os.environ["HTTP_PROXY"] == "http://proxy:3128"


def test_all_problems_are_reported_at_once_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSCRIPTD_DLQ_URL")
    monkeypatch.setenv("TRANSCRIPTD_MODLE", "x")
    monkeypatch.setenv("TRANSCRIPTD_BATCH_SIZE", "many")
    monkeypatch.setenv("TRANSCRIPTD_HEARTBEAT_SECONDS", "100")
    monkeypatch.setenv("TRANSCRIPTD_MIN_SPEAKERS", "9")
    monkeypatch.setenv("WEBHOOK_URL", "http://app/h")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    heads = [line.strip().split(":")[0].split(" is ")[0] for line in caught.value.message.splitlines()[1:]]
    assert heads == [
        "TRANSCRIPTD_MODLE",
        "TRANSCRIPTD_DLQ_URL",
        "TRANSCRIPTD_BATCH_SIZE",
        "TRANSCRIPTD_HEARTBEAT_SECONDS, TRANSCRIPTD_VISIBILITY_TIMEOUT_SECONDS",
        "TRANSCRIPTD_MIN_SPEAKERS, TRANSCRIPTD_MAX_SPEAKERS",
        "WEBHOOK_URL, TRANSCRIPTD_WEBHOOK_HOSTS, WEBHOOK_SECRET",
        "WEBHOOK_URL, TRANSCRIPTD_WEBHOOK_ALLOW_HTTP",
    ]


@pytest.mark.parametrize("name", ["queue_url", "dlq_url", "outbox_url"])
def test_fifo_queue_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(variable(name), "https://sqs.eu-west-1.amazonaws.com/123456789012/some.fifo")
    with pytest.raises(ConfigError, match=f"{variable(name)}: {name} is a FIFO queue"):
        load_settings()


def test_queues_in_two_regions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSCRIPTD_DLQ_URL", DLQ.replace("eu-west-1", "eu-west-2"))
    with pytest.raises(ConfigError, match="must be in the same region"):
        load_settings()


@pytest.mark.parametrize(
    ("url", "region"),
    [
        (QUEUE, "eu-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://sqs-fips.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://eu-west-1.queue.amazonaws.com/1/q", "eu-west-1"),
        ("https://sqs.eu-west-1.api.aws/1/q", "eu-west-1"),
        ("https://vpce-0a-b.sqs.eu-west-1.vpce.amazonaws.com/1/q", "eu-west-1"),
        ("http://127.0.0.1:5000/1/q", None),
        ("https://sqs.eu-west-1.amazonaws.com.example.com/1/q", None),
        ("https://[", None),
        (None, None),
    ],
)
def test_region_is_read_from_the_url(url: str | None, region: str | None) -> None:
    assert queue_region(url) == region
