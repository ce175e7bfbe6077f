"""A silent first audio stream is replaced by one with sound, and reported."""

from pathlib import Path

import numpy as np
import pytest

from daemon.errors import AudioTrackMissing
from tests.support.media.decoding import channels_of, decoded, refused, signal_to_noise
from tests.support.media.files import RATE, Sound, make_tracks, silence, speech


def noise(level: float, seconds: float = 4.0) -> Sound:
    return np.random.default_rng(0).normal(0, level, round(seconds * RATE)).astype(np.float32)


def file_of(path: Path, *tracks: Sound) -> Path:
    codec = {".mkv": "flac", ".mp4": "aac", ".ts": "mp2"}[path.suffix]
    return make_tracks(path, tracks, codec, form={".mkv": "matroska", ".ts": "mpegts"}.get(path.suffix))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.ts"])
async def test_stream_with_sound_replaces_a_silent_first_one(tmp_path: Path, name: str) -> None:
    audio, sound = await decoded(file_of(tmp_path / name, silence(4), silence(4), speech()))
    assert signal_to_noise(sound, speech()) > 30
    assert audio.tracks == 3
    (warning,) = audio.warnings
    assert (warning.code, warning.stage) == ("audio_track_changed", "decode")
    assert "first of the 3 audio streams is silent: number 2 was used" in warning.message
    assert "options.audio_track" in warning.message


async def test_loudest_of_the_other_streams_is_used(tmp_path: Path) -> None:
    _, sound = await decoded(file_of(tmp_path / "a.mkv", silence(4), noise(0.001), speech(), noise(0.002)))
    assert signal_to_noise(sound, speech()) > 30


async def test_split_channels_are_those_of_the_stream_with_sound(tmp_path: Path) -> None:
    both = np.stack([speech(), noise(0.01)], axis=1)
    path = make_tracks(tmp_path / "a.mkv", [np.zeros_like(both), both], "flac", layout="stereo", form="matroska")
    left, right = await channels_of(path)
    assert signal_to_noise(left, speech()) > 30
    assert signal_to_noise(right, noise(0.01)) > 30


@pytest.mark.parametrize("begins", [0.0, 3.9])
async def test_first_stream_with_any_sound_is_kept(tmp_path: Path, begins: float) -> None:
    first = silence(4)
    first[round(begins * RATE) : round(begins * RATE) + 200] = 0.001
    audio, sound = await decoded(file_of(tmp_path / "a.mkv", first, speech()))
    assert not audio.warnings
    assert signal_to_noise(sound, first) > 30


async def test_stream_that_the_job_names_is_kept(tmp_path: Path) -> None:
    path = file_of(tmp_path / "a.mkv", silence(4), speech())
    audio, sound = await decoded(path, audio_track=0)
    assert not audio.warnings
    assert not sound.any()
    await refused(path, AudioTrackMissing, audio_track=2)


async def test_silence_stays_silence_if_no_stream_has_sound(tmp_path: Path) -> None:
    audio, sound = await decoded(file_of(tmp_path / "a.mkv", silence(4), silence(3)))
    assert (audio.tracks, audio.warnings) == (2, ())
    assert len(sound) == 4 * RATE
    assert not sound.any()
