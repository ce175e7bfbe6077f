"""kill -9 between every two adjacent steps: nothing is lost, nothing is published twice, everybody is told."""

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.crashpoints import VARIABLE
from daemon.embedded.recordings import sample_call
from tests.acceptance.world import PATIENCE_SECONDS, World, open_world
from tests.decoding import children, is_alive
from tests.waiting import wait_for

POINTS = (
    "told",
    "first-output-stored",
    "received",
    "begun",
    "downloaded",
    "decoded",
    "transcribed",
    "outputs-stored",
    "published",
    "decided",
    "settled",
)
FAILING_POINTS = ("decided", "dead-lettered", "settled")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        world.upload("notes.txt", b"nobody spoke " * 100)
        yield world


def run_supervised(world: World, crashes: str, until_done: float = 2 * PATIENCE_SECONDS) -> int:
    """Restart the daemon whenever it dies, as systemd would, until the queue is empty; how often it died."""
    deaths = 0
    deadline = time.monotonic() + until_done
    world.settings[VARIABLE] = crashes
    try:
        while time.monotonic() < deadline:
            if deaths and world.queue_depth() == (0, 0):
                return deaths  # it died after its last message was gone
            with world.daemon(f"daemon-{deaths}", jobs_in_flight="1") as daemon:
                while daemon.process.poll() is None and time.monotonic() < deadline:
                    if world.queue_depth() == (0, 0):
                        status = daemon.stop()  # a crash point after the delete may strike in this very moment
                        assert status in (0, -signal.SIGKILL), daemon.log_tail()
                        return deaths + (status != 0)
                    time.sleep(0.1)
            assert daemon.process.returncode == -signal.SIGKILL, daemon.log_tail()
            deaths += 1
    finally:
        del world.settings[VARIABLE]
    raise AssertionError(f"not done: {world.queue_depth()}, died {deaths} times")


def test_a_job_survives_a_crash_at_every_step(world: World) -> None:
    for point in POINTS:
        world.publish(point, "call.wav")
    deaths = run_supervised(world, ",".join(f"{point}:{point}" for point in POINTS))
    assert deaths == len(POINTS)
    for point in POINTS:
        outputs = world.outputs(point)
        manifest = json.loads(outputs["manifest.json"])
        for output in manifest["outputs"]:
            body = outputs[output["key"].rpartition("/")[2]]
            assert hashlib.sha256(body).hexdigest() == output["sha256"], point
        assert not [name for name in outputs if name.startswith("checkpoints/")], point
        world.wait_for(point, "job.completed")
        assert manifest["attempt"] == 1, "a crash of the host is not a failure of the job"
    assert world.dead_letters() == []
    assert world.scratch_files() == []


def test_a_failing_job_survives_a_crash_at_every_step(world: World) -> None:
    for point in FAILING_POINTS:
        world.publish(f"bad-{point}", "notes.txt")
    deaths = run_supervised(world, ",".join(f"{point}:bad-{point}" for point in FAILING_POINTS))
    assert deaths == len(FAILING_POINTS)
    letters = [json.loads(letter["body"])["job_id"] for letter in world.dead_letters()]
    # A crash between send and delete leaves a duplicate, never a loss.
    assert sorted(set(letters)) == sorted(f"bad-{point}" for point in FAILING_POINTS)
    for point in FAILING_POINTS:
        world.wait_for(f"bad-{point}", "job.failed")


def test_a_job_that_kills_its_host_is_quarantined(world: World) -> None:
    world.publish("killer", "call.wav", options={"initial_prompt": "sleep 30"})
    for number in range(2):
        with world.daemon(f"victim-{number}", quarantine_deliveries="2") as daemon:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not list(daemon.log_entries("job started")):
                assert time.monotonic() < deadline, daemon.log_tail()
                time.sleep(0.1)
            daemon.process.kill()
            daemon.process.wait()
    with world.daemon("last", quarantine_deliveries="2"):
        failed = world.wait_for("killer", "job.failed")
    assert failed["data"]["error"]["code"] == "crash_suspect"
    (letter,) = world.dead_letters()
    assert letter["failure"]["code"] == "crash_suspect"


def test_interruptions_spend_no_attempt(world: World) -> None:
    """Four drains of a job that would have only two attempts: it is still tried, and still finishes."""
    world.publish("drained", "call.wav", options={"initial_prompt": "sleep 4"})
    for number in range(4):
        with world.daemon(f"drained-{number}", drain_timeout_seconds="0", max_attempts="2") as daemon:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not list(daemon.log_entries("job started")):
                assert time.monotonic() < deadline, daemon.log_tail()
                time.sleep(0.1)
            assert daemon.stop() == 1
            assert world.queue_depth() == (1, 0), "released at once"
    with world.daemon("finisher", max_attempts="2"):
        world.wait_for("drained", "job.completed")
    assert json.loads(world.outputs("drained")["manifest.json"])["attempt"] == 1


def fork_server(daemon: int) -> int:
    """The process that forks the daemon's decoders."""
    found = [pid for pid in children(daemon) if b"daemon.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(found) == 1
    return found[0]


def test_decoders_are_forked_anew_when_what_forks_them_is_killed(world: World) -> None:
    with world.daemon("decoders") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        first = fork_server(daemon.process.pid)  # started before a job needs it
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{first}").exists(), "the end of the fork server, which is not left a zombie")
        world.publish("decoded-anew", "call.wav")
        world.wait_for("decoded-anew", "job.completed")
        second = fork_server(daemon.process.pid)
        assert "transcriptd_decoder_fork_server_starts_total 2.0" in daemon.get("/metrics")
        daemon.process.kill()
        daemon.process.wait()
        wait_for(lambda: not is_alive(second), "the end of the fork server, with the daemon's")
    assert json.loads(world.outputs("decoded-anew")["manifest.json"])["attempt"] == 1
