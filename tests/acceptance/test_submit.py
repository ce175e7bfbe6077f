"""`transcriptd submit` and `watch`: a file becomes a transcript, a failure is reported with its reason, and mistakes
have no side effects."""

import json
import shlex
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.waiting import wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate
from tests.support.command_line import TIMEOUT_SECONDS, run_tool, start_tool


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(retry_base_seconds="0.1", max_attempts="2") as world:
        world.upload("call.wav", sample_call())
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    with world.daemon() as daemon:
        yield daemon


@pytest.fixture
def unread_queue(world: World) -> str:
    """Return the URL of a new queue that no daemon receives from, whichever tests ran before."""
    url: str = world.aws.sqs.create_queue(QueueName=f"unread-{uuid.uuid4().hex}")["QueueUrl"]
    return url


def tool(world: World, *words: str, **variables: str) -> Any:
    return run_tool({**world.aws.environment, **variables}, *words)


def test_watch_goes_on_with_rotated_credentials(world: World, daemon: DaemonProcess) -> None:
    """Credentials of an hour expire while a long job is watched."""
    file = world.folder / "credentials"
    file.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = old\n")
    with Gate(world.aws.endpoint_url) as gate:
        only_file = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": str(file)}
        variables = {**world.aws.environment, **only_file, "AWS_ENDPOINT_URL": gate.url}
        with start_tool(variables, "watch", "rotated", "--format", "md") as watching:
            wait_for(lambda: bool(gate.calls), "the command reads the status")
            file.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = new\n")
            gate.refused_keys["OLD"] = ("ExpiredToken", lambda: None)
            wait_for(lambda: bool(gate.refused_calls.get("OLD")), "the old key is refused")
            world.publish("rotated", "call.wav")
            printed, said = watching.communicate(timeout=TIMEOUT_SECONDS)
    assert (watching.returncode, "**SPEAKER_00:**" in printed) == (0, True), said


def uploads(world: World) -> list[str]:
    listed = world.aws.s3.list_objects_v2(Bucket=world.aws.input_bucket, Prefix="uploads/").get("Contents", [])
    return [item["Key"] for item in listed]


def test_part_of_a_recording_has_the_times_of_the_recording(world: World, daemon: DaemonProcess) -> None:
    words = ("submit", str(sample_call()), "--job-id", "part", "--start", "12.5", "--end", "20s", "--format", "json")
    done = tool(world, *words)
    assert done.returncode == 0, done.stderr
    transcript = json.loads(done.stdout)
    assert (transcript["start_seconds"], transcript["duration_seconds"]) == (12.5, 7.5)
    assert transcript["segments"][0]["words"][0]["start"] == 12.5
    manifest = json.loads(world.outputs("part")["manifest.json"])
    assert (manifest["input"]["start_seconds"], manifest["input"]["end_seconds"]) == (12.5, 20)
    assert manifest["duration_seconds"] == 7.5


# --- with a daemon: buckets with conditions ------------------------------------------------------------------------


def test_commands_follow_the_settings_for_buckets(world: World, daemon: DaemonProcess) -> None:
    """The requester pays, and the input bucket's policy demands encryption and an ACL of each object written."""
    with Gate(world.aws.endpoint_url) as gate:
        gate.payers_only |= {world.aws.input_bucket, world.aws.output_bucket}
        gate.demanded = {"x-amz-server-side-encryption": "AES256", "x-amz-acl": "bucket-owner-full-control"}
        call = ("submit", str(sample_call()), "--watch")
        refused = tool(world, *call, AWS_ENDPOINT_URL=gate.url)
        assert refused.returncode == 4
        assert "AccessDenied" in refused.stderr
        done = tool(
            world,
            *call,
            AWS_ENDPOINT_URL=gate.url,
            TRANSCRIPTD_REQUESTER_PAYS="true",
            TRANSCRIPTD_OUTPUT_ENCRYPTION="AES256",
            TRANSCRIPTD_OUTPUT_ACL="bucket-owner-full-control",
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# ")


# --- without a daemon -----------------------------------------------------------------------------------------------


def test_invalid_arguments_cause_neither_an_upload_nor_a_message(
    world: World, unread_queue: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    call = str(sample_call())
    before = uploads(world)
    slips = [
        ((call, "--option", "diarise=true"), 'unknown option "options.diarise"; did you mean "diarize"?'),
        ((call, "--option", "model=large-v9"), "is not offered by this deployment"),
        ((call, "--option", "model"), "has no `=`"),
        ((call, "--job-id", "a/b"), "job_id"),
        ((call, "--bucket", "elsewhere"), "not a bucket that this deployment reads from"),
        ((call, "--save", str(tmp_path / "full")), "new or empty"),
        ((str(tmp_path / "none.wav"),), "is neither a file nor"),
        ((str(tmp_path / "empty.wav"),), "0 bytes"),
        (("s3://media",), "is not s3://BUCKET/KEY"),
    ]
    for words, said in slips:
        done = tool(world, "submit", *words, TRANSCRIPTD_QUEUE_URL=unread_queue)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
    unknown = tool(world, "submit", call, "--watch", TRANSCRIPTD_OUTPUT_BUCKET="", TRANSCRIPTD_QUEUE_URL=unread_queue)
    assert unknown.returncode == 2
    assert "--output-bucket" in unknown.stderr
    assert uploads(world) == before
    assert "Messages" not in world.aws.sqs.receive_message(QueueUrl=unread_queue)


def test_timeout_without_a_daemon(world: World, unread_queue: str) -> None:
    words = ("submit", "s3://media/call.wav", "--job-id", "idle", "--watch", "--timeout", "1s")
    done = tool(world, *words, TRANSCRIPTD_QUEUE_URL=unread_queue)
    assert done.returncode == 3, done.stderr
    assert "waiting for a daemon" in done.stderr
    assert "transcriptd watch idle" in done.stderr


def test_message_has_the_requested_options(world: World, unread_queue: str) -> None:
    done = tool(
        world,
        *("submit", "s3://media/a b/ü.wav", "--option", "num_speakers=2", "--option", "subtitles.max_lines=1"),
        *("--option", "language=en", "--output-prefix", "mine"),
        TRACEPARENT=f"00-{'1' * 32}-{'2' * 16}-01",
        TRACESTATE="no state",
        TRANSCRIPTD_QUEUE_URL=unread_queue,
    )
    assert done.returncode == 0, done.stderr
    (message,) = world.aws.sqs.receive_message(QueueUrl=unread_queue, MessageAttributeNames=["All"])["Messages"]
    assert json.loads(message["Body"]) == {
        "job_id": done.stdout.strip(),
        "input": {"bucket": "media", "key": "a b/ü.wav"},
        "options": {"num_speakers": 2, "subtitles": {"max_lines": 1}, "language": "en"},
        "output": {"prefix": "mine"},
    }
    sent = {name: attribute["StringValue"] for name, attribute in message["MessageAttributes"].items()}
    assert sent == {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}


# --- with the real daemon -------------------------------------------------------------------------------------------


def test_file_becomes_a_transcript(world: World, daemon: DaemonProcess) -> None:
    done = tool(world, "submit", str(sample_call()), "--watch", "--option", "initial_prompt=sleep 1")
    assert done.returncode == 0, (done.stderr, daemon.log_tail())
    assert done.stdout.startswith("# Full Transcript")
    assert "hello there" in done.stdout
    assert "completed: 30.0 s" in done.stderr
    assert "sample.wav" in {key.rpartition("/")[2] for key in uploads(world)}


def test_failed_job_ends_with_its_reason(world: World, daemon: DaemonProcess, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"nobody spoke " * 100)
    done = tool(world, "submit", str(tmp_path / "notes.txt"), "--watch")
    assert done.returncode == 1, (done.stderr, daemon.log_tail())
    assert "failed: media_unreadable: " in done.stderr
    assert done.stdout == ""
    # Other tests leave dead letters of other kinds.
    (letter,) = (each for each in world.dead_letters() if each["failure"]["code"] == "media_unreadable")
    assert letter["failure"]["message"][:100] in done.stderr
    watched = tool(world, "watch", json.loads(letter["body"])["job_id"])
    assert watched.returncode == 1
    assert "media_unreadable" in watched.stderr


def test_ctrl_c_ends_the_watching_and_never_the_job(world: World, daemon: DaemonProcess, tmp_path: Path) -> None:
    words = ("submit", "s3://media/call.wav", "--job-id", "long", "--watch", "--option", "initial_prompt=resume 12")
    with start_tool(world.aws.environment, *words) as process:
        assert process.stderr
        while "recognizing speech" not in (line := process.stderr.readline()):
            assert line, "it ended before its progress was known"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130
    again = shlex.split(said.partition("to watch again, run: ")[2])
    assert again[:3] == ["transcriptd", "watch", "long"]
    target = tmp_path / "saved"
    saved = tool(world, *again[1:], "--save", str(target), "--timeout", "170s")
    assert saved.returncode == 0, (saved.stderr, daemon.log_tail())
    outputs = world.outputs("long")
    for name in ("manifest.json", "transcript.json", "transcript.md"):
        assert (target / name).read_bytes() == outputs[name]


def test_requested_format_is_printed(world: World, daemon: DaemonProcess) -> None:
    elsewhere = ("--output-prefix", "transcripts/mine")
    done = tool(world, "submit", "s3://media/call.wav", "--job-id", "captions", "--format", "srt", *elsewhere)
    assert done.returncode == 0, (done.stderr, daemon.log_tail())
    assert done.stdout.startswith("1\n00:00:00,000 --> ")
    other = tool(world, "watch", "captions", "--format", "vtt", *elsewhere)
    assert other.returncode == 1
    assert "the job has no output vtt; available: json, srt" in other.stderr


def test_job_id_of_another_recording_is_a_failure(world: World, daemon: DaemonProcess) -> None:
    first = tool(world, "submit", "s3://media/call.wav", "--job-id", "twice", "--watch")
    assert first.returncode == 0, (first.stderr, daemon.log_tail())
    second = tool(world, "submit", str(sample_call()), "--job-id", "twice", "--watch")
    assert second.returncode == 1
    assert "job_id_conflict" in second.stderr
    assert second.stdout == ""


def test_replaced_output_is_not_shown(world: World, daemon: DaemonProcess) -> None:
    first = tool(world, "submit", "s3://media/call.wav", "--job-id", "replaced", "--watch")
    assert first.returncode == 0, (first.stderr, daemon.log_tail())
    world.aws.s3.put_object(Bucket=world.aws.output_bucket, Key="transcripts/replaced/transcript.md", Body=b"other")
    again = tool(world, "watch", "replaced")
    assert again.returncode == 1
    assert "does not match the manifest" in again.stderr
    assert again.stdout == ""
