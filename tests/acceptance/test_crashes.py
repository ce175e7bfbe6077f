"""SIGKILL between any two adjacent steps, from outside: no job is lost, none is published twice, and every webhook
arrives."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Moment
from tests.support.media.decoding import children, is_alive

# Where a job's daemon is killed: at which call, and whether that call still arrives.
CALLS = {
    "received": ("s3:PUT:deliveries.json", Moment.BEFORE),
    "started": ("s3:PUT:deliveries.json", Moment.AFTER),
    "downloading": ("s3:GET:call.wav", Moment.AFTER),
    "transcribed": ("s3:PUT:transcript.json", Moment.BEFORE),
    "first-output-stored": ("s3:PUT:transcript.json", Moment.AFTER),
    "outputs-stored": ("s3:PUT:manifest.json", Moment.BEFORE),
    "published": ("s3:PUT:manifest.json", Moment.AFTER),
    "decided": ("s3:POST:results", Moment.AFTER),  # the checkpoints are deleted
    "notified": ("sqs:DeleteMessage", Moment.BEFORE),
    "settled": ("sqs:DeleteMessage", Moment.AFTER),
}
CALLS_OF_A_LATE_OUTPUT = {
    "srt": ("s3:PUT:deliveries.json", Moment.AFTER),
    "vtt": ("s3:PUT:transcript.vtt", Moment.AFTER),
    "txt": ("s3:PUT:manifest.json", Moment.AFTER),
    "tsv": ("sqs:DeleteMessage", Moment.BEFORE),
}
CALLS_OF_A_FAILURE = {
    "decided": ("sqs:SendMessage", Moment.BEFORE),
    "dead-lettered": ("sqs:SendMessage", Moment.AFTER),
    "settled": ("sqs:DeleteMessage", Moment.AFTER),
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        world.upload("notes.txt", b"nobody spoke " * 100)
        yield world


class Supervised:
    """A daemon that is restarted whenever it is killed, as by systemd, and that can be killed at one of its calls."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._daemons = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        self.proxy = self._daemons.enter_context(Proxy(self._world.aws.endpoint_url, ["daemon"], lambda _: self.kill()))
        self._world.settings["AWS_ENDPOINT_URL"] = self.proxy.urls["daemon"]
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        del self._world.settings["AWS_ENDPOINT_URL"]
        self._daemons.close()

    def start(self) -> None:
        self._number += 1
        self.daemon = self._daemons.enter_context(self._world.daemon(f"daemon-{self._number}", max_jobs_in_flight="1"))

    def kill(self) -> None:
        self.daemon.process.kill()

    def wait_for_death(self) -> None:
        try:
            status = self.daemon.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon was not killed: {self.daemon.log_tail()}") from None
        assert status == -signal.SIGKILL, self.daemon.log_tail()


@pytest.fixture
def supervised(world: World) -> Iterator[Supervised]:
    with Supervised(world) as supervised:
        yield supervised


def check_completed(world: World, job: str) -> None:
    world.wait_for(job, "job.completed")
    world.wait_until_empty()
    outputs = world.outputs(job)
    manifest = json.loads(outputs["manifest.json"])
    for output in manifest["outputs"]:
        body = outputs[output["key"].rpartition("/")[2]]
        assert hashlib.sha256(body).hexdigest() == output["sha256"], job
    assert not [name for name in outputs if name.startswith("checkpoints/")], job
    assert manifest["attempt"] == 1, "a crash of the host is not a failure of the job"
    assert world.dead_letters() == []


def test_job_survives_a_crash_at_every_call(world: World, supervised: Supervised) -> None:
    for job, (calls, moment) in CALLS.items():
        supervised.proxy.trap(calls, moment)
        world.publish(job, "call.wav")
        supervised.wait_for_death()
        supervised.start()
        check_completed(world, job)
    supervised.daemon.stop()
    assert world.scratch_files() == []


def test_job_survives_a_crash_between_its_download_and_its_end_in_the_runner(
    world: World, supervised: Supervised
) -> None:
    recording_bytes = sample_call().stat().st_size

    def downloaded() -> bool:
        return any(path.stat().st_size == recording_bytes for path in world.scratch.glob("*/job-*/input"))

    assert supervised.daemon.wait_until_ready(PATIENCE_SECONDS)
    os.kill(fork_server(supervised.daemon.process.pid), signal.SIGSTOP)  # no decoder is started
    world.publish("downloaded", "call.wav")
    wait_for(downloaded, "downloaded")
    supervised.kill()
    supervised.wait_for_death()
    supervised.start()
    check_completed(world, "downloaded")

    begun = world.folder / "begun"
    world.publish("decoded", "call.wav", options={"initial_prompt": f"once {begun}"})
    wait_for(begun.exists, "the job is in the runner")
    supervised.kill()
    supervised.wait_for_death()
    supervised.start()
    check_completed(world, "decoded")
    supervised.daemon.stop()
    assert world.scratch_files() == []


def test_output_that_is_added_survives_a_crash_at_every_call(world: World, supervised: Supervised) -> None:
    world.publish("grows", "call.wav")
    check_completed(world, "grows")
    for number, (name, (calls, moment)) in enumerate(CALLS_OF_A_LATE_OUTPUT.items(), 1):
        supervised.proxy.trap(calls, moment)
        world.publish("grows", "call.wav", options={"formats": ["json", name]})
        supervised.wait_for_death()
        supervised.start()
        check_completed(world, "grows")
        manifest = json.loads(world.outputs("grows")["manifest.json"])
        assert [each["formats"] for each in manifest["renderings"]][-1] == [name]
        assert len(manifest["renderings"]) == number
        told = {seen.id for seen in world.events("grows") if seen.event["type"] == "job.completed"}
        assert len(told) == 1 + number, "an event for each change"


def test_failing_job_survives_a_crash_at_every_call(world: World, supervised: Supervised) -> None:
    for point, (calls, moment) in CALLS_OF_A_FAILURE.items():
        job = f"bad-{point}"
        supervised.proxy.trap(calls, moment)
        world.publish(job, "notes.txt")
        supervised.wait_for_death()
        supervised.start()
        world.wait_for(job, "job.failed")
        world.wait_until_empty()
        # A crash between send and delete leaves a duplicate, never a loss.
        assert {json.loads(letter["body"])["job_id"] for letter in world.dead_letters()} == {job}


def test_a_job_that_kills_its_host_is_quarantined(world: World) -> None:
    world.publish("killer", "call.wav", options={"initial_prompt": "sleep 3600"})
    for number in range(2):
        with world.daemon(f"victim-{number}", max_crashed_deliveries="2") as daemon:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not list(daemon.log_entries("job started")):
                assert time.monotonic() < deadline, daemon.log_tail()
                time.sleep(0.1)
            daemon.process.kill()
            daemon.process.wait()
    with world.daemon("last", max_crashed_deliveries="2"):
        failed = world.wait_for("killer", "job.failed")
    assert failed["data"]["error"]["code"] == "crash_suspect"
    (letter,) = world.dead_letters()
    assert letter["failure"]["code"] == "crash_suspect"


def test_interruptions_spend_no_attempt(world: World) -> None:
    """Four drains of a job that could have only two attempts: it still runs and completes."""
    gate = world.folder / "gate"
    world.publish("drained", "call.wav", options={"initial_prompt": f"until {gate}"})
    for number in range(4):
        with world.daemon(f"drained-{number}", drain_timeout_seconds="0", max_attempts="2") as daemon:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not list(daemon.log_entries("job started")):
                assert time.monotonic() < deadline, daemon.log_tail()
                time.sleep(0.1)
            assert daemon.stop() == 1
            assert world.queue_depth() == (1, 0), "released at once"
    gate.touch()
    with world.daemon("finisher", max_attempts="2"):
        world.wait_for("drained", "job.completed")
    assert json.loads(world.outputs("drained")["manifest.json"])["attempt"] == 1


def fork_server(daemon: int) -> int:
    """Return the fork server of the daemon's decoders."""
    found = [
        pid for pid in children(daemon) if b"daemon.media.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(found) == 1
    return found[0]


def test_killed_fork_server_is_replaced(world: World) -> None:
    with world.daemon("decoders") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        first = fork_server(daemon.process.pid)  # started before a job needs it
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{first}").exists(), "the fork server has ended and was reaped")
        world.publish("decoded-again", "call.wav")
        world.wait_for("decoded-again", "job.completed")
        world.wait_until_empty()
        second = fork_server(daemon.process.pid)
        assert "transcriptd_decoder_fork_server_starts_total 2.0" in daemon.get("/metrics")
        daemon.process.kill()
        daemon.process.wait()
        wait_for(lambda: not is_alive(second), "the fork server ended with the daemon")
    assert json.loads(world.outputs("decoded-again")["manifest.json"])["attempt"] == 1
