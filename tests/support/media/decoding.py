"""Run and inspect real decoder processes."""

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from daemon.errors import TranscriptdError
from daemon.media.decoder_pool import Audio, DecodeLimits, DecoderPool
from daemon.telemetry.metrics import Metrics
from tests.support.media.files import RATE, Sound

LIMITS = DecodeLimits(max_media_seconds=120, timeout_seconds=30, memory_bytes=2 * 1024**3)


async def decode(
    source: Path, target: Path, limits: DecodeLimits, *, audio_track: int | None = None, split: bool = False
) -> Audio:
    """Decode in a separate process, forked as in the daemon by one fork server for all recordings."""
    decoder, loop = _shared_decoder()
    decoding = decoder.decode(source, target, limits, audio_track=audio_track, split=split)
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(decoding, loop))


@cache
def _shared_decoder() -> tuple[DecoderPool, asyncio.AbstractEventLoop]:
    """Return a decoder pool and its event loop, shared by all tests of this process. Starting a fork server for each
    test would take longer than the decoding, and each test has its own event loop. The server exits with this
    process."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="shared decoder", daemon=True).start()
    return DecoderPool(Path(tempfile.gettempdir()), Metrics()), loop


async def decoded(source: Path, limits: DecodeLimits = LIMITS, audio_track: int | None = None) -> tuple[Audio, Sound]:
    """Decode the recording, with its channels mixed."""
    audio = await decode(source, source.with_name("decoded.f32"), limits, audio_track=audio_track)
    (path,) = audio.paths
    sound = np.fromfile(path, "<f4")
    assert audio.duration_seconds == len(sound) / RATE
    return audio, sound


async def channels_of(source: Path, limits: DecodeLimits = LIMITS, audio_track: int | None = None) -> list[Sound]:
    """Decode the recording into separate channels."""
    target = source.with_name("split.f32")
    audio = await decode(source, target, limits, audio_track=audio_track, split=True)
    assert audio.paths == tuple(source.with_name(f"split-{index:02}.f32") for index in range(len(audio.paths)))
    assert set(source.parent.glob("split*")) == set(audio.paths)
    sounds = [np.fromfile(path, "<f4") for path in audio.paths]
    assert {len(sound) / RATE for sound in sounds} == {audio.duration_seconds}
    return sounds


async def refused(
    source: Path,
    error: type[TranscriptdError],
    limits: DecodeLimits = LIMITS,
    audio_track: int | None = None,
    split: bool = False,
) -> TranscriptdError:
    target = source.with_name(f"{source.name}.f32")
    with pytest.raises(error) as caught:
        await decode(source, target, limits, audio_track=audio_track, split=split)
    assert not list(source.parent.glob(f"{source.name}*.f32"))
    assert 10 < len(caught.value.message) <= 500
    assert str(source.parent) not in caught.value.message
    return caught.value


def lag(sound: Sound, reference: Sound) -> int:
    """Return by how many samples `reference` is delayed in `sound`."""
    size = 1 << (len(sound) + len(reference)).bit_length()
    products = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size)), size)
    best = int(np.argmax(products))
    return best if best <= size // 2 else best - size


def delay(sound: Sound, reference: Sound) -> float:
    """Return by how many seconds `reference` is delayed in `sound`; both must resemble each other."""
    late = lag(sound, reference)
    one, other = overlap(sound, reference, late)
    assert one @ other > 0.95 * np.sqrt((sound @ sound) * (reference @ reference))
    return late / RATE


def signal_to_noise(sound: Sound, reference: Sound) -> float:
    """Return the signal-to-noise ratio in dB after alignment. Differences in loudness count as noise."""
    one, other = overlap(sound, reference, lag(sound, reference))
    noise = float(np.sum((one - other) ** 2, dtype=float))
    return float(10 * np.log10(np.sum(other**2, dtype=float) / max(noise, 1e-20)))


def overlap(sound: Sound, reference: Sound, late: int) -> tuple[Sound, Sound]:
    one, other = sound[max(late, 0) :], reference[max(-late, 0) :]
    length = min(len(one), len(other))
    return one[:length], other[:length]


def children(parent: int) -> set[int]:
    """Return the child processes of `parent` that have not been reaped."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it exited in the meantime
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(stat.parent.name))
    return found


def descendants(parent: int) -> set[int]:
    own = children(parent)
    return own.union(*map(descendants, own))


def is_alive(pid: int) -> bool:
    """Return whether the process runs. A zombie does not count: its new parent may reap an orphan at any time."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def confined(pids: set[int]) -> set[int]:
    """Return the processes that have entered the sandbox and wait for their input to open."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            if "NoNewPrivs:\t1" in status and "State:\tS" in status:
                found.add(pid)
    return found


@asynccontextmanager
async def stuck_decode(
    decoder: DecoderPool, folder: Path, limits: DecodeLimits = LIMITS, name: str = "stuck"
) -> AsyncIterator[tuple[asyncio.Task[Audio], int]]:
    """Start a decode whose input never opens. Return the task and the PID of its child once the child has entered the
    sandbox."""
    source = folder / f"{name}.pipe"
    os.mkfifo(source)
    before = descendants(os.getpid())
    task = asyncio.create_task(decoder.decode(source, folder / f"{name}.f32", limits))
    try:
        for _ in range(6000):
            if pids := confined(descendants(os.getpid()) - before):
                break
            await asyncio.sleep(0.01)
        yield task, pids.pop()
    finally:
        task.cancel()
        await asyncio.wait([task])
