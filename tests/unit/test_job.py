"""The job contract: which messages are accepted, which are rejected, and the error messages."""

import json
import re
import traceback
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from daemon.config import Settings
from daemon.errors import InvalidJob, JobIdConflict, NeedsTranscription, OnFailure, PrefixNotAllowed
from daemon.jobs.conflict import require_same_work
from daemon.jobs.progress import planned_stages
from daemon.jobs.refusal import EARLIER_NAMES
from daemon.jobs.validation import parse_job, peek_job_id, peek_parts, peek_webhook_url
from daemon.schema.job import Job
from daemon.schema.manifest import Manifest
from daemon.schema.options import OPTIONS_AFTER_WORDS, Options, SubtitleOptions
from tests.support.builders import a_manifest, a_message, some_settings

MIGRATING = (Path(__file__).parents[2] / "docs/migrating.md").read_text()

SETTINGS = Settings(
    queue_url="http://localhost/queue",
    dlq_url="http://localhost/dlq",
    input_buckets=("media",),
    output_bucket="results",
    output_buckets=("archive",),
    output_prefixes=("2026",),
    model="/models/base",
    models=("tiny.en", "large-v3", "large-v3-turbo"),
    webhook_hosts=("app.example.com",),
    webhook_secret=(SecretStr("whsec_x"),),
)


def options(**changes: Any) -> str:
    return a_message(options=changes)


def test_job_id_and_input_are_enough() -> None:
    job = parse_job(a_message(), SETTINGS)
    assert job.output_bucket == "results"
    assert job.output_key("manifest.json") == "transcripts/job-1/manifest.json"
    assert job.options.model == "base"
    assert (job.options.min_speakers, job.options.max_speakers) == (2, 6)
    assert job.options.formats == ["json", "md"]
    assert job.options.diarize is True


def test_all_options_are_accepted() -> None:
    job = parse_job(
        a_message(
            version=1,
            input={"bucket": "media", "key": "ü/ä b.mp4", "version_id": "v1"},
            output={"bucket": "archive", "prefix": "2026/11"},
            options={
                "model": "large-v3",
                "task": "translate",
                "language": "de",
                "diarize": False,
                "num_speakers": 3,
                "formats": ["md", "md"],
                "align": "attention",
                "channels": "mix",
                "initial_prompt": "Hi.",
                "hotwords": "Yankee",
                "audio_url": "https://media.example.com/a.mp4?X-Amz-Signature=1",
                "vocabulary": ["Dianne", "New Jersey"],
                "suppress_numerals": True,
                "multilingual": True,
            },
            webhook={"url": "https://app.example.com/hooks?a=1"},
            metadata={"anything": ["echoed", {"back": None}]},
        ),
        SETTINGS,
    )
    assert job.output_key("x") == "2026/11/job-1/x"
    assert job.options.formats == ["md"]
    assert job.options.vocabulary == ["Dianne", "New Jersey"]
    assert (job.options.suppress_numerals, job.options.multilingual) == (True, True)
    assert (job.options.num_speakers, job.options.min_speakers, job.options.max_speakers) == (3, None, None)
    assert job.webhook_url == "https://app.example.com/hooks?a=1"


REFUSED = {
    "not JSON": ("{", "invalid_json", "not JSON"),
    "NaN is not JSON": ('{"job_id": NaN}', "invalid_json", "NaN"),
    "a nesting bomb": ("[" * 100_000, "invalid_json", "not JSON"),
    "an array": ("[]", "invalid_json", "JSON array"),
    "no input": ('{"job_id": "a"}', "invalid_message", "input is missing"),
    "no key": ('{"job_id": "a", "input": {"bucket": "media"}}', "invalid_message", "input.key is missing"),
    "another version": (a_message(version=2), "invalid_message", "version"),
    "unknown field": (a_message(inputs={}), "unknown_field", 'did you mean "input"?'),
    "unknown option": (options(modle="base"), "unknown_field", 'unknown option "options.modle"; did you mean "model"?'),
    "unknown option, nothing near": (options(zzz=1), "unknown_field", "known here: model, task"),
    "unknown model": (options(model="large-v33"), "unknown_model", 'did you mean "large-v3"?'),
    "unknown format": (options(formats=["mdx"]), "unknown_format", 'did you mean "md"?'),
    "unknown subtitle option": (
        options(subtitles={"max_line": 1}),
        "unknown_field",
        'unknown option "options.subtitles.max_line"; did you mean "max_lines"?',
    ),
    "subtitles too wide": (
        options(subtitles={"max_chars_per_line": 1000}),
        "invalid_message",
        '"options.subtitles.max_chars_per_line": input should be less than or equal to 100; got 1000',
    ),
    "subtitles shown forever": (
        options(subtitles={"max_duration_seconds": 1e9}),
        "invalid_message",
        "less than or equal to 60",
    ),
    "no subtitles": (options(subtitles=None), "invalid_message", "options.subtitles"),
    "no format": (options(formats=[]), "invalid_message", "options.formats"),
    "unknown language": (options(language="english"), "unknown_language", '"english" is not a Whisper language code'),
    "German in English": (options(model="tiny.en", language="de"), "unknown_language", "is English-only"),
    "unknown among languages": (
        options(languages=["de", "englsh"]),
        "unknown_language",
        'options.languages "englsh" is not a Whisper language code',
    ),
    "no languages": (options(languages=[]), "invalid_message", "options.languages"),
    "both kinds of languages": (
        options(language="de", languages=["de", "en"]),
        "language_conflict",
        "options.language cannot be combined with options.languages",
    ),
    "German among languages in English": (options(model="tiny.en", languages=["en", "de"]), "unknown_language", '"de"'),
    "many languages in English": (options(model="tiny.en", multilingual=True), "unknown_language", "multilingual"),
    "a long vocabulary": (options(vocabulary=["a"] * 101), "invalid_message", "options.vocabulary"),
    "a long term": (options(vocabulary=["a" * 101]), "invalid_message", "options.vocabulary"),
    "no term": (options(vocabulary=[""]), "invalid_message", "options.vocabulary"),
    "min over max": (options(min_speakers=4, max_speakers=2), "invalid_speakers", "min_speakers (4) is larger"),
    "num with min": (options(num_speakers=2, min_speakers=2), "invalid_speakers", "cannot be combined"),
    "no speakers": (options(num_speakers=0), "invalid_message", "options.num_speakers"),
    "a number as text": (options(num_speakers="2"), "invalid_message", "valid integer"),
    "turbo translates": (options(model="large-v3-turbo", task="translate"), "unsupported_task", "large-v3-turbo"),
    "English translates": (options(model="tiny.en", task="translate"), "unsupported_task", "tiny.en"),
    "audio from a script": (options(audio_url="javascript:alert(1)"), "invalid_message", "options.audio_url"),
    "audio in the URL": (options(audio_url="data:audio/wav;base64,AA"), "invalid_message", "options.audio_url"),
    "audio without TLS": (options(audio_url="http://a.example/b"), "invalid_message", "must be https"),
    "audio from a host without scheme": (options(audio_url="//a.example/b"), "invalid_message", "must be https"),
    "audio from a host in disguise": (options(audio_url="///a.example/b"), "invalid_message", "must be https"),
    "audio from a host in backslashes": (options(audio_url="\\\\a.example/b"), "invalid_message", "characters"),
    "audio from no host": (options(audio_url="https:b"), "invalid_message", "must be https"),
    "audio after a line break": (options(audio_url="\njavascript:alert(1)"), "invalid_message", "characters"),
    "audio with a user name": (
        options(audio_url="https://user@a.example/b"),
        "invalid_message",
        "user name or password",
    ),
    "audio with a password alone": (
        options(audio_url="https://:pw@a.example/b"),
        "invalid_message",
        "user name or password",
    ),
    "audio with a user and a password": (
        options(audio_url="https://user:pw@a.example/b"),
        "invalid_message",
        "user name or password",
    ),
    "audio at a bad port": (options(audio_url="https://a.example:b/"), "invalid_message", "not a URL"),
    "audio with a password": (options(audio_url="https://u:p@a.example/b"), "invalid_message", "password"),
    "audio without a URL": (options(audio_url=""), "invalid_message", "options.audio_url"),
    "a long audio URL": (options(audio_url="a" * 4097), "invalid_message", "options.audio_url"),
    "speakers of channels": (
        options(channels="split", diarize=True),
        "invalid_speakers",
        "each channel is one speaker",
    ),
    "a number of channels": (options(channels="split", num_speakers=2), "invalid_speakers", "options.num_speakers"),
    "other channels": (options(channels="left"), "invalid_message", "'mix' or 'split'"),
    "a track before the first": (options(audio_track=-1), "invalid_message", "options.audio_track"),
    "a track that no file has": (options(audio_track=1000), "invalid_message", "options.audio_track"),
    "a track by its name": (options(audio_track=True), "invalid_message", "options.audio_track"),
    "a slash in the id": (a_message(job_id="a/b"), "invalid_job_id", '"a/b"'),
    "dots as id": (a_message(job_id=".."), "invalid_job_id", '".."'),
    "a line break in the id": (a_message(job_id="a\n"), "invalid_job_id", "a\\n"),
    "a long id": (a_message(job_id="a" * 129), "invalid_job_id", "aaa"),
    "another bucket": (a_message(input={"bucket": "other", "key": "a"}), "bucket_not_allowed", '"other"'),
    "another output": (a_message(output={"bucket": "other"}), "bucket_not_allowed", '"other"'),
    "an invalid bucket": (a_message(input={"bucket": "a/../b", "key": "a"}), "invalid_message", "input.bucket"),
    "a climbing prefix": (a_message(output={"prefix": "a/../b"}), "invalid_message", "output.prefix"),
    "another prefix": (a_message(output={"prefix": "elsewhere/"}), "prefix_not_allowed", '"elsewhere/"'),
    "no prefix": (a_message(output={"prefix": ""}), "prefix_not_allowed", '""'),
    "a similar prefix": (a_message(output={"prefix": "transcripts-2"}), "prefix_not_allowed", '"transcripts-2/"'),
    "checkpoints of another job": (
        a_message(job_id="checkpoints", output={"prefix": "transcripts/order-1001/"}),
        "prefix_not_allowed",
        "checkpoints",
    ),
    "below checkpoints of another job": (
        a_message(output={"prefix": "transcripts/order-1001/checkpoints/0123"}),
        "prefix_not_allowed",
        "checkpoints",
    ),
    "another webhook": (a_message(webhook={"url": "https://evil.example/"}), "webhook_not_allowed", "evil.example"),
    "a plain webhook": (a_message(webhook={"url": "http://app.example.com/"}), "webhook_not_allowed", "https"),
    "a password in it": (a_message(webhook={"url": "https://u:p@app.example.com/"}), "webhook_not_allowed", "password"),
    "a broken URL": (a_message(webhook={"url": "https://app.example.com:x/"}), "webhook_not_allowed", "not a URL"),
    "an infinite number": (
        '{"job_id": "a", "input": {"bucket": "media", "key": "a"}, "metadata": {"a": 1e999}}',
        "invalid_message",
        "metadata",
    ),
    "a key of many bytes": (a_message(input={"bucket": "media", "key": "語" * 1000}), "invalid_message", "1024 bytes"),
    "a climbing key": (a_message(input={"bucket": "media", "key": "a/../../other/b"}), "invalid_message", "leads out"),
    "a prefix of many bytes": (a_message(output={"prefix": "語" * 400}), "invalid_message", "512 bytes"),
    "a prefix that reads backwards": (a_message(output={"prefix": "a\u202eb"}), "invalid_message", "invisible"),
    "a prefix with a line break": (a_message(output={"prefix": "a\u2028b"}), "invalid_message", "invisible"),
    "an endless number": (a_message()[:-1] + ', "metadata": {"a": ' + "9" * 5000 + "}}", "invalid_json", "digits"),
    "half an emoji": (a_message(metadata={"a": ["\ud83d"]}), "invalid_message", "surrogate"),
    "half an emoji as a name": (a_message(metadata={"\ud83d": 1}), "invalid_message", "surrogate"),
    "half an emoji elsewhere": (a_message(input={"bucket": "media", "key": "\ud83d"}), "invalid_message", "input.key"),
    "deeply nested metadata": (
        a_message()[:-1] + ', "metadata": {"a": ' + "[" * 64 + "]" * 64 + "}}",
        "invalid_message",
        "nested",
    ),
    "huge metadata": (a_message(metadata={"a": "x" * 20_000}), "invalid_message", "metadata"),
}


EARLIER = {"job_id": "job-1", "s3_bucket": "media", "object_key": "a.wav", "language": "en", "model_size": "base"} | {
    "do_diarize": True,
    "min_speakers": 2,
    "max_speakers": 6,
}
REFUSED |= {
    "an earlier worker's message": (
        json.dumps(EARLIER | {"callback_url": "https://app.example.com/"}),
        "unknown_field",
        'unknown fields: "s3_bucket" (use "input.bucket"), "object_key" (use "input.key"), "language" (use '
        '"options.language"), "model_size" (use "options.model"), "do_diarize" (use "options.diarize"), "min_speakers" '
        '(use "options.min_speakers"), "max_speakers" (use "options.max_speakers"), "callback_url" (use "webhook.url")',
    ),
    "a field of another object": (a_message(prefix="a/"), "unknown_field", 'field "prefix"; use "output.prefix"'),
    "a field of two other objects": (
        '{"job_id": "a", "bucket": "media", "input": {"key": "a"}}',
        "unknown_field",
        'unknown field "bucket"; use "input.bucket" or "output.bucket"',
    ),
    "an earlier name in an object": (options(do_diarize=True), "unknown_field", 'use "options.diarize"'),
    "almost a field of another object": (a_message(initial_promt="a"), "unknown_field", '"options.initial_prompt"?'),
    "several problems": (
        a_message(job_id="!", nothing_like_it=1, options={"num_speakers": 0, "modle": "base"}),
        "unknown_field",
        'unknown fields: "options.modle" (did you mean "model"?), "nothing_like_it"; also: job_id "!" is not allowed; use 1 '
        "to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit; also: "
        '"options.num_speakers": input should be greater than or equal to 1; got 0',
    ),
}


@pytest.mark.parametrize(("text", "code", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_invalid_message_is_rejected_with_a_reason(text: str, code: str, words: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        parse_job(text, SETTINGS)
    assert caught.value.code == code
    assert words in caught.value.message
    assert caught.value.on_failure is OnFailure.DEAD_LETTER
    assert len(caught.value.message) < 1000


PRIVATE = "sig=f00dcafe"


@pytest.mark.parametrize(
    "text",
    [
        a_message(webhook={"url": f"http://app.example.com/?{PRIVATE}"}),
        a_message(webhook={"url": f"https://evil.example/?{PRIVATE}"}),
        a_message(webhook={"url": f"https://app.example.com:port/?{PRIVATE}"}),
        a_message(webhook={"url": f"https://{PRIVATE}:p@app.example.com/"}),
        a_message(webhook={"url": f"https://u:{PRIVATE}[@app.example.com/"}),
        a_message(webhook={"url": f"https://app.example.com/?{PRIVATE}" + "a" * 3000}),
        a_message(webhook=f"https://app.example.com/?{PRIVATE}"),
        a_message(webhook={"url": [f"https://app.example.com/?{PRIVATE}"]}),
        a_message(metadata=PRIVATE),
        a_message(metadata={"a": PRIVATE * 2000}),
        a_message(metadata={"a": [PRIVATE, "\ud83d"]}),
        options(initial_prompt=PRIVATE * 100),
        options(hotwords=[PRIVATE]),
    ],
)
def test_errors_quote_nothing_private(text: str) -> None:
    """Error messages are logged; a webhook URL may contain a token, a prompt confidential text."""
    with pytest.raises(InvalidJob) as caught:
        parse_job(text, SETTINGS)
    said = "".join(traceback.format_exception(caught.value))
    assert PRIVATE not in said
    assert "f00d" not in said


@pytest.mark.parametrize("key", ["a/../b", "a//b", "%2e%2e/b", "a\\..\\b", "a\x00b", "a\nb", "\u202ea", "ａ/．．/b"])
def test_unusual_input_keys_are_accepted(key: str) -> None:
    """S3 accepts almost anything as a key; the daemon never uses it as a path."""
    assert parse_job(a_message(input={"bucket": "media", "key": key}), SETTINGS).input.key == key


@given(st.text())
def test_every_output_stays_below_its_prefix(prefix: str) -> None:
    try:
        job = parse_job(a_message(output={"prefix": prefix}), SETTINGS.model_copy(update={"output_prefixes": ("*",)}))
    except InvalidJob:
        return
    key = job.output_key("manifest.json")
    assert key == f"{prefix}{'' if prefix == '' or prefix.endswith('/') else '/'}job-1/manifest.json"
    assert key.isprintable()
    assert not {"..", "\0"} & {*key.split("/")}
    assert not key.startswith("/")
    assert len(key.encode()) <= 1024


def test_any_nesting_is_a_job_or_an_error() -> None:
    for depth in range(50, 1050, 25):
        for field in ("input", "options", "webhook", "metadata", "job_id", "else"):
            for begin, end in (("[", "]"), ('{"a":', "}")):
                nested = begin * depth + "1" + end * depth
                with suppress(InvalidJob):
                    parse_job(a_message()[:-1] + f', "{field}": {nested}}}', SETTINGS).model_dump_json()


def test_given_bound_adjusts_a_conflicting_default() -> None:
    assert parse_job(options(max_speakers=1), SETTINGS).options.min_speakers == 1
    assert parse_job(options(min_speakers=9), SETTINGS).options.max_speakers == 9


def test_own_bounds_are_told_from_the_defaults() -> None:
    assert parse_job(a_message(), SETTINGS).options.own_speaker_bounds == []
    assert parse_job(options(max_speakers=1), SETTINGS).options.own_speaker_bounds == ["max_speakers"]
    assert parse_job(options(num_speakers=2), SETTINGS).options.own_speaker_bounds == ["num_speakers"]
    both = parse_job(options(min_speakers=2, max_speakers=6), SETTINGS).options  # the values of the defaults
    assert both.own_speaker_bounds == ["min_speakers", "max_speakers"]


def test_split_channels_are_never_diarized_by_default() -> None:
    assert SETTINGS.diarize
    split = parse_job(options(channels="split"), SETTINGS).options
    assert (split.channels, split.diarize, split.min_speakers, split.max_speakers) == ("split", False, None, None)
    assert parse_job(options(channels="split", diarize=False), SETTINGS).options == split
    assert parse_job(options(channels="mix", diarize=True), SETTINGS).options.diarize


def test_audio_track_defaults_to_the_first() -> None:
    assert parse_job(a_message(), SETTINGS).options.audio_track is None
    assert parse_job(options(audio_track=2), SETTINGS).options.audio_track == 2
    digests = {parse_job(options(audio_track=track), SETTINGS).options.digest() for track in (None, 0, 1)}
    assert len(digests) == 3


def test_even_an_invalid_message_can_be_reported() -> None:
    bad = a_message(options={"modle": 1}, webhook={"url": "https://app.example.com/h"})
    assert peek_job_id(bad) == "job-1"
    assert peek_webhook_url(bad, SETTINGS) == "https://app.example.com/h"
    assert peek_job_id(a_message(job_id="../x")) is None
    assert peek_webhook_url(a_message(webhook={"url": "https://evil.example/"}), SETTINGS) is None


@pytest.mark.parametrize(
    ("given", "redact"),
    [
        ({}, ["email", "phone"]),
        ({"redact": []}, []),
        ({"redact": ["ssn"]}, ["ssn"]),
        ({"redact": None}, ["email", "phone"]),
    ],
)
def test_job_may_disable_default_redaction(
    make_settings: Callable[..., Settings], given: dict[str, Any], redact: list[str]
) -> None:
    assert parse_job(options(**given), make_settings(redact=("email", "phone"))).options.redact == redact


def test_digest_covers_every_option(make_settings: Callable[..., Settings]) -> None:
    one, same, other = (
        parse_job(text, SETTINGS).options.digest() for text in (options(), a_message(), options(language="en"))
    )
    assert one == same != other
    assert parse_job(options(subtitles={"max_lines": 1}), SETTINGS).options.digest() not in (one, other)


def test_subtitle_options_can_be_set_individually() -> None:
    subtitles = parse_job(options(subtitles={"max_lines": 1, "max_duration_seconds": 5}), SETTINGS).options.subtitles
    assert subtitles == SubtitleOptions(max_lines=1, max_duration_seconds=5.0)
    assert subtitles.max_chars_per_line == 42


@pytest.mark.parametrize("url", ["https://a.example/b?c=d&e=%20#f", "../a.mp4", "a.mp4", "/media/a.mp4?b", "./a:b"])
def test_page_may_play_https_or_relative_urls(url: str) -> None:
    assert parse_job(options(audio_url=url), SETTINGS).options.audio_url == url


def test_presigned_url_is_kept_where_it_is_needed() -> None:
    presigned, plain = (
        parse_job(text, SETTINGS).options for text in (options(audio_url="https://a.example/?k=secret"), a_message())
    )
    assert "secret" not in presigned.model_dump_json()
    assert presigned.digest() == plain.digest()
    with pytest.raises(InvalidJob) as caught:
        parse_job(options(audio_url="http://a.example/?k=secret"), SETTINGS)
    assert "secret" not in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_any_json_is_a_job_or_an_error(value: Any) -> None:
    with pytest.raises(InvalidJob):
        parse_job(json.dumps(value), SETTINGS)


@given(st.sampled_from(["job_id", "input", "output", "options", "webhook", "metadata", "version"]), JSON)
def test_any_value_of_any_field_is_a_job_or_an_error(name: str, value: Any) -> None:
    try:
        parse_job(a_message(**{name: value}), SETTINGS)
    except InvalidJob as error:
        assert len(error.message) < 1000  # noqa: PT017


@given(st.text())
def test_any_text_is_an_error(text: str) -> None:
    with pytest.raises(InvalidJob):
        parse_job(text, SETTINGS)


@pytest.mark.parametrize(
    ("settings", "prefix", "allowed"),
    [
        ({}, "transcripts/2026/", True),
        ({}, "other/", False),
        ({"output_prefixes": "other"}, "other/2026", True),
        ({"output_prefixes": "other"}, "others/", False),
        ({"output_prefixes": "*"}, "", True),
        ({"output_prefix": "/"}, "anything/", True),
        ({"output_prefix": "checkpoints/"}, "checkpoints/2026/", True),
    ],
)
def test_prefix_lies_below_one_that_the_deployment_allows(settings: dict[str, str], prefix: str, allowed: bool) -> None:
    text = a_message(output={"prefix": prefix})
    if allowed:
        assert parse_job(text, some_settings(**settings)).output_prefix.startswith(prefix)
    else:
        with pytest.raises(PrefixNotAllowed):
            parse_job(text, some_settings(**settings))


MEGABYTE = 1_000_000
HOSTILE = {
    "numbers in a list": options(redact=[1] * (MEGABYTE // 3)),
    "formats": options(formats=["json"] * 30_000),
    "terms": options(vocabulary=["a"] * 40_000),
    "unknown fields": json.dumps({str(number): 1 for number in range(15_000)}),
    "unknown options": options(**{f"a{number}": 1 for number in range(15_000)}),
    "unknown fields of a webhook": a_message(webhook={f"a{number}": 1 for number in range(15_000)}),
    "a long name": json.dumps({"a" * 190_000: 1}),
    "a long id": a_message(job_id="a" * 190_000),
    "metadata": a_message(metadata={str(number): [] for number in range(15_000)}),
    "nesting": a_message()[:-1] + ', "options": ' + '{"a":' * 30_000,
    "words": "a" * MEGABYTE,
    "one large text": a_message(metadata={"a": "x" * MEGABYTE}),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_body_costs_little_memory(text: str) -> None:
    """Twelve bodies of 1 MB once took a daemon 7.5 GiB and 94 s: pydantic built an error for each item of a list."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidJob) as caught:
            parse_job(text, SETTINGS)
        peek_job_id(text)
        peek_webhook_url(text, SETTINGS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(caught.value.message) < 1000
    assert peak_bytes < 20 * 1024 * 1024


def test_longest_message_is_accepted() -> None:
    """Every limit at once, with each character escaped as most JSON libraries write it."""
    text = a_message(
        job_id="a" * 128,
        input={"bucket": "media", "key": "語" * 341, "version_id": "v" * 1024},
        output={"bucket": "archive", "prefix": "2026/" + "語" * 169},
        options={
            "initial_prompt": "😀" * 1000,
            "hotwords": "😀" * 1000,
            "audio_url": "a" * 4096,
            "vocabulary": ["😀" * 100] * 100,
        },
        webhook={"url": "https://app.example.com/" + "a" * 2000},
        metadata={"a": "x" * 16_000},
    )
    assert parse_job(text, SETTINGS).job_id == "a" * 128


def earlier(job: Job, **changes: Any) -> Manifest:
    """Return the manifest of a job that finished with these options."""
    return a_manifest(job, options=job.options.model_dump(mode="json") | changes)


def test_same_work_is_no_conflict() -> None:
    job = parse_job(a_message(), SETTINGS)
    require_same_work(job, "m-2", earlier(job))
    require_same_work(job, "m-2", earlier(job, option_of_another_release=1))
    without = earlier(job)
    del without.options["multilingual"]
    require_same_work(job, "m-2", without)


def test_message_is_not_in_conflict_with_itself_after_the_defaults_changed() -> None:
    job = parse_job(a_message(), SETTINGS)
    require_same_work(job, "m-1", earlier(job, min_speakers=7))
    with pytest.raises(JobIdConflict, match="other options"):
        require_same_work(job, "m-2", earlier(job, min_speakers=7))


@pytest.mark.parametrize("source", [{"key": "b.wav"}, {"bucket": "other"}, {"key": "a.wav", "version_id": "v2"}])
def test_another_recording_is_a_conflict_that_does_not_name_it(source: dict[str, str]) -> None:
    settings = some_settings()
    job = parse_job(a_message(input={"bucket": "media", "key": "a.wav", **source}), settings)
    with pytest.raises(JobIdConflict, match="another input") as caught:
        require_same_work(job, "m-1", earlier(job))
    assert "a.wav" not in caught.value.message
    assert "media" not in caught.value.message


# --- docs/migrating.md ----------------------------------------------------------------------------------------------


def test_page_for_migrating_names_every_earlier_field() -> None:
    rows = [line.split("|") for line in MIGRATING.splitlines() if line.startswith("| `")]
    named = {
        old: new
        for row in rows
        for old, new in zip_longest(
            *(re.findall(r"`([^`]+)`", cell) for cell in row[1:3]), fillvalue=re.findall(r"`([^`]+)`", row[2])[0]
        )
    }
    assert {old: named.get(old) for old in EARLIER_NAMES} == EARLIER_NAMES
    for old, new in named.items():
        if old != new:
            with pytest.raises(InvalidJob, match=re.escape(f'"{new}"')):
                parse_job(a_message(**{old: "x"}), SETTINGS)


def test_example_for_migrating_converts_the_message_of_the_page() -> None:
    body, example = (re.findall(rf"```{kind}\n(.*?)```", MIGRATING, re.DOTALL)[0] for kind in ("json", "python"))
    names: dict[str, Any] = {}
    exec(example, names)  # the page of this repository
    job = parse_job(names["convert"](body), SETTINGS)
    assert (job.job_id, job.input.bucket, job.input.key) == ("8c2e5f0a", "media", "uploads/a.mp4")
    options = job.options
    assert (options.language, options.model, options.diarize) == ("en", "large-v3", True)
    assert (options.min_speakers, options.max_speakers) == (2, 6)


def clip(**times: Any) -> str:
    return a_message(input={"bucket": "media", "key": "a.wav", **times})


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({}, (0.0, None)),
        ({"start_seconds": None, "end_seconds": None}, (0.0, None)),
        ({"start_seconds": 0}, (0.0, None)),
        ({"start_seconds": 61.5}, (61.5, None)),
        ({"end_seconds": 90}, (0.0, 90.0)),
        ({"start_seconds": 61.5, "end_seconds": 61.6}, (61.5, 61.6)),
    ],
)
def test_a_job_may_name_a_part_of_the_recording(times: dict[str, Any], expected: tuple[float, float | None]) -> None:
    found = parse_job(clip(**times), SETTINGS).options
    assert (found.clip_start_seconds, found.clip_end_seconds) == expected


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        ({"start_seconds": -1}, "input.start_seconds"),
        ({"end_seconds": 0}, "input.end_seconds"),
        ({"start_seconds": 5, "end_seconds": 5}, "input.end_seconds (5) is not after input.start_seconds (5)"),
        ({"start_seconds": 5, "end_seconds": 4.5}, "input.end_seconds (4.5) is not after input.start_seconds (5)"),
        ({"start_seconds": "5"}, "input.start_seconds"),
        ({"start_seconds": 1e9}, "input.start_seconds"),
    ],
)
def test_a_part_that_cannot_be_is_refused(times: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(problem)):
        parse_job(clip(**times), SETTINGS)


def test_another_part_of_a_recording_is_another_job() -> None:
    whole, start, both = (
        parse_job(text, SETTINGS) for text in (clip(), clip(start_seconds=1), clip(start_seconds=1, end_seconds=2))
    )
    assert len({each.options.digest() for each in (whole, start, both)}) == 3
    with pytest.raises(JobIdConflict, match="other options"):
        require_same_work(both, "another message", a_manifest(start))


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, (None, [])),
        ({"languages": ["de", "en", "de"]}, (None, ["de", "en"])),
        ({"languages": ["de"]}, ("de", ["de"])),
        ({"languages": None, "language": "de"}, ("de", [])),
        ({"languages": ["en"], "model": "tiny.en"}, ("en", ["en"])),
    ],
)
def test_allowed_languages(wishes: dict[str, Any], expected: tuple[str | None, list[str]]) -> None:
    found = parse_job(options(**wishes), SETTINGS).options
    assert (found.language, found.languages) == expected


def test_message_of_the_original_worker_is_accepted() -> None:
    same = a_message(options={"language": "en", "model": "base", "diarize": True, "min_speakers": 2, "max_speakers": 6})
    assert parse_job(json.dumps(EARLIER), SETTINGS) == parse_job(same, SETTINGS)
    nothing = dict.fromkeys(set(EARLIER) - {"job_id", "s3_bucket", "object_key"})
    assert parse_job(json.dumps(EARLIER | nothing), SETTINGS) == parse_job(a_message(), SETTINGS)
    assert peek_job_id(json.dumps(EARLIER)) == "job-1"


def test_the_event_of_a_refused_message_has_what_could_be_read() -> None:
    """Each part is judged by itself; a place that this deployment does not write to is not named."""
    bad = peek_parts(a_message(options={"modle": 1}, metadata={"order": 7}), SETTINGS)
    assert bad.input is not None
    assert (bad.input.bucket, bad.metadata) == ("media", {"order": 7})
    assert bad.place is not None
    assert bad.place.prefix == "transcripts/job-1/"
    assert peek_parts(a_message(metadata={"a": "x" * 20_000}), SETTINGS).metadata == {}
    assert peek_parts(a_message(metadata=[1]), SETTINGS).metadata == {}
    assert peek_parts(a_message(input={"bucket": "media"}, metadata={"a": 1}), SETTINGS) == (None, bad.place, {"a": 1})
    assert peek_parts(a_message(output={"bucket": "elsewhere"}), SETTINGS).place is None
    assert peek_parts("[", SETTINGS) == (None, None, {})


# --- kept words -------------------------------------------------------------------------------------------------------


def kept(**fields: Any) -> str:
    source = {"bucket": "media", "key": "a.wav", "words_of": "job-0", **fields.pop("input", {})}
    return a_message(input=source, **fields)


@pytest.mark.parametrize(
    ("wishes", "diarize"),
    [
        ({}, False),
        ({"redact": ["email"], "profanity": "mask"}, False),
        ({"formats": ["srt"], "subtitles": {"max_lines": 1}, "audio_url": "a.wav"}, False),
        ({"diarize": True}, True),
        ({"num_speakers": 2}, True),
        ({"min_speakers": 2}, True),
        ({"max_speakers": 2}, True),
        ({"speaker_embeddings": True}, True),
        ({"diarize": False, "num_speakers": 2}, False),
        ({"task": "transcribe", "vocabulary": [], "language": None}, False),  # said, but as by default
    ],
)
def test_job_that_keeps_words_diarizes_only_if_it_says_so(wishes: dict[str, Any], diarize: bool) -> None:
    found = parse_job(kept(options=wishes), some_settings(diarize=True))
    assert (found.options.words_of, found.options.diarize) == ("job-0", diarize)
    assert planned_stages(found.options) == (("diarize",) if diarize else ())


VALUES_THAT_CHANGE_WORDS = {
    "model": "tiny.en",
    "task": "translate",
    "language": "de",
    "languages": ["de"],
    "align": "off",
    "channels": "split",
    "audio_track": 0,
    "initial_prompt": "x",
    "hotwords": "x",
    "vocabulary": ["x"],
    "suppress_numerals": True,
    "multilingual": True,
}


def test_every_option_is_either_kept_or_free() -> None:
    assert set(Options.model_fields) == VALUES_THAT_CHANGE_WORDS.keys() | OPTIONS_AFTER_WORDS


@pytest.mark.parametrize("name", VALUES_THAT_CHANGE_WORDS)
def test_option_that_would_change_kept_words_is_refused(name: str) -> None:
    with pytest.raises(NeedsTranscription, match=rf"options\.{name} cannot be combined"):
        parse_job(kept(options={name: VALUES_THAT_CHANGE_WORDS[name]}), SETTINGS)


@pytest.mark.parametrize("times", [{"start_seconds": 1}, {"end_seconds": 1}])
def test_part_of_kept_words_is_refused(times: dict[str, float]) -> None:
    with pytest.raises(NeedsTranscription, match=r"input\.start_seconds or input\.end_seconds"):
        parse_job(kept(input=times), SETTINGS)


@pytest.mark.parametrize("name", ["../job-0", "", "job-1", 7])
def test_words_of_no_other_job_are_refused(name: Any) -> None:
    with pytest.raises(InvalidJob, match=r"input\.words_of"):
        parse_job(kept(input={"words_of": name}), SETTINGS)


def test_repeated_job_with_kept_words_is_the_same_work() -> None:
    """Its manifest has the other options of the earlier job, which its message does not know."""
    job = parse_job(kept(options={"num_speakers": 2, "redact": ["email"]}), SETTINGS)
    require_same_work(job, "m-2", earlier(job, language="de", model="large-v3", vocabulary=["x"]))
    for name, value in {"num_speakers": 3, "redact": [], "words_of": "job-9", "profanity": "mask"}.items():
        with pytest.raises(JobIdConflict):
            require_same_work(job, "m-2", earlier(job, **{name: value}))
    with pytest.raises(JobIdConflict):
        require_same_work(parse_job(a_message(), SETTINGS), "m-2", earlier(job))
