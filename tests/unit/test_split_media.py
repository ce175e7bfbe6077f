"""Split channels and selected tracks in a real decoder process, from valid and hostile files."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from daemon.errors import (
    AudioTrackMissing,
    DecodeLimit,
    MediaTooLong,
    MediaUnreadable,
    NoAudio,
    TooManyChannels,
    TranscriptdError,
)
from daemon.media.decoder_pool import MAX_SPLIT_CHANNELS, DecodeLimits
from tests.support.media.decoding import LIMITS, channels_of, decode, decoded, refused, signal_to_noise
from tests.support.media.files import RATE, Sound, chirp, make_audio, make_tracks, make_video, make_wav, silence, speech


def different(count: int) -> Sound:
    """Return channels of the shape (samples, channels) that do not resemble each other."""
    return np.stack([np.roll(speech(), 6_000 * index) * 0.9**index for index in range(count)], axis=1)


# --- channels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8])
async def test_each_channel_of_a_wav_is_kept_exactly(tmp_path: Path, count: int) -> None:
    sounds = await channels_of(make_wav(tmp_path / "a.wav", different(count)))
    np.testing.assert_array_equal(np.stack(sounds, axis=1), different(count))


@pytest.mark.parametrize(
    ("suffix", "codec", "layout", "decibels"),
    [
        ("mp3", "libmp3lame", "stereo", 20),
        ("m4a", "aac", "stereo", 18),
        ("flac", "flac", "stereo", 65),
        ("flac", "flac", "5.1", 65),
        ("flac", "flac", "7.1", 65),
        ("ogg", "libopus", "5.1", 20),
    ],
)
async def test_each_channel_of_a_compressed_file(
    tmp_path: Path, suffix: str, codec: str, layout: str, decibels: float
) -> None:
    channels = different({"stereo": 2, "5.1": 6, "7.1": 8}[layout])
    form = {"m4a": "mp4"}.get(suffix)
    path = make_tracks(tmp_path / f"a.{suffix}", [channels], codec, rate=48_000, layout=layout, form=form)
    sounds = await channels_of(path)
    assert len(sounds) == channels.shape[1]
    for index, sound in enumerate(sounds):
        assert signal_to_noise(sound, channels[:, index]) > decibels


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
async def test_channels_of_a_call_add_up_to_its_mix(tmp_path: Path, rate: int) -> None:
    callers = np.stack([speech(6), speech(20)], axis=1)
    path = make_tracks(tmp_path / "a.wav", [callers], "pcm_s16le", rate=rate, layout="stereo")
    left, right = await channels_of(path)
    _, mix = await decoded(path)
    np.testing.assert_allclose((left + right) / 2, mix, atol=1e-4)


async def test_silent_channel_is_as_long_as_the_others(tmp_path: Path) -> None:
    left, right = await channels_of(make_wav(tmp_path / "a.wav", np.stack([silence(), chirp()], axis=1)))
    assert not left.any()
    np.testing.assert_array_equal(right, chirp())


async def test_invalid_sample_values_are_clamped_per_channel(tmp_path: Path) -> None:
    channels = np.full((200, 2), 0.25, np.float32)
    channels[50:53, 1] = np.nan, -np.inf, 1e30
    left, right = await channels_of(make_wav(tmp_path / "a.wav", channels))
    np.testing.assert_array_equal(left, channels[:, 0])
    np.testing.assert_array_equal(right[50:53], [0, 0, 2])


async def test_recording_that_becomes_stereo_in_the_middle(tmp_path: Path) -> None:
    mono = make_tracks(tmp_path / "1.mp3", [chirp()], "libmp3lame").read_bytes()
    both = np.stack([silence(), chirp()], axis=1)
    stereo = make_tracks(tmp_path / "2.mp3", [both], "libmp3lame", layout="stereo").read_bytes()
    (tmp_path / "a.mp3").write_bytes(mono + stereo + mono)
    left, right = await channels_of(tmp_path / "a.mp3")
    third = len(left) // 3
    assert [np.abs(part).max() > 0.4 for part in (left[:third], left[third + 4000 : 2 * third - 4000])] == [True, False]
    assert not right[: third - 4000].any()
    assert np.abs(right[third : 2 * third]).max() > 0.4
    assert not right[-third + 4000 :].any()
    assert np.abs(left[-third:]).max() > 0.4


async def test_more_channels_than_can_be_split(tmp_path: Path) -> None:
    path = make_wav(tmp_path / "a.wav", np.zeros((1000, MAX_SPLIT_CHANNELS + 1), np.int16))
    error = await refused(path, TooManyChannels, split=True)
    assert "9 channels; at most 8" in error.message
    await decoded(path)


@pytest.mark.parametrize("count", [65, 1_000, 32_767])
async def test_absurd_numbers_of_channels(tmp_path: Path, count: int) -> None:
    path = make_wav(tmp_path / "a.wav", np.zeros((100, count), np.int16))
    await refused(path, TooManyChannels if count == 65 else MediaUnreadable, split=True)
    await refused(path, MediaUnreadable)


async def test_channels_count_together_towards_the_longest_recording(tmp_path: Path) -> None:
    path = make_wav(tmp_path / "a.wav", np.zeros((3 * RATE, 2), np.int16))
    limits = DecodeLimits(5, 30, 2**31)
    error = await refused(path, MediaTooLong, limits, split=True)
    assert "2 channels together are longer than the limit of 5 s" in error.message
    await decoded(path, limits)
    assert len(await channels_of(path, DecodeLimits(6, 30, 2**31))) == 2


# --- tracks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mov", "mkv", "mp4"])
async def test_first_track_is_the_default(tmp_path: Path, suffix: str) -> None:
    tracks = [speech(), chirp(), speech(start=12)]
    form, codec = {"mkv": "matroska"}.get(suffix), "aac" if suffix == "mp4" else "pcm_s16le"
    path = make_tracks(tmp_path / f"a.{suffix}", tracks, codec, form=form)
    for number, expected in [(None, 0), (0, 0), (1, 1), (2, 2)]:
        _, sound = await decoded(path, audio_track=number)
        assert signal_to_noise(sound, tracks[expected]) > 30
    for number in (3, 999):
        error = await refused(path, AudioTrackMissing, audio_track=number)
        assert f"audio_track is {number}" in error.message
        assert error.message.endswith("is 3")


async def test_channels_of_a_selected_track(tmp_path: Path) -> None:
    path = make_tracks(tmp_path / "a.mov", [different(2), different(2)[::-1].copy()], "pcm_s16le", layout="stereo")
    left, right = await channels_of(path, audio_track=1)
    np.testing.assert_allclose(np.stack([left, right], axis=1), different(2)[::-1], atol=1e-4)


async def test_tracks_are_counted_among_the_audio_streams(tmp_path: Path) -> None:
    make_video(None, tmp_path / "v.mp4", seconds=1)
    await refused(tmp_path / "v.mp4", NoAudio, audio_track=0)
    error = await refused(make_audio(tmp_path / "a.wav"), AudioTrackMissing, audio_track=1)
    assert error.message.endswith("is 1")


def with_tracks(path: Path, count: int) -> Path:
    """Write a MOV that references its single track `count` times."""
    content = make_tracks(path, [chirp(0.1)], "pcm_s16le").read_bytes()
    moov, trak = content.index(b"moov") - 4, content.index(b"trak") - 4
    end = trak + int.from_bytes(content[trak : trak + 4], "big")
    index = content[moov + 4 : trak] + content[trak:end] * count + content[end:]
    path.write_bytes(content[:moov] + (len(index) + 4).to_bytes(4, "big") + index)
    return path


async def test_many_tracks(tmp_path: Path) -> None:
    path = with_tracks(tmp_path / "a.mov", 500)
    _, sound = await decoded(path, audio_track=499)
    assert len(sound) == RATE // 10
    await refused(path, AudioTrackMissing, audio_track=500)
    await refused(with_tracks(path, 20_000), DecodeLimit, audio_track=1)  # FFmpeg's limit is 1000


def test_child_output_with_channels_of_different_lengths_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(paths: list[str]) -> None:
        for index, path in enumerate(paths):
            Path(path).write_bytes(bytes(4 * index))

    async def lie(_: object, request: dict[str, list[str]], *__: object) -> tuple[int, bytes, bytes]:
        write(request["targets"])
        return 0, b"{}", b""

    monkeypatch.setattr("daemon.media.decoder_pool.DecoderPool._run_child", lie)
    with pytest.raises(TranscriptdError, match="invalid sizes"):
        asyncio.run(decode(tmp_path / "a.wav", tmp_path / "a.f32", LIMITS, split=True))
    assert not list(tmp_path.iterdir())
