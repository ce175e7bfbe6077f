"""Mistakes of the first day end with exit status 78 and one line that names what to change."""

import socket
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from bench.waiting import PATIENCE_SECONDS
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        world.upload("call.wav", sample_call())
        yield world


def refusal(daemon: DaemonProcess) -> str:
    with daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == 78, daemon.log_tail()
    (line,) = [entry for entry in daemon.log_entries() if entry["event"] not in ("starting", "configured")]
    assert (line["level"], line["event"]) == ("CRITICAL", "settings refused")
    return str(line["error"])


def test_port_in_use(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        error = refusal(world.daemon("port", http_port=port))
    assert f"TRANSCRIPTD_HTTP_PORT: cannot listen on 127.0.0.1 port {port}: Address already in use" in error


def test_scratch_directory_that_cannot_be_used(world: World) -> None:
    file = world.folder / "a-file"
    file.touch()
    assert refusal(world.daemon("scratch", scratch_dir=str(file / "scratch"))) == (
        f"TRANSCRIPTD_SCRATCH_DIR: {file}/scratch cannot be used: Not a directory"
    )


def test_missing_aws_profile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(world.settings, "AWS_PROFILE", "not-there")
    assert "AWS_PROFILE: The config profile (not-there) could not be found" in refusal(world.daemon("profile"))


def test_fifo_queues(world: World) -> None:
    fifo = "https://sqs.us-east-1.amazonaws.com/1/some.fifo"
    for name in ("queue_url", "dlq_url"):
        assert f"TRANSCRIPTD_{name.upper()}: {name} is a FIFO queue" in refusal(world.daemon(name, **{name: fifo}))


def test_empty_variables_are_unset(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "HTTPS_PROXY", "HF_TOKEN", "WEBHOOK_URL")
    for name in names:
        monkeypatch.setitem(world.settings, name, "")
    with world.daemon("empty", outbox_url="", http_host="", model="", max_attempts="", host="") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()


def test_region_of_the_queue_is_that_of_its_url(world: World) -> None:
    elsewhere: Any = boto3.client(
        "sqs",
        endpoint_url=world.aws.endpoint_url,
        region_name="eu-west-1",
        aws_access_key_id="embedded",
        aws_secret_access_key="embedded",
    )
    for name in ("jobs", "dead"):
        elsewhere.create_queue(QueueName=name)
    urls = {name: f"https://sqs.eu-west-1.amazonaws.com/123456789012/{name}" for name in ("jobs", "dead")}
    with world.daemon("region", queue_url=urls["jobs"], dlq_url=urls["dead"]) as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        bucket = world.aws.input_bucket
        body = f'{{"job_id": "far", "input": {{"bucket": "{bucket}", "key": "call.wav"}}}}'
        elsewhere.send_message(QueueUrl=f"{world.aws.endpoint_url}/123456789012/jobs", MessageBody=body)
        world.wait_for("far", "job.completed")
