"""Stopping is never a crash: real signals, followed by SIGKILL as at the end of a container's grace period."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.waiting import PATIENCE_SECONDS, wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from tests.support.media.decoding import children


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(visibility_timeout_seconds=6, heartbeat_seconds="2", max_crashed_deliveries="3") as world:
        world.upload("call.wav", sample_call())
        yield world


def wait_until_logged(daemon: DaemonProcess, event: str) -> None:
    wait_for(lambda: any(daemon.log_entries(event)), event)


@pytest.mark.parametrize(
    ("number", "grace_seconds"), [(signal.SIGTERM, 1), (signal.SIGTERM, 5), (signal.SIGHUP, 1), (signal.SIGINT, 1)]
)
def test_killed_after_a_stop_signal_is_no_crash(world: World, number: signal.Signals, grace_seconds: float) -> None:
    """Three deliveries end with a stop signal and SIGKILL; the fourth completes the job, in its first attempt."""
    job = f"job-{number.name.lower()}-{grace_seconds}"
    gate = world.folder / job
    world.publish(job, "call.wav", options={"initial_prompt": f"until {gate}"})
    for count in range(1, 4):
        with world.daemon(f"{job}-{count}") as daemon:
            wait_until_logged(daemon, "job started")
            daemon.process.send_signal(number)
            wait_until_logged(daemon, "draining")
            with pytest.raises(subprocess.TimeoutExpired):
                daemon.process.wait(grace_seconds)  # the job cannot finish, and the grace period ends
            daemon.process.kill()
            assert daemon.process.wait() == -signal.SIGKILL
        deliveries = json.loads(world.outputs(job)["checkpoints/deliveries.json"])["deliveries"]
        assert [(each["outcome"], each["reason"]) for each in deliveries] == [("released", "interrupted")] * count
    gate.touch()
    with world.daemon(f"{job}-last"):
        world.wait_for(job, "job.completed", PATIENCE_SECONDS)
        world.wait_until_empty()
    assert json.loads(world.outputs(job)["manifest.json"])["attempt"] == 1
    assert world.dead_letters() == []


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@contextmanager
def container(world: World, name: str, **settings: str) -> Iterator[tuple[DaemonProcess, int]]:
    """Run the daemon as process 1 of its own PID namespace, which has an orphan. Yields its PID outside."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make a PID namespace here")
    command = [*unshare, "sh", "-c", f"(sleep 2 &); exec {sys.executable} -m daemon run"]
    with world.daemon(name, command=command, **settings) as daemon:
        wait_for(lambda: len(children(daemon.process.pid)) == 1, "process 1")
        (first,) = children(daemon.process.pid)
        wait_for(lambda: handles(first, signal.SIGTERM), "a handler")
        yield daemon, first


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_during_the_imports_ends_the_daemon(world: World, number: signal.Signals) -> None:
    with world.daemon("early") as daemon:
        wait_for(lambda: handles(daemon.process.pid, number), "a handler")
        daemon.process.send_signal(number)
        assert daemon.process.wait(PATIENCE_SECONDS) == 0, daemon.log_tail()


def test_process_1_ends_at_a_signal_during_the_imports(world: World) -> None:
    with container(world, "early-container") as (daemon, first):
        os.kill(first, signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_SECONDS) == 0, daemon.log_tail()


def test_process_1_reaps_orphans_and_releases_its_jobs_within_the_grace_period(world: World) -> None:
    gate = world.folder / "contained"
    with container(world, "container") as (daemon, first):
        assert daemon.wait_until_ready(PATIENCE_SECONDS), daemon.log_tail()
        wait_for(lambda: len(children(first)) == 1, "only the daemon is left; the orphan is reaped")
        world.publish("contained", "call.wav", options={"initial_prompt": f"until {gate}"})
        wait_until_logged(daemon, "job started")
        os.kill(first, signal.SIGTERM)
        assert daemon.process.wait(PATIENCE_SECONDS) == 1, daemon.log_tail()
    (draining,) = daemon.log_entries("draining")
    assert draining["timeout_seconds"] == 8, "docker kills the container after 10 s"
    (finished,) = daemon.log_entries("job finished")
    assert (finished["outcome"], finished["settled"]) == ("released", True)
    assert world.queue_depth() == (1, 0), "visible at once"
    gate.touch()  # another test may receive it
