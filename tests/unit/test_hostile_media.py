"""Small files that would keep a decoder busy, formats that no recording has, and the number of decoders at once."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import av
import numpy as np
import pytest
from av.format import ContainerFormat, formats_available

from daemon.errors import MediaUnreadable
from daemon.media.containers import CONTAINERS
from daemon.media.decoder_pool import DecodeLimits, DecoderPool, max_decoders
from daemon.media.effort import PACKETS_BETWEEN_CHECKS, PATIENCE_SECONDS, Effort
from daemon.telemetry import memory
from daemon.telemetry.metrics import Metrics
from tests.support.media.decoding import LIMITS, children, decoded, delay, refused, stuck_decode
from tests.support.media.files import RATE, chirp, make_audio, make_tracks, make_wav
from tests.support.media.hostile import make_generator, make_repeating_mp4

# More than any machine needs to refuse the files below. Without the checks, the decoder reaches its limit.
PATIENT = DecodeLimits(max_media_seconds=21_600, timeout_seconds=300, memory_bytes=2 * 1024**3)
GIB = 1024**3


async def test_program_that_generates_sound_is_no_recording(tmp_path: Path) -> None:
    path = make_generator(tmp_path / "tones.sbg")
    assert path.stat().st_size < 100
    await refused(path, MediaUnreadable)


def test_only_containers_of_recordings_are_opened() -> None:
    """Every name on the list is one of FFmpeg's, and no name stands for a format of another kind."""
    known = {name for each in formats_available for name in _names_of_demuxer(each)}
    allowed = set(CONTAINERS.split(","))
    assert allowed <= known
    other = "sbg concat hls dash sdp rtsp rtp lavfi image2 image2pipe png_pipe tty ffmetadata srt webvtt ass libopenmpt mod alsa data"
    assert not allowed & set(other.split())


def _names_of_demuxer(name: str) -> list[str]:
    try:
        return str(ContainerFormat(name, "r").name).split(",")
    except ValueError:  # a muxer
        return []


@pytest.mark.parametrize(
    ("suffix", "codec", "form"),
    [
        ("w64", "pcm_s16le", None),
        ("voc", "pcm_s16le", None),
        ("sox", "pcm_s32le", None),
        ("tta", "tta", None),
        ("wv", "wavpack", None),
        ("flv", "aac", None),
        ("vob", "mp2", None),
        ("mpg", "mp2", None),
        ("ac3", "ac3", None),
        ("eac3", "eac3", None),
        ("loas", "aac", "latm"),
        ("nut", "flac", None),
    ],
)
async def test_containers_of_recordings(tmp_path: Path, suffix: str, codec: str, form: str | None) -> None:
    rate = 48_000 if codec in ("ac3", "eac3", "mp2") else RATE
    path = make_tracks(tmp_path / f"a.{suffix}", [chirp(4)], codec, rate=rate, form=form)
    _, sound = await decoded(path)
    assert abs(delay(sound, chirp(4))) < 0.1


async def test_index_that_names_40_million_samples(tmp_path: Path) -> None:
    path = make_repeating_mp4(tmp_path / "a.mp4", b"samr", b"\x3c", chunks=1_000_000)
    assert path.stat().st_size < 4.1e6
    error = await refused(path, MediaUnreadable, PATIENT)
    assert "100001 of the 100001 packets" in error.message, "it was not read to its end"


@pytest.mark.parametrize(
    ("codec", "sample", "reason"), [(b"sowt", b"\0\0", "hold only"), (b"mp4a", b"\0", "hold only")]
)
async def test_index_that_names_next_to_no_sound(tmp_path: Path, codec: bytes, sample: bytes, reason: str) -> None:
    path = make_repeating_mp4(tmp_path / "a.mp4", codec, sample, chunks=1000)
    error = await refused(path, MediaUnreadable, PATIENT)
    assert reason in error.message


async def test_index_that_names_the_same_sound_again_and_again(tmp_path: Path) -> None:
    """Each packet decodes, so only their sum shows that the file cannot hold them."""
    part = (chirp(0.01) * 2**15).astype("<i2").tobytes()
    path = make_repeating_mp4(tmp_path / "a.mp4", b"sowt", part, chunks=1000)
    error = await refused(path, MediaUnreadable, PATIENT)
    assert "same bytes" in error.message


@pytest.mark.parametrize("rate", [1, 3999])
async def test_sample_rate_below_that_of_speech(tmp_path: Path, rate: int) -> None:
    error = await refused(make_wav(tmp_path / "a.wav", np.zeros(2000, np.int16), rate=rate), MediaUnreadable)
    assert str(rate) in error.message
    _, sound = await decoded(make_wav(tmp_path / "b.wav", np.zeros(4000, np.int16), rate=4000))
    assert len(sound) == RATE


async def test_decoders_wait_for_their_turn(tmp_path: Path) -> None:
    async with DecoderPool(tmp_path, Metrics(), max_decoders=2) as pool, AsyncExitStack() as stack:
        stuck = [await stack.enter_async_context(stuck_decode(pool, tmp_path, name=name)) for name in "ab"]
        third = asyncio.create_task(pool.decode(make_audio(tmp_path / "c.wav"), tmp_path / "c.f32", LIMITS))
        for _ in range(3000):
            if pool._turns._waiters:
                break
            await asyncio.sleep(0.01)
        assert pool._turns._waiters
        assert children(pool._servers[-1].process.pid) == {pid for _, pid in stuck}
        stuck[0][0].cancel()
        audio = await third
    assert audio.duration_seconds == 2


async def test_cancelled_decoder_gives_its_turn_back(tmp_path: Path) -> None:
    async with DecoderPool(tmp_path, Metrics(), max_decoders=1) as pool:
        for _ in range(3):
            async with stuck_decode(pool, tmp_path) as (task, _):
                task.cancel()
            (tmp_path / "stuck.pipe").unlink()
        assert (await pool.decode(make_audio(tmp_path / "a.wav"), tmp_path / "a.f32", LIMITS)).duration_seconds == 2


def test_memory_limit_of_a_container_or_service(tmp_path: Path) -> None:
    service = tmp_path / "root" / "system.slice" / "transcriptd.service"
    service.mkdir(parents=True)
    (service / "memory.max").write_text("max\n")
    (service.parent / "memory.max").write_text("1000\n")
    (tmp_path / "cgroup").write_text("0::/system.slice/transcriptd.service\n")
    assert memory._limits(tmp_path / "cgroup", tmp_path / "root") == [1000]
    assert memory._limits(tmp_path / "none", tmp_path / "root") == []
    assert 0 < memory.total_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_decoders_at_once_fit_the_cores_and_the_memory() -> None:
    cores = len(os.sched_getaffinity(0))
    assert max_decoders(1, total_bytes=1000 * GIB) == cores
    assert max_decoders(2 * GIB, total_bytes=4 * GIB) == 1
    assert max_decoders(2 * GIB, total_bytes=1 * GIB) == 1, "never none"
    assert max_decoders(GIB, total_bytes=4 * GIB) == min(2, cores)


class ClockOfWork:
    """The processor time of a decoder; the test sets it."""

    seconds = 5.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(("sound_seconds", "refused"), [(10.0, True), (89.0, True), (100.0, False)])
def test_file_that_decodes_slower_than_it_plays_is_refused_after_a_minute(
    tmp_path: Path, sound_seconds: float, refused: bool
) -> None:
    with av.open(str(make_wav(tmp_path / "any.wav", chirp(1)))) as container:
        work = ClockOfWork()
        effort = Effort(container, work)
        effort.note_decoded(sound_seconds)
        work.seconds += PATIENCE_SECONDS - 1
        read_packets(effort)
        work.seconds += 31
        if not refused:
            read_packets(effort)
            return
        with pytest.raises(
            MediaUnreadable, match=f"90 s of processor time yielded only {sound_seconds:.0f} s of sound"
        ):
            read_packets(effort)


def read_packets(effort: Effort) -> None:
    for _ in range(PACKETS_BETWEEN_CHECKS):
        effort.note_read(1)
