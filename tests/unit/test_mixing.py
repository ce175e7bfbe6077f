"""A mix that loses the sound of its channels is replaced by one that carries it, and reported."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from daemon.media.decoder_pool import Audio
from tests.support.media.decoding import channels_of, decoded, signal_to_noise
from tests.support.media.files import RATE, Sound, make_tracks, make_wav, silence, speech


def reported(audio: Audio) -> str:
    (warning,) = audio.warnings
    assert warning.code == "channels_mixed_differently"
    return warning.message


def said() -> Sound:
    return speech(seconds=5)


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [("a.wav", "pcm_s16le", "stereo"), ("a.flac", "flac", "stereo"), ("a.mp3", "libmp3lame", "stereo")],
)
async def test_channels_in_opposite_phase(tmp_path: Path, name: str, codec: str, layout: str) -> None:
    path = make_tracks(tmp_path / name, [np.stack([said(), -said()], axis=1)], codec, layout=layout)
    audio, sound = await decoded(path)
    assert "one of the two was inverted" in reported(audio)
    assert signal_to_noise(sound, said()) > 15
    left, right = await channels_of(path)
    assert signal_to_noise(left, -right) > 40


async def test_channels_in_opposite_phase_and_of_different_level(tmp_path: Path) -> None:
    audio, sound = await decoded(make_wav(tmp_path / "a.wav", np.stack([said(), -0.9 * said()], axis=1)))
    reported(audio)
    assert signal_to_noise(sound / 0.95, said()) > 30


@pytest.mark.parametrize("position", range(6))
async def test_speech_in_any_one_channel_of_surround_sound(tmp_path: Path, position: int) -> None:
    channels = np.zeros((len(said()), 6), np.float32)
    channels[:, position] = said()
    audio, sound = await decoded(make_tracks(tmp_path / "a.flac", [channels], "flac", layout="5.1"))
    assert signal_to_noise(sound / np.abs(sound).max(), said() / np.abs(said()).max()) > 30
    assert np.abs(sound).max() > 0.1
    if position == 3:  # the subwoofer, which FFmpeg leaves out
        assert "channel 4 of 6 was used alone" in reported(audio)
    else:
        assert not audio.warnings


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 2])
async def test_level_far_beyond_full_scale(tmp_path: Path, kind: type, channels: int) -> None:
    loud: NDArray[np.floating] = np.asarray(np.stack([said()] * channels, axis=1) * 30_000, kind)
    audio, sound = await decoded(make_wav(tmp_path / "a.wav", loud))
    assert "dB above full scale" in reported(audio)
    assert signal_to_noise(sound / np.abs(sound).max(), said() / np.abs(said()).max()) > 30
    parts = await channels_of(tmp_path / "a.wav")
    assert len(parts) == channels
    assert 0.1 < np.abs(parts[0]).max() <= 2


def other() -> Sound:
    return speech(12, seconds=5)


def in_room(sound: Sound, number: int, late: int) -> Sound:
    """Return the sound as a microphone some meters away records it: much of it comes from the walls."""
    walls = np.random.default_rng(number).normal(size=6_400) * np.exp(-np.arange(6_400) / 900)
    walls[: late + 1] = 0
    walls *= 0.5 / np.sqrt(np.sum(walls**2))
    walls[late] = 1
    return np.asarray(np.convolve(sound, walls)[: len(sound)] / 2, np.float32)


@pytest.mark.parametrize("milliseconds", [1.25, 5, 7.8, 20, 80, 300, 900])
@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
async def test_channel_that_repeats_the_other_later_is_left_out(
    tmp_path: Path, milliseconds: float, earlier: int, rate: int
) -> None:
    late = np.roll(said(), round(milliseconds * 16))
    pair = [said(), 0.7 * late] if earlier == 0 else [0.7 * late, said()]
    path = make_tracks(
        tmp_path / "a.flac", [np.stack(pair, axis=1).astype(np.float32)], "flac", rate=rate, layout="stereo"
    )
    audio, sound = await decoded(path)
    message = reported(audio)
    assert f"channel {earlier + 1} of 2 was used alone" in message
    assert float(message.split(" ms ")[0].split()[-1]) == pytest.approx(milliseconds, abs=1)
    assert signal_to_noise(sound, said()) > 30


async def test_delay_in_a_long_recording_with_a_passage_that_differs(tmp_path: Path) -> None:
    left = np.tile(said(), 20)
    right = np.roll(left, 800)
    left[: 30 * RATE] *= 0.5
    right[: 30 * RATE] = np.roll(left, 23_456)[: 30 * RATE]
    audio, _ = await decoded(make_wav(tmp_path / "a.wav", np.stack([left, right], axis=1)))
    assert "repeats the other 50 ms later: channel 1 of 2" in reported(audio)


@pytest.mark.parametrize(
    "channels",
    [
        [said(), said()],
        [said(), silence(5)],
        [silence(5), said()],
        [said(), np.roll(said(), 10)],
        [said(), 0.3 * np.roll(said(), 2_000)],
        [in_room(said(), 1, 0), in_room(said(), 2, 40)],
        [said() + other(), np.roll(said(), 400) + np.roll(other(), -400)],
        [np.where(np.arange(80_000) < 40_000, said(), 0), np.where(np.arange(80_000) < 40_000, 0, said())],
        [said(), 0.01 * -said()],
    ],
    ids=[
        "both",
        "left",
        "right",
        "slightly delayed",
        "faint echo",
        "room",
        "two speakers between two microphones",
        "in turn",
        "crosstalk",
    ],
)
async def test_usual_mix_is_kept(tmp_path: Path, channels: list[Sound]) -> None:
    audio, sound = await decoded(make_wav(tmp_path / "a.wav", np.stack(channels, axis=1).astype(np.float32)))
    assert not audio.warnings
    np.testing.assert_allclose(sound, (channels[0] + channels[1]) / 2, atol=1e-4)
