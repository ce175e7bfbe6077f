"""Decoding in a real child process: valid files, damaged files and hostile files."""

import ast
import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from bench.waiting import wait_for
from daemon.errors import (
    DecodeLimit,
    DecoderKilled,
    DiskFull,
    MediaTooLong,
    MediaUnreadable,
    NoAudio,
    TranscriptdError,
)
from daemon.media import decode as decoder
from daemon.media import decoder_pool as media
from daemon.media.decoder_pool import DecodeLimits, DecoderPool
from daemon.telemetry.metrics import Metrics
from tests.support.media.decoding import (
    LIMITS,
    confined,
    decode,
    decoded,
    delay,
    descendants,
    is_alive,
    refused,
    stuck_decode,
)
from tests.support.media.files import (
    AUDIO_FILES,
    RATE,
    chirp,
    make_audio,
    make_late_audio,
    make_recording,
    make_text,
    make_tracks,
    make_truncated_mp4,
    make_video,
    make_wav,
    sample_call,
    silence,
)

AAC_FRAME = 1024 / RATE  # an encoder pads with up to two of these


# --- audio as players play it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", AUDIO_FILES)
async def test_audio_file_keeps_its_audio_and_times(tmp_path: Path, suffix: str) -> None:
    audio, sound = await decoded(make_audio(tmp_path / f"a.{suffix}"))
    assert 2.0 <= audio.duration_seconds <= 2.0 + 2 * AAC_FRAME
    # MPEG-TS cannot mark an encoder's first frame as padding, so players play it as a delay, too.
    assert delay(sound, chirp()) == (AAC_FRAME if suffix == "ts" else 0.0)
    assert not audio.has_video


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
async def test_video_file_keeps_its_audio_and_times(tmp_path: Path, suffix: str) -> None:
    audio, sound = await decoded(make_recording(tmp_path / f"v.{suffix}"))
    assert delay(sound, chirp()) == 0.0
    assert audio.codec == "aac"
    assert audio.has_video


async def test_h264_video_of_the_demo(tmp_path: Path) -> None:
    make_video(sample_call(), tmp_path / "call.mp4", seconds=5)
    audio, sound = await decoded(tmp_path / "call.mp4")
    _, speech = await decoded(sample_call_in(tmp_path))
    assert audio.duration_seconds == pytest.approx(5, abs=0.1)
    assert abs(delay(sound, speech[: len(sound)])) < 0.001
    assert audio.has_video


def sample_call_in(directory: Path) -> Path:
    copy = directory / "call.wav"
    copy.write_bytes(sample_call().read_bytes())
    return copy


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
async def test_other_sample_rates(tmp_path: Path, rate: int) -> None:
    _, sound = await decoded(make_audio(tmp_path / "a.flac", rate=rate))
    assert len(sound) == pytest.approx(2 * RATE, abs=2)
    assert delay(sound, chirp()) == 0.0


async def test_stereo_is_mixed_without_becoming_louder(tmp_path: Path) -> None:
    both = np.stack([chirp(), chirp()], axis=1)
    _, sound = await decoded(make_wav(tmp_path / "a.wav", both))
    np.testing.assert_allclose(sound, chirp(), atol=1e-4)


async def test_each_microphone_of_a_multichannel_recorder_is_heard(tmp_path: Path) -> None:
    channels = np.zeros((RATE, 12), np.float32)
    channels[:, 3] = 0.5  # the position of the subwoofer in surround sound
    channels[:, 11] = 0.5
    _, sound = await decoded(make_wav(tmp_path / "a.wav", channels))
    np.testing.assert_allclose(sound, 1 / 12, atol=1e-4)


async def test_format_that_changes_in_the_middle(tmp_path: Path) -> None:
    first = make_audio(tmp_path / "16.mp3", rate=16000).read_bytes()
    second = make_audio(tmp_path / "44.mp3", rate=44100).read_bytes()
    (tmp_path / "both.mp3").write_bytes(first + second)
    audio, sound = await decoded(tmp_path / "both.mp3")
    assert audio.duration_seconds == pytest.approx(4, abs=0.2)
    assert np.abs(sound[-RATE:]).max() > 0.4


async def test_cover_art_is_no_video(tmp_path: Path) -> None:
    image = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
    picture = b"\x00image/png\x00\x03\x00" + image
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    size = bytes((len(frame) >> shift) & 0x7F for shift in (21, 14, 7, 0))
    path = make_audio(tmp_path / "a.mp3")
    path.write_bytes(b"ID3\x03\0\0" + size + frame + path.read_bytes())
    with av.open(str(path)) as container:
        assert container.streams.video  # FFmpeg reports it as a video stream
    audio, _ = await decoded(path)
    assert not audio.has_video


async def test_silence_is_a_recording(tmp_path: Path) -> None:
    _, sound = await decoded(make_wav(tmp_path / "a.wav", silence()))
    assert len(sound) == 2 * RATE
    assert not sound.any()


async def test_invalid_sample_values_are_clamped(tmp_path: Path) -> None:
    wild = np.array([0.25] * 100 + [np.nan, np.inf, -np.inf, 1e30, -1e30, 1.5] + [0.25] * 100, np.float32)
    _, sound = await decoded(make_wav(tmp_path / "a.wav", wild))
    np.testing.assert_array_equal(sound, [0.25] * 100 + [0, 0, 0, 2, -2, 1.5] + [0.25] * 100)


# --- times match those in a player ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
async def test_audio_that_starts_after_the_picture(tmp_path: Path, suffix: str) -> None:
    _, sound = await decoded(make_recording(tmp_path / f"v.{suffix}", start=1.5))
    assert not sound[: round(1.4 * RATE)].any()
    assert delay(sound, chirp()) == pytest.approx(1.5, abs=0.01)


async def test_gap_in_the_middle_becomes_silence(tmp_path: Path) -> None:
    _, sound = await decoded(make_recording(tmp_path / "v.mkv", codec="pcm_s16le", gap=1.5))
    assert len(sound) == pytest.approx(3.5 * RATE, abs=RATE // 50)
    assert not sound[round(1.05 * RATE) : round(2.45 * RATE)].any()
    assert delay(sound[2 * RATE :], chirp()[RATE:]) == pytest.approx(0.5, abs=0.01)


async def test_time_starts_with_the_container(tmp_path: Path) -> None:
    _, sound = await decoded(make_late_audio(tmp_path / "a.mkv", start=30))
    assert delay(sound, chirp()) == 0.0


# --- unusable files -------------------------------------------------------------------------------------------------


async def test_video_without_audio(tmp_path: Path) -> None:
    make_video(None, tmp_path / "v.mp4", seconds=1)
    error = await refused(tmp_path / "v.mp4", NoAudio)
    assert "no audio stream" in error.message
    assert "1 video" in error.message


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, np.random.default_rng(7).bytes(50_000)], ids=["0", "zeros", "noise"]
)
async def test_bytes_that_are_not_media(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    await refused(tmp_path / "a.mp4", MediaUnreadable)


@pytest.mark.parametrize("name", ["a.txt", "a.mp3", "a"])
async def test_text(tmp_path: Path, name: str) -> None:
    error = await refused(make_text(tmp_path / name), MediaUnreadable)
    assert "not media" in error.message


async def test_truncated_mp4(tmp_path: Path) -> None:
    error = await refused(make_truncated_mp4(tmp_path / "a.mp4"), MediaUnreadable)
    assert "cut off or damaged" in error.message
    assert "moov atom not found" in str(error.detail)


@pytest.mark.parametrize("suffix", ["wav", "mp3", "flac", "ogg", "mkv"])
async def test_other_truncated_files_yield_what_they_contain(tmp_path: Path, suffix: str) -> None:
    path = make_audio(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    audio, _ = await decoded(path)
    assert 0.4 < audio.duration_seconds < 1.6


async def test_header_without_audio(tmp_path: Path) -> None:
    await refused(make_wav(tmp_path / "a.wav", np.zeros(0, np.int16)), MediaUnreadable)


async def test_damage_in_the_middle_is_skipped_and_times_hold(tmp_path: Path) -> None:
    path = make_audio(tmp_path / "a.flac", chirp(10))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 20] = bytes(len(content) // 20)
    path.write_bytes(content)
    audio, sound = await decoded(path)
    assert audio.duration_seconds == pytest.approx(10, abs=0.5)
    assert delay(sound[-RATE:], chirp(10)[-RATE:]) == pytest.approx(0, abs=0.15)


async def test_mostly_damaged(tmp_path: Path) -> None:
    path = make_recording(tmp_path / "v.mp4")
    content = path.read_bytes()
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    path.write_bytes(content[:start] + np.random.default_rng(1).bytes(end - start) + content[end:])
    error = await refused(path, MediaUnreadable)
    assert "damaged" in error.message


@pytest.mark.parametrize("suffix", ["caf", "ts", "nut", "w64"])
async def test_impossible_positions_in_a_file_are_no_fault_of_ours(tmp_path: Path, suffix: str) -> None:
    """Sizes in damaged headers make FFmpeg seek to negative positions, or beyond 2⁶³."""
    path = tmp_path / f"a.{suffix}"
    form, codec = {"ts": ("mpegts", "aac"), "nut": ("nut", "aac")}.get(suffix, (suffix, "pcm_s16le"))
    content = make_tracks(path, [chirp()], codec, form=form).read_bytes()
    for position in range(4, 72, 8):
        for damage in (b"\x80\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xfe"):
            path.write_bytes(content[:position] + damage + content[position + 4 :])
            with (
                path.open("rb") as source,  # a real file: io.BytesIO fails with another exception
                contextlib.suppress(MediaUnreadable, NoAudio, MediaTooLong, MemoryError),
            ):
                decoder.decode(source, [io.BytesIO()], 5, audio_track=None, split=False)
    path.write_bytes(content[: len(content) * 6 // 10])
    audio, _ = await decoded(path)
    assert audio.codec == codec


def mutants(directory: Path, count: int) -> Iterator[bytes]:
    """Yield small files of every kind with some bytes replaced; deterministic."""
    seeds = [make_audio(directory / f"a.{suffix}", chirp(0.3)) for suffix in AUDIO_FILES]
    seeds += [make_recording(directory / f"v.{suffix}", chirp(0.3)) for suffix in ("mp4", "mkv", "avi")]
    random = np.random.default_rng(2026)
    for number in range(count):
        content = bytearray(seeds[number % len(seeds)].read_bytes())
        header = number % 2 == 0  # half of the damage hits the headers that parsers read first
        for position in random.integers(0, min(len(content), 200) if header else len(content), 1 + number % 20):
            content[position] = random.integers(256)
        yield bytes(content)


async def test_mutated_files_end_in_audio_or_in_our_errors(tmp_path: Path) -> None:
    outcomes = []
    async with DecoderPool(tmp_path, Metrics()) as decoder:
        for number, content in enumerate(mutants(tmp_path, 24)):
            path = tmp_path / f"mutant-{number}"
            path.write_bytes(content)
            try:
                await decoder.decode(path, path.with_suffix(".f32"), LIMITS)
                outcomes.append("audio")
            except (MediaUnreadable, NoAudio, MediaTooLong, DecodeLimit) as error:
                assert not path.with_suffix(".f32").exists()
                outcomes.append(error.code)
    assert {"audio", "media_unreadable"} <= set(outcomes)


def test_many_mutated_files_neither_crash_nor_hang_the_decoder(tmp_path: Path) -> None:
    for number, content in enumerate(mutants(tmp_path, 2000)):
        (tmp_path / f"mutant-{number}").write_bytes(content)
    program = """
import collections, io, pathlib, sys
from daemon.media.decode import decode
from daemon.errors import TranscriptdError
outcomes = collections.Counter()
for number, path in enumerate(sorted(pathlib.Path(sys.argv[1]).glob("mutant-*"))):
    try:
        with path.open("rb") as source:
            decode(source, [io.BytesIO(), io.BytesIO()], 60, audio_track=None, split=number % 2 == 0)
        outcomes["audio"] += 1
    except TranscriptdError as error:
        outcomes[error.code] += 1
    except MemoryError:  # a damaged size: the child answers with decode_limit
        outcomes["decode_limit"] += 1
print(sorted(outcomes))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"audio", "media_unreadable"} <= set(ast.literal_eval(done.stdout))


# --- files that reference other resources ---------------------------------------------------------------------------


@pytest.fixture
async def web() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A loopback HTTP server: its port and the requests it received."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readline())
        writer.write(b"HTTP/1.0 404 Not Found\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], requests


def hostile_files(directory: Path, bait: Path, port: int) -> Iterator[Path]:
    """Return small texts that make FFmpeg open other files or URLs."""
    url = f"http://127.0.0.1:{port}/bait.wav"
    texts = {}
    for place, target in {"file": f"file://{bait}", "path": str(bait), "name": bait.name, "web": url}.items():
        texts[f"{place}.m3u8"] = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n"
        )
        texts[f"{place}.ffconcat"] = f"ffconcat version 1.0\nfile '{target}'\n"
        texts[f"{place}.mpd"] = (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
            '<AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1000" codecs="mp4a.40.2">'
            f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
        )
    texts["web.sdp"] = (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"
        f"a=control:rtsp://127.0.0.1:{port}/x\n"
    )
    for name, text in texts.items():
        path = directory / name
        path.write_text(text)
        yield path


async def test_playlists_open_nothing(tmp_path: Path, web: tuple[int, list[bytes]]) -> None:
    port, requests = web
    for path in hostile_files(tmp_path, make_wav(tmp_path / "bait.wav"), port):
        await refused(path, MediaUnreadable)
    assert requests == []


def test_playlists_open_nothing_even_when_their_name_is_known(tmp_path: Path) -> None:
    """Second line of defence: with the demuxer selected, opening the referenced resource must fail."""
    paths = {path.name: path for path in hostile_files(tmp_path, make_wav(tmp_path / "bait.wav"), 9)}
    for name in ("file.m3u8", "path.m3u8", "path.ffconcat", "name.ffconcat", "web.m3u8", "web.sdp"):
        with paths[name].open("rb") as source, pytest.raises(MediaUnreadable):  # an open file has a name
            decoder.decode(source, [io.BytesIO()], 5, audio_track=None, split=False)


async def test_bait_works_on_a_decoder_without_sandbox(tmp_path: Path, web: tuple[int, list[bytes]]) -> None:
    port, requests = web
    paths = {path.name: path for path in hostile_files(tmp_path, make_wav(tmp_path / "bait.wav"), port)}
    with av.open(str(paths["path.ffconcat"]), options={"safe": "0"}) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 2 * RATE

    def fetch() -> None:
        with contextlib.suppress(av.FFmpegError):
            av.open(
                str(paths["web.m3u8"]), options={"allowed_extensions": "ALL", "protocol_whitelist": "file,http,tcp"}
            ).close()

    await asyncio.to_thread(fetch)
    assert requests


# --- limits -------------------------------------------------------------------------------------------------------


async def test_recording_that_is_too_long(tmp_path: Path) -> None:
    path = make_wav(tmp_path / "a.wav", silence(6))
    error = await refused(path, MediaTooLong, DecodeLimits(5, 30, 2**31))
    assert "5 s" in error.message
    audio, _ = await decoded(path, DecodeLimits(6, 30, 2**31))
    assert audio.duration_seconds == 6


async def test_small_file_that_expands_to_hours(tmp_path: Path) -> None:
    path = make_tracks(tmp_path / "a.flac", [silence(600)], "flac")
    assert path.stat().st_size < 200_000
    await refused(path, MediaTooLong)


async def test_timestamps_that_claim_hours(tmp_path: Path) -> None:
    path = make_late_audio(tmp_path / "a.mkv", gap=10 * 3600)
    audio, _ = await decoded(path)
    assert audio.duration_seconds == pytest.approx(2, abs=0.1)
    assert [warning.code for warning in audio.warnings] == ["timestamps_jump"]
    assert "36000 s at 1.0 s" in audio.warnings[0].message
    path = make_late_audio(tmp_path / "b.mkv", gap=3600)
    audio = await decode(path, tmp_path / "out.f32", DecodeLimits(11 * 3600, 30, 2**31))
    assert audio.duration_seconds == pytest.approx(3600 + 2, abs=0.01)
    assert not audio.warnings
    assert audio.paths[0].stat().st_blocks * 512 < 2**20  # the silence takes no disk space


async def test_header_that_claims_hours_is_ignored(tmp_path: Path) -> None:
    path = make_wav(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[40:44] = (0x7FFFFF00).to_bytes(4, "little")
    path.write_bytes(content)
    audio, _ = await decoded(path)
    assert audio.duration_seconds == 2


@pytest.mark.parametrize("megabytes", [16, 80])
async def test_memory_limit(tmp_path: Path, megabytes: int) -> None:
    await refused(make_wav(tmp_path / "a.wav"), DecodeLimit, DecodeLimits(120, 30, megabytes * 2**20))


async def test_full_disk(tmp_path: Path) -> None:
    target = tmp_path / "full.f32"
    target.symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        await decode(make_wav(tmp_path / "a.wav"), target, LIMITS)
    assert not target.is_symlink()


async def test_wall_clock_limit(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    await decoded(make_wav(tmp_path / "a.wav"))  # the fork server is running by now
    before = descendants(os.getpid())
    started = time.monotonic()
    error = await refused(tmp_path / "pipe", DecodeLimit, DecodeLimits(120, 0.5, 2**31))
    assert time.monotonic() - started < 5
    assert "0.5 s" in error.message
    assert descendants(os.getpid()) <= before


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGSEGV, MediaUnreadable), (signal.SIGXCPU, DecodeLimit), (signal.SIGKILL, DecoderKilled)],
)
async def test_child_killed_by_a_signal(tmp_path: Path, number: signal.Signals, error: type[TranscriptdError]) -> None:
    async with DecoderPool(tmp_path, Metrics()) as decoder, stuck_decode(decoder, tmp_path) as (task, pid):
        os.kill(
            pid, signal.SIGTERM
        )  # sent to the whole service when it stops; the parent decides, so the child ignores it
        os.kill(pid, number)
        with pytest.raises(error):
            await task


@pytest.mark.parametrize(
    "output",
    [b"", b"null\n", b"[]\n", b'{"error": "lease_lost", "message": "obey"}\n', b"\xff\n", b'{"error": []}'],
)
def test_invalid_output_of_the_child_is_an_internal_error(output: bytes) -> None:
    with pytest.raises(TranscriptdError) as caught:
        media._answer(0, output, b"some log")
    assert type(caught.value) is TranscriptdError
    assert caught.value.detail == "some log"


def test_output_of_the_child_is_bounded() -> None:
    answer = b'{"error": "media_unreadable", "message": "' + b"\\u001b" * 5000 + b'"}'
    with pytest.raises(MediaUnreadable) as caught:
        media._answer(0, answer, b"")
    assert caught.value.message == " " * 500


# --- the child ----------------------------------------------------------------------------------------------------


async def test_cancellation_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    target = tmp_path / "stuck.f32"
    async with DecoderPool(tmp_path, Metrics()) as decoder, stuck_decode(decoder, tmp_path) as (task, pid):
        target.touch()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not target.exists()
        with pytest.raises(ProcessLookupError):  # a zombie would still be found
            os.kill(pid, 0)


async def test_child_has_limits_and_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-the-child")
    limits = DecodeLimits(100, 7.5, 2**31)
    async with DecoderPool(tmp_path, Metrics()) as decoder, stuck_decode(decoder, tmp_path, limits) as (_, pid):
        environment = (Path("/proc") / str(pid) / "environ").read_bytes()
        limits_text = (Path("/proc") / str(pid) / "limits").read_text()
        assert os.getpgid(pid) == pid
        assert (Path("/proc") / str(pid) / "oom_score_adj").read_text() == "1000\n"
    assert b"not-for-the-child" not in environment
    assert {entry.partition(b"=")[0] for entry in environment.split(b"\0")} <= {b"", b"LC_ALL", b"LD_LIBRARY_PATH"}
    found = {line[:25].strip(): line[25:].split()[0] for line in limits_text.splitlines()}
    assert found["Max address space"] == str(2**31)
    assert found["Max cpu time"] == "8"
    assert found["Max file size"] == str(100 * RATE * 4 + 2**20)
    assert found["Max open files"] == "32"
    assert found["Max core file size"] == "0"
    assert found["Max processes"] == "0"


@pytest.mark.parametrize("stands_still", [False, True], ids=["", "while the fork server is paused"])
def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path, stands_still: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = """
import asyncio, sys
from pathlib import Path
from daemon.media.decoder_pool import DecoderPool, DecodeLimits
from daemon.telemetry.metrics import Metrics
async def main(folder):
    async with DecoderPool(folder, Metrics()) as decoder:
        await decoder.decode(folder / "pipe", folder / "out.f32", DecodeLimits(9, 99, 2**31))
asyncio.run(main(Path(sys.argv[1])))
"""
    with subprocess.Popen([sys.executable, "-c", program, tmp_path]) as parent:
        wait_for(lambda: bool(confined(descendants(parent.pid))), "a decoder that waits for its input")
        orphans = descendants(parent.pid)
        (server,) = orphans - confined(orphans)
        if stands_still:
            os.kill(server, signal.SIGSTOP)
        parent.kill()
    wait_for(lambda: not any(map(is_alive, orphans)), "the end of both")


def test_poller_process_imports_nothing_heavy() -> None:
    program = "import sys, daemon.media.decoder_pool; print(sorted({'av', 'numpy', 'torch', 'daemon.media.decode'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_decoding_the_sample_call_is_quick(tmp_path: Path) -> None:
    path = sample_call_in(tmp_path)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        audio, _ = await decoded(path)
        times.append(time.perf_counter() - started)
    assert audio.duration_seconds == 30
    assert min(times) < 1.5  # 0.2 s typically; slack for a busy machine
