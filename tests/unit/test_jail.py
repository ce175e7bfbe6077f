"""The jail of the decoder: what code that runs in it can do, as root and as another user."""

import os
import platform
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from daemon.errors import MediaUnreadable, TranscriptdError
from daemon.media.decoder_pool import DecoderPool
from daemon.media.sandbox_probe import probe_sandbox
from daemon.telemetry.metrics import Metrics
from tests.support.media import attacks
from tests.support.media.decoding import LIMITS
from tests.support.media.jail import Attack, interpreter, read_report

NOBODY = 65534
X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86-64 only")
USERS = [0, NOBODY] if os.getuid() == 0 else [os.getuid()]


@pytest.fixture(params=USERS, ids=str)
def user(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def folder(user: int) -> Iterator[Path]:
    """A folder that belongs to the user of the decoder, below none that is closed to it."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, user, -1)
        yield Path(name)


@asynccontextmanager
async def decoders(folder: Path, attack: Attack, user: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DecoderPool]:
    monkeypatch.setattr("sys.executable", str(interpreter(folder, attack, 0 if user == os.getuid() else user)))
    async with DecoderPool(folder, Metrics()) as pool:
        yield pool


async def run(attack: Attack, folder: Path, user: int, monkeypatch: pytest.MonkeyPatch, source: bytes = b"") -> object:
    """Return what the attack returns in a decoder of this user."""
    path, target = folder / "source", folder / "report.f32"
    path.write_bytes(source)
    async with decoders(folder, attack, user, monkeypatch) as pool:
        audio = await pool.decode(path, target, LIMITS)
        return read_report(audio.paths[0])


async def test_nothing_leads_out(folder: Path, user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other.f32"
    other.write_bytes(b"secret")
    os.chown(other, user, -1)
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(folder / "socket"))
        unix.listen()
        (folder / "socket").chmod(0o777)
        source = f"{folder} {tcp.getsockname()[1]}\n".encode()
        found = await run(attacks.escape, folder, user, monkeypatch, source)
    assert isinstance(found, dict)
    assert {name for name, outcome in found.items() if outcome not in ("EPERM", "can't start new thread")} == set()
    assert len(found) > 40
    assert other.read_bytes() == b"secret"
    assert {path.name for path in folder.iterdir()} >= {"other.f32", "socket"}
    assert not (folder / "new").exists()


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
