"""A clip of a recording is decoded exactly as that part of the whole recording."""

from pathlib import Path

import numpy as np
import pytest

from daemon.errors import ClipOutOfRange, MediaTooLong
from daemon.media.clip import WHOLE, Clip
from daemon.media.decode import decode
from daemon.media.reading import Reader
from tests.support.media.decoding import delay, signal_to_noise
from tests.support.media.files import (
    AUDIO_FILES,
    RATE,
    Sound,
    chirp,
    make_audio,
    make_recording,
    make_tracks,
    make_wav,
    silence,
)

SECONDS = 12.0


def decoded(path: Path, clip: Clip = WHOLE, max_seconds: float = 60.0) -> tuple[Sound, list[str]]:
    """Decode in this process. Return the sound and the codes of the warnings."""
    target = path.with_suffix(".f32")
    with path.open("rb") as source, target.open("wb") as output:
        found = decode(source, [output], max_seconds, audio_track=None, split=False, clip=clip)
    return np.fromfile(target, "<f4"), [warning["code"] for warning in found["warnings"]]


@pytest.mark.parametrize("suffix", AUDIO_FILES)
def test_a_clip_is_that_part_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = make_audio(tmp_path / f"a.{suffix}", chirp(SECONDS), AUDIO_FILES[suffix], rate=48_000)
    whole, _ = decoded(path)
    clip, warnings = decoded(path, Clip(5.25, 8.5))
    assert len(clip) == round(3.25 * RATE)
    expected = whole[round(5.25 * RATE) : round(8.5 * RATE)]
    assert abs(delay(clip, expected)) <= 0.001  # Matroska rounds its timestamps to a millisecond
    assert not warnings


@pytest.mark.parametrize(("start", "end"), [(0.0, 3.0), (0.5, None), (10.0, None), (11.0, 500.0), (3.0, 3.00001)])
def test_ends_of_a_clip(tmp_path: Path, start: float, end: float | None) -> None:
    path = make_wav(tmp_path / "a.wav", chirp(SECONDS))
    whole, _ = decoded(path)
    clip, warnings = decoded(path, Clip(start, end))
    last = len(whole) if end is None else max(round(end * RATE), round(start * RATE) + 1)
    np.testing.assert_array_equal(clip, whole[round(start * RATE) : last])
    assert not warnings


def test_the_rest_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_audio(tmp_path / "a.mp3", chirp(60.0), "libmp3lame")
    frames, decoded_seconds = Reader.frames, 0.0

    def counting(self: Reader, *arguments: object) -> object:
        nonlocal decoded_seconds
        for frame in frames(self, *arguments):  # type: ignore[arg-type]
            decoded_seconds += frame.samples / frame.sample_rate
            yield frame

    monkeypatch.setattr(Reader, "frames", counting)
    decoded(path, Clip(40.0, 42.0), max_seconds=3.0)  # a recording may be longer than the limit, a clip may not
    assert decoded_seconds < 4
    with pytest.raises(MediaTooLong):
        decoded(path, Clip(40.0, 44.0), max_seconds=3.0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("start", "end"), [(1.0, 3.5), (4.0, 6.0), (5.5, 8.5), (9.0, 10.0)])
def test_delays_and_gaps_keep_the_times(tmp_path: Path, suffix: str, start: float, end: float) -> None:
    """The audio of a video starts at 2 s and pauses for 3 s in the middle."""
    path = make_recording(tmp_path / f"a.{suffix}", chirp(6.0), start=2.0, gap=3.0)
    whole, _ = decoded(path)
    clip, warnings = decoded(path, Clip(start, end))
    assert not warnings
    expected = whole[round(start * RATE) : round(end * RATE)]
    assert len(clip) == len(expected)
    np.testing.assert_allclose(clip, expected, atol=0.02)


def test_damage_after_the_clip_is_no_warning(tmp_path: Path) -> None:
    path = make_wav(tmp_path / "a.wav", chirp(SECONDS))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert decoded(path, Clip(2.0, 5.0))[1] == []
    assert decoded(path, Clip(2.0))[1] == ["media_incomplete"]


@pytest.mark.parametrize("suffix", ["wav", "m4a", "ogg"])
def test_a_start_beyond_the_end(tmp_path: Path, suffix: str) -> None:
    path = make_audio(tmp_path / f"a.{suffix}", chirp(2.0), AUDIO_FILES[suffix], rate=48_000)
    with pytest.raises(ClipOutOfRange, match=r"input.start_seconds is 60, but the recording ends at 2.0 s"):
        decoded(path, Clip(60.0, 70.0))


def test_a_silent_first_track_is_judged_by_the_clip(tmp_path: Path) -> None:
    path = make_tracks(tmp_path / "a.mkv", [silence(6.0), chirp(6.0)], "pcm_s16le")
    clip, warnings = decoded(path, Clip(2.0, 4.0))
    assert warnings == ["audio_track_changed"]
    assert signal_to_noise(clip, chirp(6.0)[2 * RATE : 4 * RATE]) > 15
