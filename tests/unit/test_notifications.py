"""Notifications of new objects: what becomes of each form that AWS sends, and of everything that resembles one."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config import Settings, load_settings
from daemon.errors import BucketNotAllowed, ConfigError, InvalidJob, InvalidJson, SeveralRecords, UnknownProfile
from daemon.jobs.validation import check_profiles, parse_job, peek_job_id, peek_webhook_url
from daemon.schema.job import JOB_ID, Job
from daemon.schema.notifications import CreatedObject, Ignored, NotAJob
from daemon.schema.profiles import Profile, parse_profiles
from tests.support.builders import a_message, some_settings
from tests.support.notifications import from_eventbridge, from_s3, from_sns, s3_test_event

PROFILES = parse_profiles("""
    [calls]
    prefix = "calls/"
    options = {languages = ["de", "en"], diarize = true, min_speakers = 2, subtitles = {max_lines = 1}}
    output.prefix = "transcripts/calls/"

    [support]
    prefix = "calls/support/"
    options.channels = "split"
    webhook.url = "https://app.example.com/support"

    [elsewhere]
    prefix = "calls/"
    bucket = "other"
    options.task = "translate"

    [by-name]
    options.formats = ["srt"]
""")
SETTINGS = some_settings(
    input_buckets=("media", "other"), profiles=PROFILES, webhook_hosts=("app.example.com",), webhook_secret=("whsec_x",)
)


def job_of(body: dict[str, Any], settings: Settings = SETTINGS) -> Job:
    return parse_job(json.dumps(body), settings)


def ignored(body: dict[str, Any], settings: Settings = SETTINGS) -> Ignored:
    with pytest.raises(NotAJob) as caught:
        job_of(body, settings)
    return caught.value.reason


# --- the forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda body: body, from_sns], ids=["alone", "in SNS"])
@pytest.mark.parametrize("form", [from_s3, from_eventbridge])
def test_a_new_object_is_a_job(form: Any, wrap: Any) -> None:
    body = wrap(form("media", "in/Gespräch mit A+B (1).mp4", version_id="v1"))
    job = job_of(body)
    assert job.input.model_dump(exclude_unset=True) == {
        "bucket": "media",
        "key": "in/Gespräch mit A+B (1).mp4",
        "version_id": "v1",
    }
    assert re.fullmatch(r"Gespr-ch-mit-A-B-1--[0-9a-f]{16}", job.job_id)
    assert job.job_id == peek_job_id(json.dumps(body))
    assert job.options == parse_job(a_message(), SETTINGS).options
    assert job.output_prefix == f"transcripts/{job.job_id}/"


def test_job_message_in_the_envelope_of_sns_is_a_job() -> None:
    assert job_of(from_sns(json.loads(a_message()))) == parse_job(a_message(), SETTINGS)


def test_every_notification_of_an_object_is_the_same_job() -> None:
    bodies = [form("media", "a.wav", version_id="v1") for form in (from_s3, from_eventbridge)]
    bodies += [from_sns(body) for body in bodies]
    bodies[0]["Records"][0]["eventName"] = "ObjectCreated:Copy"
    bodies[0]["Records"][0]["s3"]["object"]["sequencer"] = "another"
    assert len({job_of(body).job_id for body in bodies}) == 1


@pytest.mark.parametrize("form", [from_s3, from_eventbridge])
def test_other_content_is_another_job(form: Any) -> None:
    bodies = [
        form("media", "a.wav", version_id="v1"),
        form("media", "a.wav", version_id="v2"),
        form("media", "b.wav", version_id="v1"),
        form("other", "a.wav", version_id="v1"),
        form("media", "a.wav", etag="1"),
        form("media", "a.wav", etag="2"),
    ]
    assert len({job_of(body).job_id for body in bodies}) == len(bodies)


def test_bucket_without_versions_has_no_version() -> None:
    assert job_of(from_s3("media", "a.wav", version_id="null")).input.version_id is None


@given(st.text(min_size=1, max_size=40))
def test_every_key_gives_a_valid_job_id(key: str) -> None:
    assert JOB_ID.fullmatch(CreatedObject("media", key, None, "e").job_id)


def test_keys_of_s3_are_encoded_and_those_of_eventbridge_are_not() -> None:
    assert job_of(from_s3("media", "a b+c%41.wav")).input.key == "a b+c%41.wav"
    raw = from_s3("media", "x")
    raw["Records"][0]["s3"]["object"]["key"] = "a+b%2Bc%E8%AA%9E.wav"
    assert job_of(raw).input.key == "a b+c語.wav"
    assert job_of(from_eventbridge("media", "a+b%2Bc.wav")).input.key == "a+b%2Bc.wav"


def test_allowed_buckets_apply() -> None:
    with pytest.raises(BucketNotAllowed, match="secret"):
        job_of(from_s3("secret", "a.wav"))


# --- no jobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda body: body, from_sns], ids=["alone", "in SNS"])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (s3_test_event("media"), "test_event"),
        (from_s3("media", "a.wav", event="ObjectRemoved:Delete"), "other_event"),
        (from_s3("media", "a.wav", event="ObjectRestore:Completed"), "other_event"),
        (from_eventbridge("media", "a.wav", event="Object Deleted"), "other_event"),
        (from_s3("media", "folder/"), "empty_object"),
        (from_s3("media", "a.wav", size=0), "empty_object"),
        (from_eventbridge("media", "folder/"), "empty_object"),
        (from_eventbridge("media", "a.wav", size=0), "empty_object"),
    ],
)
def test_events_without_a_recording_are_ignored(body: dict[str, Any], reason: str, wrap: Any) -> None:
    assert ignored(wrap(body)).value == reason
    assert peek_job_id(json.dumps(wrap(body))) is None


OWN = (
    "any/job-1/manifest.json any/job-1/status.json any/job-1/cancel job-1/cancel any/job-1/webhook.json any/job-1/transcript.json any/job-1/transcript.srt transcript.html "
    "any/job-1/checkpoints/deliveries.json any/job-1/checkpoints/0123456789abcdef/asr-00000.json .transcriptd-probe "
    "any/.transcriptd-check-01"
).split()


@pytest.mark.parametrize("key", OWN)
def test_results_are_no_recordings_wherever_they_are(key: str) -> None:
    assert ignored(from_s3("media", key), some_settings(output_prefix="/")).value == "own_object"


@pytest.mark.parametrize(
    "key",
    [
        "transcripts.wav",
        "manifest.json.wav",
        "cancel",
        "calls/cancel.wav",
        "checkpoints/a.wav",
        "my-transcript.json/a.wav",
    ],
)
def test_similar_names_are_recordings(key: str) -> None:
    assert job_of(from_s3("media", key), some_settings(output_prefix="/")).input.key == key


@pytest.mark.parametrize(
    ("bucket", "key", "own"),
    [
        ("results", "transcripts/job-1/a.wav", True),
        ("archive", "transcripts/a.wav", True),
        ("archive", "2026/a.wav", True),
        ("results", "calls-out/a.wav", True),
        ("results", "in/a.wav", False),
        ("media", "transcripts/a.wav", False),  # the daemon writes nothing there
    ],
)
def test_nothing_below_an_output_prefix_is_a_recording(bucket: str, key: str, own: bool) -> None:
    profiles = (Profile.model_validate({"name": "a", "output": {"prefix": "calls-out"}}),)
    settings = some_settings(output_buckets=("archive",), output_prefixes=("2026",), profiles=profiles)
    if own:
        assert ignored(from_s3(bucket, key), settings).value == "own_object"
    else:
        assert job_of(from_s3(bucket, key), settings).input.key == key


# --- what cannot be read ------------------------------------------------------------------------------------------------


def changed(path: str, value: Any, body: dict[str, Any] | None = None) -> dict[str, Any]:
    body = body or from_s3("media", "a.wav")
    *way, last = path.split(".")
    place: Any = body
    for name in way:
        place = place[int(name) if name.isdigit() else name]
    place[last] = value
    return body


def test_a_notification_of_several_records_is_refused() -> None:
    body = from_s3("media", "a.wav")
    body["Records"] *= 2
    with pytest.raises(SeveralRecords, match="has 2 records; S3 sends one"):
        job_of(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (changed("Records", []), "Records is not a list"),
        (changed("Records", "a"), "Records is not a list"),
        (changed("Records", [1]), "Records is not a list"),
        (changed("Records.0.eventSource", "aws:ses"), '"aws:ses" is not S3'),
        (changed("Records.0.eventName", None), "no text in eventName"),
        (changed("Records.0.s3", []), "no text in s3.object.key"),
        (changed("Records.0.s3.object.key", "%FF"), "not UTF-8"),
        (changed("Records.0.s3.bucket.name", 1), "no text in s3.bucket.name"),
        (changed("source", "com.example", from_eventbridge("media", "a")), '"com.example" is not S3'),
        (changed("detail", None, from_eventbridge("media", "a")), "no text in detail.object.key"),
        (changed("detail.object.key", "\ud83d", from_eventbridge("media", "a")), "input.key"),
        (changed("Type", "SubscriptionConfirmation", from_sns({})), "confirm the subscription"),
        (changed("Message", {"a": 1}, from_sns({})), "no text in Message"),
    ],
)
def test_a_notification_that_cannot_be_read_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(words)):
        job_of(body)
    peek_job_id(json.dumps(body))


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 5000, "x" * 200_000])
def test_the_message_in_an_envelope_is_bounded_too(text: str) -> None:
    with pytest.raises(InvalidJson):
        job_of(changed("Message", text, from_sns({})))


@given(st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_part_of_a_notification_may_be_anything(value: Any) -> None:
    for path in ("Records", "Records.0", "Records.0.s3", "Records.0.s3.object", "Records.0.s3.bucket"):
        *way, last = path.split(".")
        place: Any = (body := from_s3("media", "a.wav"))
        for name in way:
            place = place[int(name) if name.isdigit() else name]
        place[int(last) if last.isdigit() else last] = value
        with pytest.raises(InvalidJob):
            job_of(body)


# --- profiles ---------------------------------------------------------------------------------------------------------


def test_profile_with_the_longest_prefix_is_used() -> None:
    calls = job_of(from_s3("media", "calls/a.wav"))
    assert calls.options.languages == ["de", "en"]
    assert calls.output_prefix == f"transcripts/calls/{calls.job_id}/"
    support = job_of(from_s3("media", "calls/support/a.wav"))
    assert (support.options.channels, support.webhook_url) == ("split", "https://app.example.com/support")
    assert job_of(from_s3("other", "calls/a.wav")).options.task == "translate"
    assert job_of(from_s3("media", "a.wav")).options == parse_job(a_message(), SETTINGS).options


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, {"languages": ["de", "en"], "min_speakers": 2, "diarize": True}),
        ({"options": {"languages": ["fr", "en"]}}, {"languages": ["fr", "en"]}),
        ({"options": {"language": "fr"}}, {"language": "fr", "languages": []}),
        ({"options": {"language": None}}, {"language": None, "languages": ["de", "en"]}),
        ({"options": {"num_speakers": 3}}, {"num_speakers": 3, "own_speaker_bounds": ["num_speakers"]}),
        ({"options": {"diarize": False}}, {"diarize": False}),
    ],
)
def test_a_message_has_precedence_over_its_profile(message: dict[str, Any], expected: dict[str, Any]) -> None:
    options = parse_job(a_message(profile="calls", **message), SETTINGS).options.model_dump()
    assert options | expected == options
    assert options["subtitles"]["max_lines"] == 1


def test_parts_of_a_profile_can_be_replaced_one_by_one() -> None:
    subtitles = {"subtitles": {"max_chars_per_line": 30}}
    job = parse_job(a_message(profile="calls", options=subtitles, output={"prefix": "transcripts/b"}), SETTINGS)
    assert (job.options.subtitles.max_lines, job.options.subtitles.max_chars_per_line) == (1, 30)
    assert job.output_prefix == "transcripts/b/job-1/"


def test_wrong_message_with_a_profile_is_refused_by_its_own_fault() -> None:
    with pytest.raises(InvalidJob, match="options"):
        parse_job(a_message(profile="calls", options=[]), SETTINGS)
    with pytest.raises(InvalidJob, match="modle"):
        parse_job(a_message(profile="calls", options={"modle": 1}), SETTINGS)
    with pytest.raises(InvalidJob, match="profile"):
        parse_job(a_message(profile="../x"), some_settings())


def test_unknown_profile_is_refused() -> None:
    with pytest.raises(UnknownProfile, match='did you mean "calls"'):
        parse_job(a_message(profile="call"), SETTINGS)
    with pytest.raises(UnknownProfile, match="TRANSCRIPTD_PROFILES"):
        parse_job(a_message(profile="calls"), some_settings())


def test_failure_of_a_job_is_reported_to_its_profiles_receiver() -> None:
    body = json.dumps(from_s3("secret", "calls/support/a.wav"))
    assert peek_webhook_url(body, SETTINGS) == "https://app.example.com/support"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a", "a.toml: "),
        ("a = 1", "a is not a table"),
        ("[a]\nprefx = 'x'", "a.prefx: Extra inputs are not permitted"),
        ("[a.options]\nlangauges = ['de']", "a.options.langauges"),
        ("['a b']", "a b.name"),
        ("[a]\nprefix = 'x/'\n[b]\nprefix = 'x/'", "a and b have the same prefix"),
    ],
)
def test_wrong_file_of_profiles_is_refused_at_the_start(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    monkeypatch.setenv("TRANSCRIPTD_PROFILES", str(file))
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load_settings(queue_url="http://localhost/queue", dlq_url="http://localhost/dlq")
    assert "TRANSCRIPTD_PROFILES" in caught.value.message


def test_file_of_profiles_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(queue_url="http://a/b", dlq_url="http://a/c", profiles=str(tmp_path / "none.toml"))


def test_profiles_that_make_no_valid_job_are_refused_at_the_start() -> None:
    check_profiles(SETTINGS)
    profiles = parse_profiles("[a]\noptions.model = 'gpt'\n[b]\noutput.prefix = 'elsewhere/'\n[c]\n")
    with pytest.raises(ConfigError, match=r"(?s)profile a: options.model \"gpt\".*profile b: output.prefix") as caught:
        check_profiles(some_settings(profiles=profiles))
    assert "profile c" not in caught.value.message
