"""Settings: from the environment, refused with the rule in words."""

import pytest

from daemon.config import Settings, load_settings, variable
from daemon.errors import ConfigError


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


def test_lists_are_comma_separated_and_well_known_names_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
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
        ("TRANSCRIPTD_JOB_TIMEOUT_SECONDS", "43000", "half an hour below 12 h"),
        ("TRANSCRIPTD_MIN_SPEAKERS", "9", "larger than max_speakers"),
        ("TRANSCRIPTD_DLQ_URL", "https://sqs/q", "two queues"),
        ("WEBHOOK_URL", "https://app.example.com/h", "need WEBHOOK_SECRET"),
        ("TRANSCRIPTD_BATCH_SIZE", "many", "TRANSCRIPTD_BATCH_SIZE: "),
        ("TRANSCRIPTD_FORMATS", "pdf", "TRANSCRIPTD_FORMATS"),
        ("TRANSCRIPTD_MODLE", "x", "did you mean TRANSCRIPTD_MODEL?"),
    ],
)
def test_refused_in_words(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"^the settings|is not a setting") as caught:
        load_settings()
    assert words in caught.value.message


def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSCRIPTD_QUEUE_URL")
    with pytest.raises(ConfigError, match="TRANSCRIPTD_QUEUE_URL: Field required"):
        load_settings()


def test_no_secret_in_a_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_c2VjcmV0")
    monkeypatch.setenv("TRANSCRIPTD_HEARTBEAT_SECONDS", "50")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "c2VjcmV0" not in caught.value.message
