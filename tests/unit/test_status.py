"""The job tracker, what the status omits, and that no text becomes markup."""

import json
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.aws.sqs import ReceivedMessage
from daemon.config import Settings
from daemon.errors import StorageUnavailable, TranscriptdError
from daemon.jobs.delivery import Accepted, Claim, DeliveryResult, LiveDelivery, Valid
from daemon.jobs.delivery_log import DeliveryLog
from daemon.jobs.delivery_log import DeliveryRecord as Entry
from daemon.jobs.lease import Lease
from daemon.jobs.tracker import MAX_OUTCOMES, JobTracker
from daemon.jobs.validation import parse_job
from daemon.status.hosts import is_this_machine
from daemon.status.page import element, policy, span, to_html
from daemon.status.status_collector import public_settings
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import MAX_ERROR_CHARS, redact_urls
from daemon.telemetry.spans import Span
from tests.support.aws.fakes import FakeQueue, received
from tests.support.builders import some_settings

# --- job tracker --------------------------------------------------------------------------------------------------


def a_delivery(message: ReceivedMessage) -> LiveDelivery:
    lease = Lease(FakeQueue(), message, some_settings(), Metrics())
    return LiveDelivery(Claim(message, lease, Span()))


def test_delivery_is_in_progress_until_it_ends() -> None:
    record, delivery = JobTracker(), a_delivery(received(receive_count=3))

    def fail() -> None:
        with record.track(delivery):
            (job,) = record.jobs
            assert (job.job_id, job.message_id, job.receive_count, job.stage) == (None, "m-1", 3, "check")
            assert (job.fraction, job.remaining_seconds) == (None, None)
            assert job.lease_margin_seconds == pytest.approx(0.9 * some_settings().visibility_timeout_seconds, abs=60)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert record.jobs == []


def delivery_of(settings: Settings, *, earlier: DeliveryLog | None = None, **options: Any) -> LiveDelivery:
    """Return a delivery whose recording of 600 s has been transcribed."""
    body = json.dumps({"job_id": "job-1", "input": {"bucket": "media", "key": "a"}, "options": options})
    delivery = a_delivery(received(body))
    job = parse_job(body, settings)
    delivery.reached = Valid(delivery.claim, job) if earlier is None else Accepted(delivery.claim, job, earlier)
    delivery.progress.audio_seconds = 600.0
    delivery.progress.report("asr", 1.0, time.monotonic())
    return delivery


def test_remaining_time_is_estimated_from_similar_jobs_that_were_not_resumed() -> None:
    record, settings = JobTracker(), some_settings()

    def left(delivery: LiveDelivery) -> float | None:
        with record.track(delivery):
            return record.jobs[0].remaining_seconds

    resumed = DeliveryLog(deliveries=(Entry(message_id="m-1", receive_count=1, worker_id="w"),))
    for reason, earlier in (("duplicate", None), ("published", resumed)):
        done = delivery_of(settings, earlier=earlier)
        done.timings_seconds = {"diarize": 1.0}
        record.ended(DeliveryResult(done, "published", reason, settled=True))
    assert left(delivery_of(settings)) is None
    done = delivery_of(settings, earlier=DeliveryLog())
    done.timings_seconds = {"asr": 60.0, "align": 900.0, "diarize": 2700.0}
    record.ended(DeliveryResult(done, "published", "published", settled=True))
    assert left(delivery_of(settings)) == pytest.approx(2700, abs=600)  # of which some wall-clock time may have passed
    assert left(delivery_of(settings, model="tiny.en")) is None
    assert left(delivery_of(settings, diarize=False)) is None


def test_outcomes_are_bounded_in_number_and_length() -> None:
    record = JobTracker()
    for number in range(MAX_OUTCOMES + 5):
        error = StorageUnavailable(f"{number} " + "x" * 10_000)
        record.ended(DeliveryResult(a_delivery(received()), "retried", error.code, settled=True, error=error))
    outcomes = record.outcomes
    assert len(outcomes) == MAX_OUTCOMES
    assert [(each.message or "").split()[0] for each in outcomes[:2]] == ["54", "53"]
    assert all(len(each.message or "") <= MAX_ERROR_CHARS for each in outcomes)


def test_internal_error_is_recorded_without_its_message() -> None:
    record, delivery = JobTracker(), a_delivery(received('{"job_id": "job-1"}'))
    fault = TranscriptdError("ValueError: not a word: 'planted'")
    record.ended(DeliveryResult(delivery, "retried", fault.code, settled=False, error=fault))
    (outcome,) = record.outcomes
    told = "ValueError; the delivery record or the dead letter has the rest"
    assert (outcome.job_id, outcome.message, outcome.settled) == ("job-1", told, False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no route to http://a.example/x", "no route to http://a.example/x"),
        ("at https://user:planted@a.example:8080/q failed", "at https://a.example:8080/q failed"),
        ('Could not connect to "https://a.example/q?X-Amz-Signature=planted"', 'Could not connect to "https://a.example/q?…"'),
        ("s3://planted@b/k#planted, twice: http://h/?planted", "s3://b/k#… twice: http://h/?…"),
        ("http://[planted/", "…"),
    ],
)  # fmt: skip
def test_urls_are_stripped_of_secrets(text: str, shown: str) -> None:
    assert redact_urls(text) == shown


# --- settings -----------------------------------------------------------------------------------------------------


def test_settings_contain_no_secret(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(
        webhook_secret="whsec_planted1 whsec_planted2",
        hf_token="hf_planted",
        otlp_headers="authorization=planted",
        webhook_url="https://user:planted@hooks.example.com/services/planted/planted?planted=planted",
        outbox_url="https://planted:planted@sqs.example.com/1/outbox?planted#planted",
        imds_url="http://planted@169.254.169.254",
        models=("https://planted@models.example.com/a?planted",),
    )
    shown = {each.name: each for each in public_settings(settings)}
    text = json.dumps([each.value for each in shown.values()])
    assert "planted" not in text
    assert not {"WEBHOOK_SECRET", "HF_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS", "AWS_EC2_METADATA_SERVICE_ENDPOINT"} & set(
        shown
    )
    assert len(shown) == len(Settings.model_fields) - 4
    assert shown["WEBHOOK_URL"].value == "https://hooks.example.com/…"
    assert shown["TRANSCRIPTD_OUTBOX_URL"].value == "https://sqs.example.com/1/outbox?…"


def test_changed_settings_are_marked(tmp_path: Path) -> None:
    shown = {each.name: each for each in public_settings(some_settings(diarize=False, scratch_dir=tmp_path))}
    assert (shown["TRANSCRIPTD_DIARIZE"].value, shown["TRANSCRIPTD_DIARIZE"].changed) == ("false", True)
    assert (shown["TRANSCRIPTD_QUEUE_URL"].value, shown["TRANSCRIPTD_QUEUE_URL"].changed) == (
        "http://localhost/queue",
        True,
    )
    assert (shown["TRANSCRIPTD_HEARTBEAT_SECONDS"].value, shown["TRANSCRIPTD_HEARTBEAT_SECONDS"].changed) == (
        "30",
        False,
    )
    assert shown["TRANSCRIPTD_OUTBOX_URL"].value == "not set"


# --- text and host names ------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """A parser that collects the tags of markup with their attributes, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[Any] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append((tag, attributes))

    def handle_data(self, data: str) -> None:
        self.text += data


MARKUP = st.lists(st.sampled_from([*"<>&\"'=/! x\n", "<b>", "</p>", "<!--", "&lt;", "&#60;"]) | st.characters()).map(
    "".join
)


@given(MARKUP, MARKUP)
def test_text_stays_text(text: str, value: str) -> None:
    tree = element("p", element("b", text), class_=value)
    read = Reader(to_html(tree))
    assert read.tags == [("p", [("class", tree.attributes["class"])]), ("b", [])]
    assert (read.text,) == element("b", text).children
    to_html(tree).encode()  # no lone surrogates


def test_bidi_controls_and_line_breaks_are_removed() -> None:
    assert element("p", "a\u202eb\nc\x00d\ud800é").children == ("a�b c�d�é",)


def test_policy_allows_only_the_pages_own_script() -> None:
    assert "unsafe" not in policy()
    assert policy().startswith("default-src 'none'; script-src 'sha256-")
    assert "trusted-types 'none'" in policy()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min"), (90000, "1 d 1 h"), (-3, "0 s")],
)  # fmt: skip
def test_durations(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.0.0.1:9464", "localhost:1", "LOCALHOST.", "[::1]:9464", "10.0.0.7")],
        *[(host, True) for host in ("gpu-7", "gpu-7:9464", "GPU-7.fleet.example.com", "gpu-7.fleet.example.com.:80")],
        *[(host, False) for host in ("", "evil.example", "gpu-7.evil.example", "localhost.evil.example:9464", "127.0.0.1.evil.example")],
        *[(host, False) for host in ("user@localhost", "localhost/x", "localhost:x", "127.1", "[evil]", "[::1", "localhost localhost")],
    ],
)  # fmt: skip
def test_hosts_that_are_this_machine(host: str, ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-7.fleet.example.com")
    assert is_this_machine([host]) is ours


def test_exactly_one_host_header_is_required() -> None:
    assert not is_this_machine([])
    assert not is_this_machine(["localhost", "localhost"])
