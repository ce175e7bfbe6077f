"""How many messages the real daemon holds at once: as many as its runner can use and has memory for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.media.files import repeated_call
from tests.support.monitoring.samples import scraped

# Two batches are 8 chunks: as many calls of 30 s, or one recording of 4 min.
BATCH_SIZE = 4
BY_QUEUE = ("jobs_in_flight", "receive_capacity")


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(batch_size=str(BATCH_SIZE)) as world:
        world.upload("30s.wav", sample_call())
        for seconds in (60, 120, 300):
            world.upload(f"{seconds}s.wav", repeated_call(world.folder / "call.wav", seconds // 30))
        yield world


def publish(world: World, job_id: str, key: str, gate: Path) -> None:
    """Publish a job that ends once there is a file at the gate."""
    world.publish(job_id, key, options={"initial_prompt": f"until {gate}"})


def wait_until_shown(world: World, daemon: DaemonProcess, **values: float) -> None:
    def shown() -> bool:
        found = scraped(daemon.get("/metrics"))
        return all(found[_series(name)] == value for name, value in values.items())

    wait_for(shown, f"{values} shown")


def _series(name: str) -> str:
    return f'transcriptd_{name}{{queue="jobs"}}' if name in BY_QUEUE else f"transcriptd_{name}"


def live_on(world: World, daemon: DaemonProcess) -> None:
    """Wait until the daemon has had time for three empty receives, or as many as it would make."""
    ticks = "transcriptd_event_loop_lag_seconds_count"  # two a second
    enough = scraped(daemon.get("/metrics"))[ticks] + 6
    wait_for(lambda: scraped(daemon.get("/metrics"))[ticks] >= enough, "the daemon has continued")


def wait_for_all(world: World, job_ids: list[str]) -> None:
    for job_id in job_ids:
        world.wait_for(job_id, "job.completed")
    world.wait_until_empty()


def test_short_recordings_are_held_until_they_fill_the_batches(world: World) -> None:
    gate, jobs = world.folder / "gate", [f"job-{number}" for number in range(12)]
    for job_id in jobs:
        publish(world, job_id, "30s.wav", gate)
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        wait_until_shown(world, daemon, jobs_in_flight=8, receive_capacity=0, audio_in_flight_seconds=240)
        live_on(world, daemon)
        assert world.queue_depth() == (4, 8)
        gate.touch()
        wait_for_all(world, jobs)


def test_two_long_recordings_are_held(world: World) -> None:
    gate, jobs = world.folder / "gate", [f"job-{number}" for number in range(4)]
    for job_id in jobs:
        publish(world, job_id, "300s.wav", gate)
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        wait_until_shown(world, daemon, jobs_in_flight=2, receive_capacity=0, audio_in_flight_seconds=600)
        live_on(world, daemon)
        assert world.queue_depth() == (2, 2)
        gate.touch()
        wait_for_all(world, jobs)


def test_nothing_is_received_while_a_job_waits_for_memory(world: World) -> None:
    first, then = world.folder / "first", world.folder / "then"
    with world.daemon(max_audio_in_flight_seconds="150") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        publish(world, "inside", "120s.wav", first)
        wait_until_shown(world, daemon, audio_in_flight_seconds=120)
        publish(world, "waiting", "60s.wav", then)
        wait_until_shown(world, daemon, jobs_waiting=1, jobs_in_flight=2, receive_capacity=0)
        # 6 of 8 chunks are in progress, so there would be capacity but for the memory.
        publish(world, "queued", "30s.wav", then)
        live_on(world, daemon)
        assert world.queue_depth() == (1, 2)
        first.touch()
        wait_until_shown(world, daemon, jobs_waiting=0, jobs_in_flight=2, audio_in_flight_seconds=90)
        then.touch()
        wait_for_all(world, ["inside", "waiting", "queued"])


def test_recording_longer_than_the_limit_runs_alone(world: World) -> None:
    gate, jobs = world.folder / "gate", ["short", "huge"]
    with world.daemon(max_audio_in_flight_seconds="100") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        publish(world, "huge", "120s.wav", gate)
        wait_until_shown(world, daemon, audio_in_flight_seconds=120)
        publish(world, "short", "30s.wav", gate)
        wait_until_shown(world, daemon, jobs_waiting=1, audio_in_flight_seconds=120)
        gate.touch()
        wait_for_all(world, jobs)
