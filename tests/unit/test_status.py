"""The record of jobs, what a snapshot leaves out, and that no text becomes markup."""

import json
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import Settings
from daemon.delivery import Delivery
from daemon.history import Delivery as Entry
from daemon.history import History
from daemon.job import parse_job
from daemon.snapshot import public_settings
from daemon.status import MAX_OUTCOMES, Record
from daemon.status_page import element, policy, span, to_html
from daemon.status_server import is_this_machine
from daemon.wording import MAX_ERROR_CHARS, cut_urls
from tests.conftest import settings_with
from tests.fakes import received

# --- the record ---------------------------------------------------------------------------------------------------


def test_a_delivery_is_in_hand_until_it_ends_however_it_does() -> None:
    record, delivery = Record(), Delivery(received(receive_count=3))

    def fail() -> None:
        with record.holding(delivery):
            (job,) = record.jobs
            assert (job.job_id, job.message_id, job.receive_count, job.stage) == (None, "m-1", 3, "check")
            assert (job.fraction, job.left_seconds, job.lease_margin_seconds) == (None, None, None)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert record.jobs == []


def delivery_of(settings: Settings, *, history: History | None = None, **options: Any) -> Delivery:
    """A delivery whose recording of 600 s has been recognised."""
    body = json.dumps({"job_id": "job-1", "input": {"bucket": "media", "key": "a"}, "options": options})
    delivery = Delivery(received(body), job=parse_job(body, settings), history=history)
    delivery.course.audio_seconds = 600.0
    delivery.course.report("asr", 1.0, time.monotonic())
    return delivery


def test_the_time_left_is_learnt_from_jobs_of_the_kind_that_were_done_from_their_beginning() -> None:
    record, settings = Record(), settings_with()

    def left(delivery: Delivery) -> float | None:
        with record.holding(delivery):
            return record.jobs[0].left_seconds

    resumed = History(deliveries=(Entry(message_id="m-1", receive_count=1, worker_id="w"),))
    for reason, history in (("duplicate", None), ("published", resumed)):
        done = delivery_of(settings, history=history)
        done.timings_seconds = {"diarize": 1.0}
        record.ended(done, "deleted", reason, settled=True)
    assert left(delivery_of(settings)) is None
    done = delivery_of(settings, history=History())
    done.timings_seconds = {"asr": 60.0, "align": 900.0, "diarize": 2700.0}
    record.ended(done, "deleted", "published", settled=True)
    assert left(delivery_of(settings)) == pytest.approx(3600, abs=600)  # of which time on the clock may be gone
    assert left(delivery_of(settings, model="tiny.en")) is None
    assert left(delivery_of(settings, diarize=False)) is None


def test_outcomes_are_bounded_in_number_and_length() -> None:
    record = Record()
    for number in range(MAX_OUTCOMES + 5):
        message = f"{number} " + "x" * 10_000
        record.ended(Delivery(received()), "retried", "storage_unavailable", message=message, settled=True)
    outcomes = record.outcomes
    assert len(outcomes) == MAX_OUTCOMES
    assert [(each.message or "").split()[0] for each in outcomes[:2]] == ["54", "53"]
    assert all(len(each.message or "") <= MAX_ERROR_CHARS for each in outcomes)


def test_a_fault_of_ours_is_told_without_what_it_quotes() -> None:
    record, delivery = Record(), Delivery(received('{"job_id": "job-1"}'))
    record.ended(delivery, "retried", "internal_error", message="ValueError: not a word: 'planted'", settled=False)
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
def test_urls_lose_what_may_be_secret(text: str, shown: str) -> None:
    assert cut_urls(text) == shown


# --- settings -----------------------------------------------------------------------------------------------------


def test_no_secret_is_among_the_settings(make_settings: Callable[..., Settings]) -> None:
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


def test_what_differs_from_its_default_is_marked(tmp_path: Path) -> None:
    shown = {each.name: each for each in public_settings(settings_with(diarize=False, scratch_dir=tmp_path))}
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


# --- text and names -----------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a parser makes of markup: its tags with their attributes, and its text."""

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


def test_what_turns_text_around_and_line_breaks_are_taken_out() -> None:
    assert element("p", "a\u202eb\nc\x00d\ud800é").children == ("a�b c�d�é",)


def test_the_policy_runs_nothing_but_the_page_s_own() -> None:
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


def test_one_host_header_is_due() -> None:
    assert not is_this_machine([])
    assert not is_this_machine(["localhost", "localhost"])
