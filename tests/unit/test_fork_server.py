"""The process that forks decoders: one for all recordings, hurt by none of them, never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from daemon import media
from daemon.errors import DecodeLimit, MediaUnreadable, TranscriptdError
from daemon.media import Audio, Decoder
from daemon.metrics import Metrics
from tests.decoding import LIMITS, children, is_alive, stuck_decode
from tests.media import RATE, chirp, make_wav
from tests.samples import samples_of
from tests.waiting import wait_for


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def decoder(tmp_path: Path, metrics: Metrics) -> AsyncIterator[Decoder]:
    before = children(os.getpid())
    async with Decoder(tmp_path, metrics) as decoder:
        yield decoder
    assert children(os.getpid()) == before


def server() -> int:
    """The one that runs now. Those that are being waited for do not count, nor do other children of the test process."""
    (pid,) = [
        pid for pid in children(os.getpid()) if b"daemon.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return pid


def starts(metrics: Metrics) -> float:
    return samples_of(metrics)["transcriptd_decoder_fork_server_starts_total"]


async def decode_tone(decoder: Decoder, folder: Path, name: str = "tone", hertz: float = 1000) -> Audio:
    tone = np.sin(2 * np.pi * hertz / RATE * np.arange(RATE)).astype(np.float32) / 2
    audio = await decoder.decode(make_wav(folder / f"{name}.wav", tone), folder / f"{name}.f32", LIMITS)
    np.testing.assert_allclose(np.fromfile(audio.paths[0], "<f4"), tone, atol=1e-4)
    return audio


def entries(pid: int, folder: str) -> set[str]:
    """Names in a folder of /proc/PID: `fd` has what is open, `task` the threads."""
    return {path.name for path in Path(f"/proc/{pid}/{folder}").iterdir()}


def network(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")  # noqa: PTH115  # a name, and no path


async def test_one_server_forks_all_decoders_and_keeps_nothing_of_them(
    decoder: Decoder, metrics: Metrics, tmp_path: Path
) -> None:
    assert starts(metrics) == 1, "before the first recording comes"
    await decode_tone(decoder, tmp_path)
    first = server()
    opened = entries(first, "fd")
    for _ in range(5):
        await decode_tone(decoder, tmp_path)
    assert server() == first
    assert entries(first, "fd") == opened
    assert children(first) == set(), "not even zombies"
    assert starts(metrics) == 1


async def test_the_server_has_one_thread(decoder: Decoder, tmp_path: Path) -> None:
    """A fork copies one thread, and what the others held stays locked."""
    await decode_tone(decoder, tmp_path)
    assert len(entries(server(), "task")) == 1


async def test_recordings_are_decoded_side_by_side(decoder: Decoder, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stuck = [await stack.enter_async_context(stuck_decode(decoder, tmp_path, name=name)) for name in "abc"]
        assert children(server()) == {pid for _, pid in stuck}
        names = [f"tone-{number}" for number in range(8)]
        await asyncio.gather(
            *(decode_tone(decoder, tmp_path, name, 200 * number + 200) for number, name in enumerate(names))
        )
        assert children(server()) == {pid for _, pid in stuck}


async def test_a_decoder_has_nothing_open_of_the_server_or_of_others(decoder: Decoder, tmp_path: Path) -> None:
    async with stuck_decode(decoder, tmp_path, name="a"), stuck_decode(decoder, tmp_path, name="b") as (_, pid):
        assert entries(pid, "fd") == {
            "0",
            "1",
            "2",
            "3",
        }  # the last is a copy of 1 for the answer, where libraries print nothing


def may_leave_network() -> bool:
    program = "import sys; from daemon.confine import leave_network; sys.exit(not leave_network())"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.skipif(not may_leave_network(), reason="this system has no user namespaces for us")
async def test_a_decoder_has_no_network(decoder: Decoder, tmp_path: Path) -> None:
    """Once its input is open, and before a byte of that is read. It still dies with the server then."""
    async with stuck_decode(decoder, tmp_path) as (task, pid):
        with (tmp_path / "stuck.pipe").open("wb"):
            wait_for(lambda: network(pid) != network(os.getpid()), "a network of its own")
            os.kill(server(), signal.SIGKILL)
            with pytest.raises(TranscriptdError, match="has ended"):
                await task
            wait_for(lambda: not is_alive(pid), "the end of the decoder")


async def test_cancellation_ends_one_decoder_alone(decoder: Decoder, metrics: Metrics, tmp_path: Path) -> None:
    async with (
        stuck_decode(decoder, tmp_path, name="a") as (given_up, its_pid),
        stuck_decode(decoder, tmp_path, name="b") as (other, other_pid),
    ):
        given_up.cancel()
        await asyncio.wait((given_up,))
        assert its_pid not in children(server()), "a zombie would still be there"
        assert is_alive(other_pid)
        assert not other.done()
        await decode_tone(decoder, tmp_path)
    assert starts(metrics) == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGSEGV, MediaUnreadable), (signal.SIGKILL, DecodeLimit), (signal.SIGXCPU, DecodeLimit)],
)
async def test_after_a_crash_no_decoder_has_the_same_addresses(
    decoder: Decoder, metrics: Metrics, tmp_path: Path, number: signal.Signals, error: type[TranscriptdError]
) -> None:
    """Others at work are not disturbed: the server stays until the last of them has ended."""
    old = server()
    async with (
        stuck_decode(decoder, tmp_path, name="a") as (crashing, pid),
        stuck_decode(decoder, tmp_path, name="b") as (other, other_pid),
    ):
        os.kill(pid, number)
        with pytest.raises(error):
            await crashing
        await decode_tone(decoder, tmp_path)
        assert starts(metrics) == 2
        assert is_alive(old)
        assert is_alive(other_pid)
        assert not other.done()
        os.kill(other_pid, number)
        with pytest.raises(error):
            await other
    wait_for(lambda: not is_alive(old), "the end of the old server")


async def test_a_server_that_was_killed_is_replaced(decoder: Decoder, metrics: Metrics, tmp_path: Path) -> None:
    old = server()
    async with stuck_decode(decoder, tmp_path) as (task, pid):
        os.kill(old, signal.SIGKILL)
        with pytest.raises(TranscriptdError) as caught:
            await task
        assert type(caught.value) is TranscriptdError, "nothing is said against the recording"
        wait_for(lambda: not is_alive(pid), "the end of its decoder")
    await decode_tone(decoder, tmp_path)
    assert server() != old
    assert starts(metrics) == 2


async def test_a_server_stays_when_a_whole_service_is_told_to_stop(
    decoder: Decoder, metrics: Metrics, tmp_path: Path
) -> None:
    """Recordings of a drain are decoded too: the parent alone decides."""
    await decode_tone(decoder, tmp_path)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(server(), number)
    await decode_tone(decoder, tmp_path)
    assert starts(metrics) == 1


async def test_a_server_that_stands_still_is_killed_with_its_decoders(
    decoder: Decoder, metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "KILL_PATIENCE_SECONDS", 0.1)
    async with stuck_decode(decoder, tmp_path) as (task, pid):
        os.kill(server(), signal.SIGSTOP)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_for(lambda: not is_alive(pid), "the end of its decoder")
    await decode_tone(decoder, tmp_path)
    assert starts(metrics) == 2


async def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho there is no FFmpeg >&2; exit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(broken))
    async with Decoder(tmp_path, Metrics()) as decoder:
        for _ in range(2):  # it is tried anew for each recording
            with pytest.raises(TranscriptdError) as caught:
                await decoder.decode(make_wav(tmp_path / "a.wav", chirp()), tmp_path / "a.f32", LIMITS)
            assert str(caught.value.detail).strip() == "there is no FFmpeg"
    assert not (tmp_path / "a.f32").exists()
