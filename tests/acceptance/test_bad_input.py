"""Every kind of bad input through the real daemon: its error code, its message, its webhook, and no leftovers on
disk."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.waiting import PATIENCE_SECONDS
from bench.world import SECRET, World, open_world
from daemon.demo.recordings import make_video, sample_call
from tests.support.media.files import make_wav, repeated_call


@dataclass
class Case:
    code: str
    words: str
    body: str | None = None  # sent instead of a message built from the other fields
    job_id: str | None = "bad"
    key: str = "call.wav"
    bucket: str = "media"
    options: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)  # additional fields of the message


TOKEN = "sig=f00dcafe"
FORGED = '\n{"level": "ERROR", "event": "forged"}'

CASES = {
    "not-json": Case("invalid_json", "send one JSON object", body="job!", job_id=None),
    "not-an-object": Case("invalid_json", "JSON array", body="[1]", job_id=None),
    "missing-input": Case(
        "invalid_message", "input is missing", body='{"job_id": "missing-input"}', job_id="missing-input"
    ),
    "unknown-option": Case("unknown_field", 'did you mean "diarize"?', options={"diarise": True}),
    "earlier-worker": Case(
        "unknown_field",
        '"s3_key" (use "input.key"), "do_diarize" (use "options.diarize")',
        body='{"job_id": "earlier-worker", "s3_bucket": "media", "s3_key": "call.wav", "do_diarize": true}',
        job_id="earlier-worker",
    ),
    "unknown-model": Case("unknown_model", 'did you mean "large-v3-turbo"?', options={"model": "large-turbo"}),
    "unknown-format": Case("unknown_format", 'did you mean "json"?', options={"formats": ["jsn"]}),
    "unknown-language": Case("unknown_language", "klingon", options={"language": "klingon"}),
    "speakers": Case("invalid_speakers", "larger than", options={"min_speakers": 5, "max_speakers": 2}),
    "channels-and-voices": Case(
        "invalid_speakers", "each channel is one speaker", options={"channels": "split", "diarize": True}
    ),
    "turbo-translates": Case(
        "unsupported_task", "large-v3-turbo", options={"model": "large-v3-turbo", "task": "translate"}
    ),
    "slash": Case(
        "invalid_job_id", "a/b", body='{"job_id": "a/b", "input": {"bucket": "media", "key": "call.wav"}}', job_id=None
    ),
    "bucket": Case("bucket_not_allowed", "elsewhere", bucket="elsewhere"),
    "missing-object": Case("object_missing", "s3://media/none.wav", key="none.wav"),
    "denied": Case("access_denied", "s3:GetObject", key="secret/call.wav"),
    "empty-object": Case("object_empty", "0 bytes", key="empty.wav"),
    "text-file": Case("media_unreadable", "media", key="notes.txt"),
    "gzip-bomb": Case("object_too_large", "decodes from gzip to more than 4000000 bytes", key="bomb.wav"),
    "gzip-cut": Case("media_unreadable", "Content-Encoding gzip, but is cut off", key="cut.wav"),
    "brotli": Case("media_unreadable", "Content-Encoding br", key="brotli.wav"),
    "truncated": Case("media_unreadable", "cut off", key="truncated.mp4"),
    "no-audio": Case("no_audio_stream", "no audio stream", key="silent.mp4"),
    "track": Case("audio_track_missing", "audio streams in the file is 1", options={"audio_track": 1}),
    "too-many-channels": Case("too_many_channels", "9 channels", key="wide.wav", options={"channels": "split"}),
    "too-long": Case("media_too_long", "60 s", key="long.wav"),
    "too-large": Case("object_too_large", "4000000", key="large.bin"),
    "key-dots": Case("object_missing", "s3://media/a/../call.wav", key="a/../call.wav"),
    "key-climbs": Case("invalid_message", "leads out of its bucket", key="../results/call.wav"),
    "key-null": Case("object_missing", "s3://media/", key="call.wav\0.txt"),
    "key-line-break": Case("object_missing", "s3://media/", key=f"call.wav{FORGED}"),
    "key-backwards": Case("object_missing", "s3://media/", key="call\u202evaw.exe"),
    "key-homoglyph": Case("object_missing", "s3://media/", key="c\u0430ll.wav"),
    "key-percent": Case("object_missing", "%2e%2e%2fmedia", key="%2e%2e%2fmedia%2fcall.wav"),
    "key-backslash": Case("object_missing", "s3://media/", key="..\\..\\etc\\passwd"),
    "key-long": Case("invalid_message", "1024 bytes", key="\u8a9e" * 1000),
    "prefix-climbs": Case("invalid_message", "no `..`", more={"output": {"prefix": "a/../../b"}}),
    "prefix-null": Case("invalid_message", "no control", more={"output": {"prefix": "a\0b"}}),
    "forged-name": Case("unknown_field", "forged", options={FORGED: 1}),
    "half-an-emoji": Case("invalid_message", "surrogate", more={"metadata": {"note": "\ud83d"}}),
    "deep": Case("invalid_json", "not JSON", body='{"job_id": "deep", "metadata": ' + "[" * 100_000, job_id=None),
    "endless-number": Case("invalid_json", "digits", body='{"job_id": ' + "9" * 100_000 + "}", job_id=None),
    "private-url": Case("webhook_not_allowed", "webhook.url", more={"webhook": {"url": f"https://x.example/?{TOKEN}"}}),
    "private-url-plain": Case("invalid_message", "webhook", more={"webhook": f"https://x.example/?{TOKEN}"}),
}


PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
    "AWS_SESSION_TOKEN": "planted-aws-session",
    "HF_TOKEN": "hf_planted",
}


def upload_recordings(world: World, folder: Path) -> None:
    call = sample_call().read_bytes()
    make_video(sample_call(), folder / "video.mp4", 10)
    make_video(None, folder / "silent.mp4", 2)
    video = (folder / "video.mp4").read_bytes()
    for key, body in {
        "call.wav": call,
        "secret/call.wav": call,
        "empty.wav": b"",
        "notes.txt": b"Minutes of the meeting: nobody spoke. " * 100,
        "truncated.mp4": video[: len(video) // 2],
        "silent.mp4": (folder / "silent.mp4").read_bytes(),
        "long.wav": repeated_call(folder / "long.wav", 4).read_bytes(),
        "wide.wav": make_wav(folder / "wide.wav", np.zeros((1000, 9), np.int16)).read_bytes(),
        "large.bin": bytes(4_000_001),
    }.items():
        world.upload(key, body)
    for key, body, encoding in (
        ("bomb.wav", gzip.compress(bytes(4_000_001)), "gzip"),
        ("cut.wav", gzip.compress(sample_call().read_bytes())[:-100], "gzip"),
        ("brotli.wav", sample_call().read_bytes(), "br"),
    ):
        world.aws.s3.put_object(Bucket=world.aws.input_bucket, Key=key, Body=body, ContentEncoding=encoding)
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::media/secret/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    world.aws.s3.put_bucket_policy(Bucket="media", Policy=policy)


@pytest.fixture(scope="module")
def dead_letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, dict[str, dict[str, Any]]]]:
    """Run all cases through one daemon and return the dead letters by case name."""
    with open_world(max_media_seconds="60", max_input_bytes="4000000") as world:
        world.settings |= {**PLANTED, "DEBUG": "true"}
        upload_recordings(world, tmp_path_factory.mktemp("recordings"))
        with world.daemon() as daemon:
            assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
            for name, case in CASES.items():
                message = {
                    "job_id": name,
                    "input": {"bucket": case.bucket, "key": case.key},
                    "options": case.options or {},
                    **case.more,
                }
                world.send(case.body or json.dumps(message), case=name)
            world.wait_until_empty()
            found = {letter["attributes"]["case"]["StringValue"]: letter for letter in world.dead_letters()}
            metrics = daemon.get("/metrics")
            assert daemon.stop() == 0
        assert f'transcriptd_messages_received_total{{queue="jobs"}} {len(CASES)}.0' in metrics
        yield world, found


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_dead_lettered_with_its_reason(
    dead_letters: tuple[World, dict[str, dict[str, Any]]], name: str
) -> None:
    world, found = dead_letters
    case, letter = CASES[name], found[name]
    failure = letter["failure"]
    assert failure["code"] == case.code == letter["attributes"]["ErrorCode"]["StringValue"]
    assert case.words in failure["message"]
    assert failure["attempt"] == 1, "it must not be retried"
    assert "Traceback" in failure["traceback"]
    assert failure["original_message_id"]
    if case.body is not None:
        assert letter["body"] == case.body

    job_id = name if case.body is None else case.job_id
    failed = [
        seen
        for seen in world.events(job_id)
        if seen.event["type"] == "job.failed" and seen.event["data"]["error"]["message"] == failure["message"]
    ]
    assert len(failed) == 1
    assert failed[0].verified
    error = failed[0].event["data"]["error"]
    assert error["code"] == case.code
    assert len(error["traceback"]) <= 4000
    assert not {"manifest.json", "transcript.json"} & set(world.outputs(name))


def test_nothing_is_left_on_disk(dead_letters: tuple[World, dict[str, dict[str, Any]]]) -> None:
    world, found = dead_letters
    assert set(found) == set(CASES)
    assert list(world.scratch.rglob("job-*")) == []
    assert world.scratch_files() == []


def test_nothing_is_written_outside_the_outputs(dead_letters: tuple[World, dict[str, dict[str, Any]]]) -> None:
    world, _ = dead_letters
    assert {path.name for path in world.folder.iterdir()} == {"scratch", "daemon.log"}
    listed = world.aws.s3.list_objects_v2(Bucket=world.aws.output_bucket).get("Contents", [])
    below = tuple(f"transcripts/{name}/" for name in CASES)
    assert [item["Key"] for item in listed if not item["Key"].startswith(below)] == []


def test_log_is_one_json_object_per_line_without_secrets(
    dead_letters: tuple[World, dict[str, dict[str, Any]]],
) -> None:
    world, found = dead_letters
    log = (world.folder / "daemon.log").read_text()
    entries = [json.loads(line) for line in log.splitlines()]
    assert [entry for entry in entries if entry["event"] == "forged"] == []
    assert len([entry for entry in entries if entry["event"] == "job finished"]) == len(CASES)
    assert all(char.isprintable() for line in log.split("\n") for char in line)
    output = (
        log
        + json.dumps(found)
        + json.dumps([seen.event["data"]["error"] for seen in world.seen if "error" in seen.event["data"]])
    )
    for secret in (SECRET, SECRET.removeprefix("whsec_"), *PLANTED.values()):
        assert secret not in output
    bodies = json.dumps([letter["body"] for letter in found.values()])
    assert TOKEN in bodies, "the original is unchanged"
    assert TOKEN not in log
    assert TOKEN not in json.dumps([letter["failure"] for letter in found.values()])
