"""Credentials that are rotated under a running daemon while AWS refuses the old ones: no job is lost or charged an attempt."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.recordings import sample_call
from tests.support.aws.gate import Gate

# An empty variable is the same as an unset one for the SDK, so that the file decides.
ONLY_FILE = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


def write(file: Path, key: str) -> None:
    """Replace the file as a rotating program does."""
    new = file.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")
    new.replace(file)


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=4, heartbeat_seconds="1", retry_base_seconds="0.1") as world:
        world.upload("call.wav", sample_call())
        world.settings |= ONLY_FILE | {"AWS_SHARED_CREDENTIALS_FILE": str(world.folder / "credentials")}
        yield world


def test_calls_that_are_refused_during_a_rotation_are_repeated_with_the_new_credentials(
    world: World, gate: Gate
) -> None:
    """The file is replaced when the first call of the old key arrives, so that at least this call was signed too early."""
    file = world.folder / "credentials"
    write(file, "KEY0")
    rotations = ["InvalidAccessKeyId", "ExpiredToken", "InvalidClientTokenId", "UnrecognizedClientException"]
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        for number, code in enumerate(rotations):
            world.publish(f"during-{number}", "call.wav", options={"initial_prompt": "sleep 1"})
            world.wait_for(f"during-{number}", "job.started")
            gate.refused_keys[f"KEY{number}"] = (code, partial(write, file, f"KEY{number + 1}"))
            world.publish(f"after-{number}", "call.wav")
            world.wait_for(f"during-{number}", "job.completed")
            world.wait_for(f"after-{number}", "job.completed")
            assert gate.refused_calls[f"KEY{number}"]
        world.wait_until_empty()
        assert list(daemon.log_entries("brake engaged")) == []
        assert list(daemon.log_entries("queue unavailable")) == []
        ends = [(end["outcome"], end["reason"]) for end in daemon.log_entries("job finished")]
        assert ends == [("published", "published")] * 2 * len(rotations)
    assert world.dead_letters() == []


def test_jobs_wait_for_new_credentials_while_the_old_ones_are_refused(world: World, gate: Gate) -> None:
    file = world.folder / "credentials"
    write(file, "KEY0")
    with world.daemon(max_attempts="1") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        world.publish("during", "call.wav", options={"initial_prompt": "sleep 1"})
        world.wait_for("during", "job.started")
        gate.refused_keys["KEY0"] = ("ExpiredToken", lambda: None)
        world.publish("waiting", "call.wav")
        wait_for(lambda: len(gate.refused_calls.get("KEY0", [])) >= 5, "calls are refused")
        write(file, "KEY1")
        for job_id in ("during", "waiting"):
            world.wait_for(job_id, "job.completed", 2 * PATIENCE_SECONDS)
            assert json.loads(world.outputs(job_id)["manifest.json"])["attempt"] == 1
        world.wait_until_empty()
    assert world.dead_letters() == []
