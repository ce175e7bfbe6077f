"""The real daemon where the kernel can confine its decoders, and where it cannot."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bench.waiting import PATIENCE_SECONDS
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.errors import EXIT_CONFIG
from tests.support.media.files import chirp, make_wav
from tests.support.media.kernels import command_on, has_landlock

DAEMON = (sys.executable, "-m", "daemon", "run")
pytestmark = pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")
MISSING = {
    "without Landlock": ["Landlock"],
    "without seccomp": ["seccomp"],
    "without both": ["Landlock", "seccomp"],
}


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(allow_weak_sandbox="false") as world:
        world.upload("short.wav", make_wav(world.folder / "short.wav", chirp(1.0)))
        yield world


def readiness(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.get("/readyz"))
    return found


@pytest.mark.parametrize("kernel", ["without user namespaces", None], ids=str)
def test_confined_decoders_need_no_privilege_and_no_namespace(world: World, kernel: str | None) -> None:
    """Docker's default profile and AppArmor on Ubuntu refuse user namespaces."""
    with world.daemon(command=command_on(kernel, *DAEMON) if kernel else DAEMON) as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "short.wav")
        world.wait_for("job-1", "job.completed")
        assert readiness(daemon)["checks"]["sandbox"] == {
            "ok": True,
            "missing": [],
            "error": None,
            "runner_network": True,
        }
        metrics = daemon.get("/metrics")
    for layer in ("Landlock", "seccomp"):
        assert f'transcriptd_decoder_sandbox_layer{{layer="{layer}"}} 1.0' in metrics
    assert not list(daemon.log_entries("sandbox is weak"))


@pytest.mark.parametrize("kernel", MISSING)
def test_daemon_refuses_to_start_where_a_layer_is_missing(world: World, kernel: str) -> None:
    with world.daemon(command=command_on(kernel, *DAEMON)) as daemon:
        assert daemon.process.wait(PATIENCE_SECONDS) == EXIT_CONFIG
    (refused,) = daemon.log_entries("settings refused")
    for layer in MISSING[kernel]:
        assert f"{layer} is missing" in refused["error"]
    assert "TRANSCRIPTD_ALLOW_WEAK_SANDBOX=true" in refused["error"]


@pytest.mark.parametrize("kernel", MISSING)
def test_daemon_with_a_weak_sandbox_works_and_says_so(world: World, kernel: str) -> None:
    with world.daemon(command=command_on(kernel, *DAEMON), allow_weak_sandbox="true") as daemon:
        assert daemon.wait_until_ready(PATIENCE_SECONDS)
        world.publish("job-1", "short.wav")
        world.wait_for("job-1", "job.completed")
        check = readiness(daemon)["checks"]["sandbox"]
        metrics = daemon.get("/metrics")
    (entry,) = daemon.log_entries("sandbox is weak")
    assert entry["level"] == "ERROR"
    assert check == {"ok": True, "missing": MISSING[kernel], "error": entry["error"], "runner_network": True}
    for layer in ("Landlock", "seccomp"):
        assert f'layer="{layer}"}} {float(layer not in MISSING[kernel])}' in metrics


@pytest.mark.parametrize(("allowed", "status"), [("false", "fail"), ("true", "warn")])
def test_check_finds_a_weak_sandbox(world: World, allowed: str, status: str) -> None:
    check = command_on("without Landlock", sys.executable, "-m", "daemon", "check", "--json", "--only", "sandbox")
    with world.daemon(command=check, allow_weak_sandbox=allowed) as command:
        assert command.process.wait(PATIENCE_SECONDS) == (status == "fail")
    (found,) = json.loads(command.log_path.read_text())["checks"]
    assert found["status"] == status
    assert "Landlock is missing" in found["found"]
    assert "operations.md" in found["fix"]
