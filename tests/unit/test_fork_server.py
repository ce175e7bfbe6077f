"""The fork server of decoders: one for all recordings, isolated from their crashes, never left behind."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from bench.waiting import wait_for
from daemon.errors import DecodeLimit, DecoderKilled, MediaUnreadable, TranscriptdError
from daemon.media import decoder_pool as media
from daemon.media.decoder_pool import Audio, DecoderPool
from daemon.telemetry.metrics import Metrics
from tests.support.media.decoding import LIMITS, children, is_alive, stuck_decode
from tests.support.media.files import RATE, chirp, make_wav
from tests.support.monitoring.samples import samples_of


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def decoder(tmp_path: Path, metrics: Metrics) -> AsyncIterator[DecoderPool]:
    before = children(os.getpid())
    async with DecoderPool(tmp_path, metrics, max_decoders=16) as decoder:
        yield decoder
    assert children(os.getpid()) <= before


def server(decoder: DecoderPool) -> int:
    """Return the PID of the current server, ignoring servers that are ending and other children of the test process."""
    return decoder._servers[-1].process.pid


def starts(metrics: Metrics) -> float:
    return samples_of(metrics)["transcriptd_decoder_fork_server_starts_total"]


async def decode_tone(decoder: DecoderPool, folder: Path, name: str = "tone", hertz: float = 1000) -> Audio:
    tone = np.sin(2 * np.pi * hertz / RATE * np.arange(RATE)).astype(np.float32) / 2
    audio = await decoder.decode(make_wav(folder / f"{name}.wav", tone), folder / f"{name}.f32", LIMITS)
    np.testing.assert_allclose(np.fromfile(audio.paths[0], "<f4"), tone, atol=1e-4)
    return audio


def entries(pid: int, folder: str) -> set[str]:
    """List a folder of /proc/PID: `fd` for open files, `task` for threads."""
    return {path.name for path in Path(f"/proc/{pid}/{folder}").iterdir()}


async def test_one_server_forks_all_decoders_and_keeps_no_state_of_them(
    decoder: DecoderPool, metrics: Metrics, tmp_path: Path
) -> None:
    assert starts(metrics) == 1, "before the first recording arrives"
    await decode_tone(decoder, tmp_path)
    first = server(decoder)
    opened = entries(first, "fd")
    for _ in range(5):
        await decode_tone(decoder, tmp_path)
    assert server(decoder) == first
    assert entries(first, "fd") == opened
    assert children(first) == set(), "not even zombies"
    assert starts(metrics) == 1


async def test_the_server_has_one_thread(decoder: DecoderPool, tmp_path: Path) -> None:
    """A fork copies only one thread; locks held by others would stay locked forever."""
    await decode_tone(decoder, tmp_path)
    assert len(entries(server(decoder), "task")) == 1


async def test_recordings_are_decoded_in_parallel(decoder: DecoderPool, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stuck = [await stack.enter_async_context(stuck_decode(decoder, tmp_path, name=name)) for name in "abc"]
        assert children(server(decoder)) == {pid for _, pid in stuck}
        names = [f"tone-{number}" for number in range(8)]
        await asyncio.gather(
            *(decode_tone(decoder, tmp_path, name, 200 * number + 200) for number, name in enumerate(names))
        )
        assert children(server(decoder)) == {pid for _, pid in stuck}


async def test_decoder_inherits_no_open_files(decoder: DecoderPool, tmp_path: Path) -> None:
    async with stuck_decode(decoder, tmp_path, name="a"), stuck_decode(decoder, tmp_path, name="b") as (_, pid):
        # 3 is a duplicate of 1 for the result; 1 itself is redirected, so that library output cannot corrupt it.
        assert entries(pid, "fd") == {"0", "1", "2", "3"}


async def test_a_decoder_dies_with_its_server(decoder: DecoderPool, tmp_path: Path) -> None:
    async with stuck_decode(decoder, tmp_path) as (task, pid):
        os.kill(server(decoder), signal.SIGKILL)
        with pytest.raises(TranscriptdError, match="has exited"):
            await task
        wait_for(lambda: not is_alive(pid), "the end of the decoder")


async def test_cancellation_ends_only_one_decoder(decoder: DecoderPool, metrics: Metrics, tmp_path: Path) -> None:
    async with (
        stuck_decode(decoder, tmp_path, name="a") as (given_up, its_pid),
        stuck_decode(decoder, tmp_path, name="b") as (other, other_pid),
    ):
        given_up.cancel()
        await asyncio.wait((given_up,))
        assert its_pid not in children(server(decoder)), "a zombie would still be there"
        assert is_alive(other_pid)
        assert not other.done()
        await decode_tone(decoder, tmp_path)
    assert starts(metrics) == 1


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGSEGV, MediaUnreadable), (signal.SIGKILL, DecoderKilled), (signal.SIGXCPU, DecodeLimit)],
)
async def test_after_a_crash_no_decoder_has_the_same_addresses(
    decoder: DecoderPool, metrics: Metrics, tmp_path: Path, number: signal.Signals, error: type[TranscriptdError]
) -> None:
    """Decoders that are running are not disturbed: the old server stays until the last of them has ended."""
    old = server(decoder)
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


async def test_killed_server_is_replaced(decoder: DecoderPool, metrics: Metrics, tmp_path: Path) -> None:
    old = server(decoder)
    async with stuck_decode(decoder, tmp_path) as (task, pid):
        os.kill(old, signal.SIGKILL)
        with pytest.raises(TranscriptdError) as caught:
            await task
        assert type(caught.value) is TranscriptdError, "the recording is not blamed"
        wait_for(lambda: not is_alive(pid), "the end of its decoder")
    await decode_tone(decoder, tmp_path)
    assert server(decoder) != old
    assert starts(metrics) == 2


async def test_server_ignores_signals_to_the_whole_service(
    decoder: DecoderPool, metrics: Metrics, tmp_path: Path
) -> None:
    """Recordings are also decoded during a drain: only the parent decides when the server ends."""
    await decode_tone(decoder, tmp_path)
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(server(decoder), number)
    await decode_tone(decoder, tmp_path)
    assert starts(metrics) == 1


async def test_hung_server_is_killed_with_its_decoders(
    decoder: DecoderPool, metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "KILL_TIMEOUT_SECONDS", 0.1)
    async with stuck_decode(decoder, tmp_path) as (task, pid):
        os.kill(server(decoder), signal.SIGSTOP)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_for(lambda: not is_alive(pid), "the end of its decoder")
    await decode_tone(decoder, tmp_path)
    assert starts(metrics) == 2


async def test_failure_to_start_the_server_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho there is no FFmpeg >&2; exit 1\n")
    broken.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(broken))
    async with DecoderPool(tmp_path, Metrics()) as decoder:
        for _ in range(2):  # a new server is started for each recording
            with pytest.raises(TranscriptdError) as caught:
                await decoder.decode(make_wav(tmp_path / "a.wav", chirp()), tmp_path / "a.f32", LIMITS)
            assert str(caught.value.detail).strip() == "there is no FFmpeg"
    assert not (tmp_path / "a.f32").exists()
