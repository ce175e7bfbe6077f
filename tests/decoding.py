"""What tests ask of a real decoder process."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from daemon.errors import TranscriptdError
from daemon.media import Audio, DecodeLimits, Decoder
from daemon.metrics import Metrics
from tests.media import RATE, Sound

LIMITS = DecodeLimits(max_media_seconds=120, timeout_seconds=30, memory_bytes=2 * 1024**3)


async def decode(
    source: Path, target: Path, limits: DecodeLimits, *, audio_track: int | None = None, split: bool = False
) -> Audio:
    """With a fork server for this recording alone."""
    async with Decoder(target.parent, Metrics()) as decoder:
        return await decoder.decode(source, target, limits, audio_track=audio_track, split=split)


async def decoded(source: Path, limits: DecodeLimits = LIMITS, audio_track: int | None = None) -> tuple[Audio, Sound]:
    """The mix of the channels."""
    audio = await decode(source, source.with_name("decoded.f32"), limits, audio_track=audio_track)
    (path,) = audio.paths
    sound = np.fromfile(path, "<f4")
    assert audio.duration_seconds == len(sound) / RATE
    return audio, sound


async def channels_of(source: Path, limits: DecodeLimits = LIMITS, audio_track: int | None = None) -> list[Sound]:
    """The channels, split."""
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
    """Samples by which `reference` comes later in `sound`."""
    size = 1 << (len(sound) + len(reference)).bit_length()
    products = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(reference, size)), size)
    best = int(np.argmax(products))
    return best if best <= size // 2 else best - size


def delay(sound: Sound, reference: Sound) -> float:
    """Seconds by which `reference` comes later in `sound`; they must resemble each other."""
    late = lag(sound, reference)
    one, other = overlap(sound, reference, late)
    assert one @ other > 0.95 * np.sqrt((sound @ sound) * (reference @ reference))
    return late / RATE


def signal_to_noise(sound: Sound, reference: Sound) -> float:
    """In dB, where noise is all that differs once the two are put one over the other; loudness is not evened out."""
    one, other = overlap(sound, reference, lag(sound, reference))
    noise = float(np.sum((one - other) ** 2, dtype=float))
    return float(10 * np.log10(np.sum(other**2, dtype=float) / max(noise, 1e-20)))


def overlap(sound: Sound, reference: Sound, late: int) -> tuple[Sound, Sound]:
    one, other = sound[max(late, 0) :], reference[max(-late, 0) :]
    length = min(len(one), len(other))
    return one[:length], other[:length]


def children(parent: int) -> set[int]:
    """Processes that `parent` started and that are not reaped."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(stat.parent.name))
    return found


def descendants(parent: int) -> set[int]:
    own = children(parent)
    return own.union(*map(descendants, own))


def is_alive(pid: int) -> bool:
    """A zombie is not: an orphan may be one for as long as its new parent likes."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def confined(pids: set[int]) -> set[int]:
    """Those that have confined themselves and now sleep, waiting for their input to open."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            if "NoNewPrivs:\t1" in status and "State:\tS" in status:
                found.add(pid)
    return found


@asynccontextmanager
async def stuck_decode(
    decoder: Decoder, folder: Path, limits: DecodeLimits = LIMITS, name: str = "stuck"
) -> AsyncIterator[tuple[asyncio.Task[Audio], int]]:
    """A decode whose input never opens: the task, and the pid of its child once that has confined itself."""
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
