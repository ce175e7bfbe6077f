"""The jail of the decoder: what code that runs in it can do, as root and as another user."""

import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from daemon.errors import MediaUnreadable, TranscriptdError
from daemon.media.decoder_pool import DecoderPool
from daemon.media.sandbox_probe import probe_sandbox
from daemon.telemetry.metrics import Metrics
from tests.support.media import attacks
from tests.support.media.decoding import LIMITS
from tests.support.media.files import RATE, chirp, make_recording, make_text, make_truncated_mp4, make_wav
from tests.support.media.hostile import make_generator
from tests.support.media.jail import Attack, interpreter, read_report
from tests.support.media.kernels import command_on, has_landlock
from tests.support.media.kinds import KINDS
from tests.support.users import USERS, folder_of

pytestmark = pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")
NO_THREAD = "can't start new thread"
X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")


@pytest.fixture(params=USERS, ids=str)
def user(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def folder(user: int) -> Iterator[Path]:
    with folder_of(user) as folder:
        yield folder


async def run(
    attack: Attack,
    folder: Path,
    user: int,
    monkeypatch: pytest.MonkeyPatch,
    source: bytes = b"",
    layers: str = "Landlock,seccomp",
) -> object:
    """Return what the attack returns in a decoder of this user."""
    path, target = folder / "source", folder / "report.f32"
    path.write_bytes(source)
    other = 0 if user == os.getuid() else user
    monkeypatch.setattr("sys.executable", str(interpreter(folder, attack, other, layers)))
    async with DecoderPool(folder, Metrics()) as pool:
        audio = await pool.decode(path, target, LIMITS)
    return read_report(audio.paths[0])


@contextmanager
def booty(folder: Path, user: int) -> Iterator[bytes]:
    """Create what an attacker looks for: another job's audio, a path socket and a TCP port. Yield the attack's input."""
    other = folder / "other.f32"
    other.write_bytes(b"secret")
    os.chown(other, user, -1)
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(folder / "socket"))
        unix.listen()
        (folder / "socket").chmod(0o777)
        yield f"{folder} {tcp.getsockname()[1]}\n".encode()
    assert other.read_bytes() == b"secret"
    assert not {path.name for path in folder.iterdir()} & {"new", "link", "renamed"}


async def test_nothing_leads_out(folder: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with booty(folder, user) as source:
        found = await run(attacks.escape, folder, user, monkeypatch, source)
    assert isinstance(found, dict)
    assert {name: outcome for name, outcome in found.items() if outcome not in ("EPERM", NO_THREAD)} == {}
    assert len(found) > 40


async def test_landlock_alone_closes_the_file_system(folder: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second layer: seccomp refuses these calls before Landlock sees them."""
    with booty(folder, user) as source:
        found = await run(attacks.escape_landlock, folder, user, monkeypatch, source, layers="Landlock")
    assert isinstance(found, dict)
    assert {name: outcome for name, outcome in found.items() if outcome not in ("EPERM", "EACCES")} == {}


async def test_without_the_jail_the_same_code_gets_out(
    folder: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacks above would work: it is the jail that stops them."""
    with booty(folder, user) as source:
        (folder / "other.f32").rename(folder / "kept")
        (folder / "other.f32").write_bytes(b"prey")
        os.chown(folder / "other.f32", user, -1)
        found = await run(attacks.break_out, folder, user, monkeypatch, source, layers="")
        (folder / "kept").rename(folder / "other.f32")
    assert isinstance(found, dict)
    assert {name: outcome for name, outcome in found.items() if outcome != "possible"} == {}


async def test_decoding_imports_and_opens_nothing(folder: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the jail it would fail, for the one recording that needs it."""
    paths = [kind.make(folder / str(kind), chirp(2)) for kind in KINDS]
    paths += [make_recording(folder / "video.mkv"), make_truncated_mp4(folder / "cut.mp4"), make_text(folder / "a.txt")]
    paths += [write_loud(folder / "loud.wav"), make_generator(folder / "a.sbg")]
    monkeypatch.setattr(
        "sys.executable", str(interpreter(folder, attacks.decode_and_watch, 0 if user == os.getuid() else user))
    )
    outcomes = set()
    async with DecoderPool(folder, Metrics()) as pool:
        for path in paths:
            os.chown(path, user, -1)
            found = read_report((await pool.decode(path, folder / "report.f32", LIMITS)).paths[0])
            assert found["seen"] == [], path.name
            outcomes.add(found["outcome"])
    assert outcomes == {"audio", "media_unreadable"}


def write_loud(path: Path) -> Path:
    return make_wav(path, np.array([0.25, np.nan, np.inf, 1e30] * RATE, np.float32))


@pytest.mark.parametrize("layer", ["Landlock", "seccomp"])
async def test_decoder_without_a_layer_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    """Unless the setting allows it: the daemon does not start there, and its decoders do not rely on that."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command_on(f"without {layer}", sys.executable))} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    path, target = make_wav(tmp_path / "a.wav"), tmp_path / "a.f32"
    async with DecoderPool(tmp_path, Metrics()) as pool:
        with pytest.raises(TranscriptdError) as caught:
            await pool.decode(path, target, LIMITS)
    assert f"{layer} cannot confine the decoder" in str(caught.value.detail)
    async with DecoderPool(tmp_path, Metrics(), allow_weak_sandbox=True) as pool:
        assert (await pool.decode(path, target, LIMITS)).duration_seconds == 2


async def test_probe_finds_this_kernel_complete() -> None:
    """As do all other tests of this file: the layers are part of every kernel that we support."""
    assert (await probe_sandbox()).missing == {}


async def test_a_decoder_can_read_write_allocate_and_exit(
    folder: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await run(attacks.work, folder, user, monkeypatch, b"a recording") == {"read": "a recording"}
    assert (folder / "report.f32").stat().st_uid == user


async def test_a_bug_in_the_jail_is_reported_with_its_traceback(
    folder: Path, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TranscriptdError) as caught:
        await run(attacks.fail, folder, user, monkeypatch)
    assert type(caught.value) is TranscriptdError
    assert str(caught.value.detail).rstrip().endswith("RuntimeError: a bug of ours")


@pytest.mark.parametrize(
    ("attack", "signal"),
    [
        (attacks.abort, "SIGABRT"),
        pytest.param(attacks.use_x32_calls, "SIGSYS", marks=X86),
        pytest.param(attacks.use_32_bit_calls, "SIGSYS", marks=X86),
    ],
)
async def test_the_end_of_a_decoder_that_misbehaves(
    folder: Path, user: int, monkeypatch: pytest.MonkeyPatch, attack: Attack, signal: str
) -> None:
    """Calls from the tables of other architectures have other numbers, so the filter cannot judge them."""
    with pytest.raises(MediaUnreadable, match=signal):
        await run(attack, folder, user, monkeypatch)
