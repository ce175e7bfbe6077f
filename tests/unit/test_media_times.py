"""Times of the decoded audio are those that a player shows: delays, gaps and restarted clocks, in every container."""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
import pytest

from daemon.media.decode import decode
from daemon.media.timeline import OtherStreams, Timeline
from tests.support.media.files import RATE, chirp

TOLERANCE_SECONDS = 0.1  # the first frame of an encoder, which not every container can mark as padding

# FFmpeg's name of the container, audio codec, options of the container, video codec
CONTAINERS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "mp4": ("mp4", "aac", {}, "libx264"),
    "fragmented": ("mp4", "aac", {"movflags": "frag_keyframe+delay_moov+default_base_moof"}, "libx264"),
    "mov": ("mov", "aac", {}, "mpeg4"),
    "mkv": ("matroska", "aac", {}, "libx264"),
    "webm": ("webm", "libopus", {}, "libvpx"),
    "ts": ("mpegts", "aac", {}, "libx264"),
    "ps": ("vob", "mp2", {}, "mpeg2video"),
    "flv": ("flv", "aac", {}, "flv"),
    "nut": ("nut", "aac", {}, "libx264"),
    "ogg": ("ogg", "libopus", {}, ""),  # PyAV has no encoder for pictures in Ogg
}
VIDEO_CODECS: dict[
    str, tuple[str, str, dict[str, str], str]
] = {  # beside those above: H.264, MPEG-2, MPEG-4, VP8, FLV1
    "hevc in mp4": ("mp4", "aac", {}, "libx265"),
    "hevc in ts": ("mpegts", "aac", {}, "libx265"),
    "hevc in mkv": ("matroska", "aac", {}, "libx265"),
    "vp9 in webm": ("webm", "libopus", {}, "libvpx-vp9"),
    "av1 in mp4": ("mp4", "aac", {}, "libsvtav1"),
}
# They store no times of audio, so neither delays nor gaps: every player plays the sound without them.
WITHOUT_TIMES: dict[str, tuple[str, str, dict[str, str], str]] = {
    "pcm in avi": ("avi", "pcm_s16le", {}, "mpeg4"),
    "mp3 in avi": ("avi", "libmp3lame", {}, "mpeg4"),
    "aac in avi": ("avi", "aac", {}, "mpeg4"),
    "wav": ("wav", "pcm_s16le", {}, ""),
}
WITH_PICTURE = [kind for kind in CONTAINERS if CONTAINERS[kind][3]]


def packets(stream: Any, frames: Iterator[Any]) -> list[Any]:
    return [packet for frame in [*frames, None] for packet in stream.encode(frame)]


def pictures(seconds: float, start: float) -> Iterator[av.VideoFrame]:
    """Yield two pictures per second: few, because some encoders are slow."""
    for index in range(0, round(10 * seconds), 5):
        image = av.VideoFrame(64, 64, "yuv420p")
        for plane in image.planes:
            plane.update(bytes([index % 256]) * plane.buffer_size)
        image.pts, image.time_base = index + round(10 * start), Fraction(1, 10)
        yield image


def bursts(stream: Any, starts: list[float]) -> Iterator[av.AudioFrame]:
    """Yield a second of sound at each of the times, in frames of the encoder's size."""
    rate, step = stream.rate, stream.codec_context.frame_size or 960
    sound = np.interp(np.arange(rate) / rate, np.arange(RATE) / RATE, chirp(1.0)).astype(np.float32)
    resampler = av.AudioResampler(stream.codec_context.format, "mono", rate)
    for start in starts:
        for offset in range(0, rate - step + 1, step):
            frame = av.AudioFrame.from_ndarray(sound[None, offset : offset + step], format="flt", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), offset + round(start * rate)
            yield from resampler.resample(frame)


def make(
    path: Path, kind: str, starts: list[float], picture: tuple[float, float] | None = None, clock: float = 0.0
) -> Path:
    """Write bursts of sound at `starts`, with a picture from the first to the second time of `picture`, well
    interleaved. All times are late by `clock`."""
    form, codec, options, video_codec = {**CONTAINERS, **VIDEO_CODECS, **WITHOUT_TIMES}[kind]
    with av.open(str(path), "w", format=form, container_options=options) as output:
        fast = {"deadline": "realtime", "cpu-used": "8"} if video_codec == "libvpx" else {}
        video: Any = output.add_stream(video_codec, rate=10, options=fast) if picture else None
        audio = cast(av.AudioStream, output.add_stream(codec, rate=RATE if codec == "aac" else 48_000, layout="mono"))
        queue = []
        if video and picture:
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            video.codec_context.gop_size, video.codec_context.max_b_frames = 10, 0
            queue += packets(video, pictures(picture[1] - picture[0], picture[0] + clock))
        queue += packets(audio, bursts(audio, [start + clock for start in starts]))
        for packet in sorted(queue, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


def heard(path: Path) -> tuple[list[float], list[str]]:
    """Decode the file. Return the times at which sound starts, and the codes of the decoder's warnings."""
    target = io.BytesIO()
    with path.open("rb") as source:
        answer = decode(source, [target], 6 * 3600, audio_track=None, split=False)
    sound = np.frombuffer(target.getvalue(), "<f4")
    loud = np.flatnonzero(np.abs(sound) > 0.1)
    first = loud[np.flatnonzero(np.diff(loud, prepend=-RATE) > RATE // 4)]
    return [float(sample) / RATE for sample in first], [warning["code"] for warning in answer["warnings"]]


def assert_heard(path: Path, times: list[float], *warnings: str) -> None:
    found, raised = heard(path)
    assert found == pytest.approx(times, abs=TOLERANCE_SECONDS)
    assert raised == list(warnings)


# --- delays and gaps ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_PICTURE)
def test_delay_and_gap_next_to_a_picture(tmp_path: Path, kind: str) -> None:
    for start, gap in ((0.0, 1.0), (0.5, 14.0), (10.0, 60.0)):
        starts = [start, start + 1 + gap]
        path = make(tmp_path / f"{start}-{gap}", kind, starts, (0, starts[-1] + 2))
        assert_heard(path, starts)
    assert_heard(make(tmp_path / "early", kind, [0.0, 3.0], (2, 5)), [0.0, 3.0])


@pytest.mark.parametrize("kind", CONTAINERS)
def test_gap_without_a_picture(tmp_path: Path, kind: str) -> None:
    for gap in (1.0, 14.0, 60.0):
        assert_heard(make(tmp_path / f"{gap}", kind, [0.0, 1 + gap]), [0.0, 1 + gap])


@pytest.mark.parametrize("kind", VIDEO_CODECS)
def test_delay_and_gap_next_to_a_picture_of_another_codec(tmp_path: Path, kind: str) -> None:
    assert_heard(make(tmp_path / "late", kind, [2.0, 17.0], (0, 19)), [2.0, 17.0])
    assert_heard(make(tmp_path / "early", kind, [0.0, 3.0], (2, 5)), [0.0, 3.0])


@pytest.mark.parametrize("kind", WITHOUT_TIMES)
def test_container_without_times_is_heard_as_players_play_it(tmp_path: Path, kind: str) -> None:
    picture = (0.0, 19.0) if WITHOUT_TIMES[kind][3] else None
    path = make(tmp_path / "a", kind, [2.0, 17.0], picture)
    with av.open(str(path)) as container:
        times = [frame.time or 0.0 for frame in container.decode(container.streams.audio[0])]
    assert times[-1] < 2.2  # the demuxer, which players use as well, knows no gap
    assert_heard(path, [0.0])


@pytest.mark.parametrize("kind", ["mkv", "ts", "nut", "flv"])
def test_long_picture_before_the_audio(tmp_path: Path, kind: str) -> None:
    """FFmpeg finishes probing before the audio starts, and may not decode the picture to learn where that starts."""
    assert_heard(make(tmp_path / "a", kind, [5.0], (0, 60), clock=20), [5.0])


def test_audio_may_end_before_the_picture(tmp_path: Path) -> None:
    for kind in ("mp4", "mkv", "ts", "flv"):
        assert_heard(make(tmp_path / kind, kind, [0.0], (0, 20)), [0.0])


# --- clocks that restart or jump --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(0.0, 500.0), (500.0, 0.0), (0.0, 0.0), (0.0, 90_000.0)])
@pytest.mark.parametrize("kind", ["ts", "ps"])
def test_recordings_that_follow_each_other(tmp_path: Path, kind: str, first: float, second: float) -> None:
    """The clock restarts, which is not silence; a gap in the second recording is."""
    parts = [
        make(tmp_path / "1", kind, [0.0, 11.0], (0, 12), first),
        make(tmp_path / "2", kind, [0.0, 20.0], (0, 21), second),
    ]
    (tmp_path / "both").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert_heard(tmp_path / "both", [0.0, 11.0, 32.0])  # the sound from 11 to 13 s is continuous


@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts", "webm"])
def test_absurd_jump_is_closed_and_reported(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "a", kind, [0.0, 1.0, 36_000.0, 36_001.0])
    assert_heard(path, [0.0], "timestamps_jump")
    path = make(tmp_path / "v", kind, [0.0, 36_000.0, 36_005.0], (0, 10))
    assert_heard(path, [0.0, 6.0], "timestamps_jump")


def positions(times: list[float], *, may_restart: bool = True) -> list[float]:
    """Return where the timeline places frames of one second with these timestamps."""
    timeline, placed = Timeline(0.0, 0.0, OtherStreams(), may_restart=may_restart), []
    for time in times:
        timeline.silence_before(cast(av.AudioFrame, SimpleNamespace(time=time, samples=RATE, sample_rate=RATE)), 1e6)
        placed.append(timeline.position - 1)
    return placed


@pytest.mark.parametrize("may_restart", [True, False])
@pytest.mark.parametrize("wrong", [36_000.0, -36_000.0])
def test_single_absurd_timestamp_moves_nothing_after_it(may_restart: bool, wrong: float) -> None:
    assert positions([0.0, 1.0, wrong, 3.0, 4.0, 10.0], may_restart=may_restart) == [0, 1, 2, 3, 4, 10]


def test_silence_that_nothing_confirms_leaves_room_for_the_sound() -> None:
    timeline = Timeline(0.0, 0.0, OtherStreams(), may_restart=False)
    frames = [SimpleNamespace(time=time, samples=RATE, sample_rate=RATE) for time in (0.0, 51.0, 150.0)]
    silences = [timeline.silence_before(cast(av.AudioFrame, frame), room_seconds=120) for frame in frames]
    assert silences == [0, 50, 0]
    assert timeline.jumps == [(52.0, 98.0)]
