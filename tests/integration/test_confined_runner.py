"""What code that runs in a runner process can do, as root and as another user."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.confinement.landlock import landlock_abi
from daemon.protocol.messages import Done, Fatal, Memory, Ready, Run, RunnerMessage, Setup, Shutdown, decode, encode
from daemon.protocol.priority import ONLY
from tests.support.media.kernels import command_on, has_landlock
from tests.support.pipeline import SETTINGS, options
from tests.support.users import USERS, folder_of

pytestmark = [
    pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the attacks use the system calls of x86-64"),
]
PIPELINE = "tests.support.pipelines.attacking:AttackingPipeline"
SCOPES_ABI = 6  # older kernels let a runner signal other processes
REFUSED = {"EPERM", "EACCES", "EXDEV"}  # EXDEV: how Landlock refuses a link to another folder
# A daemon that starts its runner. The interpreter may be closed to another user, so the user changes after the imports.
PROGRAM = f"""
import ctypes, os, sys
import {PIPELINE.partition(":")[0]}
from daemon.hidden_memory import hide_memory
from daemon.pipeline.__main__ import main
if (user := int(sys.argv[2])) != os.getuid():
    os.setgroups([]); os.setgid(user); os.setuid(user)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: a change of the user clears it
if (runner := os.fork()) == 0:
    os._exit(main([sys.argv[1]]))
hide_memory()
os._exit(os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]))
"""


class Talk:
    """The poller's end of a runner."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rwb")

    def send(self, message: RunnerMessage) -> None:
        self._file.write(encode(message))
        self._file.flush()

    def receive(self) -> RunnerMessage:
        """Return the next message that is not about memory."""
        while isinstance(message := decode(self._file.readline()), Memory):
            pass
        return message


@contextmanager
def started(user: int, offline: bool, *kernel: str) -> Iterator[tuple[Talk, int]]:
    """Start a runner as the child of a daemon. Yield the connection and the daemon's PID, which Setup needs."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(user)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1" if offline else "0", "TRANSFORMERS_OFFLINE": ""}
    process = subprocess.Popen(
        command_on(kernel[0], *command) if kernel else command, pass_fds=[theirs.fileno()], env=environment
    )
    theirs.close()
    with ours:
        ours.settimeout(PATIENCE_SECONDS)
        yield Talk(ours), process.pid
    process.wait(PATIENCE_SECONDS)


@pytest.fixture(params=USERS, ids=str)
def user(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def folder(user: int) -> Iterator[Path]:
    with folder_of(user) as folder:
        yield folder


def attack(folder: Path, user: int, *, offline: bool) -> dict[str, str]:
    """Run the attacks in a runner. Return the outcome of each."""
    (folder / "credentials").mkdir()
    secret = folder / "credentials" / "WEBHOOK_SECRET"
    secret.write_text("whsec_planted")
    np.zeros(16_000, "<f4").tofile(folder / "audio.f32")
    (folder / "checkpoints").mkdir()
    for path in (folder / "credentials", secret, folder / "checkpoints"):
        os.chown(path, user, -1)
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(folder / "socket"))
        local.listen()
        (folder / "socket").chmod(0o777)
        booty = (str(tcp.getsockname()[1]), str(folder / "socket"), str(secret))
        with started(user, offline) as (talk, daemon):
            settings = replace(SETTINGS, alignment_models=booty)
            talk.send(Setup(PIPELINE, settings, "ERROR", daemon, [str(folder / "credentials")], False))
            assert isinstance(ready := talk.receive(), Ready), ready
            paths = [str(folder / name) for name in ("audio.f32", "result.json", "checkpoints")]
            talk.send(Run("job", [paths[0]], paths[1], paths[2], options().model_dump(mode="json"), {}, ONLY))
            while not isinstance(reply := talk.receive(), Done):
                assert type(reply).__name__ == "JobEvent", reply
            talk.send(Shutdown())
    result: dict[str, Any] = json.loads((folder / "result.json").read_bytes())
    found: dict[str, str] = json.loads(result["segments"][0]["text"])
    if landlock_abi() < SCOPES_ABI:
        found = {name: outcome for name, outcome in found.items() if not name.startswith("signal it (")}
    return found


def test_code_in_a_runner_reaches_no_network_no_credentials_and_no_process(folder: Path, user: int) -> None:
    found = attack(folder, user, offline=True)
    assert {name: outcome for name, outcome in found.items() if outcome not in REFUSED} == {}
    assert len(found) > 40
    assert not (folder / "socket.copy").exists()


def test_a_runner_that_may_fetch_models_has_the_network_and_nothing_else(folder: Path, user: int) -> None:
    found = attack(folder, user, offline=False)
    possible = {name.partition(" (")[0] for name, outcome in found.items() if outcome not in REFUSED}
    assert possible >= {"connect over IPv4", "connect to a local socket"}
    assert possible <= {
        *("connect over IPv4", "connect over IPv6", "send to the instance metadata", "send raw packets"),
        *("talk to the hypervisor", "connect to a local socket", "listen"),
    }


@pytest.mark.parametrize("layer", ["Landlock", "seccomp"])
@pytest.mark.parametrize("allowed", [False, True], ids=["refused", "allowed"])
def test_a_runner_without_a_layer_loads_nothing_unless_a_setting_allows_it(layer: str, allowed: bool) -> None:
    with started(os.getuid(), True, f"without {layer}") as (talk, daemon):
        talk.send(Setup("bench.scripted_pipeline:ScriptedPipeline", SETTINGS, "ERROR", daemon, [], allowed))
        reply = talk.receive()
        if allowed:
            assert isinstance(reply, Ready), reply
            talk.send(Shutdown())
        else:
            assert isinstance(reply, Fatal), reply
            assert f"{layer} cannot confine the runner" in reply.message
