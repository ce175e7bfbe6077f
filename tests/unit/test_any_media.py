"""The decoded audio matches the WAV, within the codec's precision, for every container, codec, sample rate and channel
layout."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from daemon.errors import MediaUnreadable
from tests.support.media.decoding import decoded, lag, refused, signal_to_noise
from tests.support.media.files import RATE, chirp, make_audio, make_tracks, speech
from tests.support.media.kinds import KINDS, Kind

LATE_SAMPLES = 1152  # an encoder's first frame, in containers that cannot mark it as padding


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_every_format_decodes_to_the_audio_of_the_wav(tmp_path: Path, kind: Kind) -> None:
    said = speech()
    stereo = np.stack([said, said], axis=1) if kind.more.get("layout") == "stereo" else said
    _, sound = await decoded(kind.make(tmp_path / "a", stereo))
    assert signal_to_noise(sound, said) > kind.decibels
    assert -25 <= lag(sound, said) <= LATE_SAMPLES
    assert -LATE_SAMPLES <= len(sound) - len(said) <= 2 * LATE_SAMPLES


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000])
async def test_every_sample_rate(tmp_path: Path, rate: int) -> None:
    _, sound = await decoded(make_tracks(tmp_path / "a.wav", [speech()], "pcm_s16le", rate=rate))
    assert signal_to_noise(sound, speech()) > 45  # dB; the call has little above 4 kHz
    assert lag(sound, speech()) == 0
    assert len(sound) == pytest.approx(len(speech()), abs=2)


@pytest.mark.parametrize(("layout", "count"), [("stereo", 2), ("3.0", 3), ("quad", 4), ("5.1", 6), ("7.1", 8)])
async def test_mix_of_all_channels_is_as_loud_as_one(tmp_path: Path, layout: str, count: int) -> None:
    everywhere = np.stack([speech()] * count, axis=1)
    if count >= 6:
        everywhere[:, 3] = 0  # the subwoofer, which carries no speech
    _, sound = await decoded(make_tracks(tmp_path / "a.flac", [everywhere], "flac", layout=layout))
    assert signal_to_noise(sound, speech()) > 50


async def test_speaker_in_the_centre_channel_of_surround_sound(tmp_path: Path) -> None:
    channels = np.zeros((len(speech()), 6), np.float32)
    channels[:, 2] = speech()
    _, sound = await decoded(make_tracks(tmp_path / "a.m4a", [channels], "aac", rate=48_000, layout="5.1", form="mp4"))
    loudness = np.abs(sound).max()
    assert loudness > 0.2
    assert signal_to_noise(sound / loudness, speech() / np.abs(speech()).max()) > 20


@pytest.mark.parametrize(
    ("suffix", "codec", "form"),
    [
        ("g722", "g722", "g722"),
        ("ulaw", "pcm_mulaw", "mulaw"),
        ("al", "pcm_alaw", "alaw"),
        ("sln", "pcm_s16le", "s16le"),
    ],
)
async def test_sound_without_a_header_cannot_be_recognized(tmp_path: Path, suffix: str, codec: str, form: str) -> None:
    """FFmpeg would rely on the file name, which the uploader chooses."""
    path = make_tracks(tmp_path / f"a.{suffix}", [speech()], codec, form=form)
    error = await refused(path, MediaUnreadable)
    assert f".{suffix}" in error.message
    assert "ffmpeg -f mulaw" in error.message


# --- file layout --------------------------------------------------------------------------------------------------


async def test_index_of_an_mp4_may_be_anywhere(tmp_path: Path) -> None:
    flags = {"end": "", "start": "faststart", "fragments": "frag_keyframe+empty_moov+default_base_moof"}
    sounds = []
    for name, value in flags.items():
        path = make_tracks(tmp_path / f"{name}.mp4", [speech()], "aac", muxer={"movflags": value} if value else None)
        content = path.read_bytes()
        assert (content.index(b"moov") < content.index(b"mdat")) is (name != "end")
        _, sound = await decoded(path)
        sounds.append(sound[: len(speech())])
    np.testing.assert_array_equal(sounds[0], sounds[1])
    assert signal_to_noise(sounds[2], speech()) > 40


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("wav", "mp3"), ("mp3", "wav"), ("mp4", "txt"), ("ogg", "m3u8"), ("mp3", "mp4"), ("wav", "jpg")],
)
async def test_file_name_does_not_matter(tmp_path: Path, right: str, wrong: str) -> None:
    codec = {"wav": "pcm_s16le", "mp3": "libmp3lame", "mp4": "aac", "ogg": "libopus"}[right]
    path = make_tracks(tmp_path / f"right.{right}", [chirp()], codec)
    _, expected = await decoded(path)
    _, sound = await decoded(path.rename(tmp_path / f"wrong.{wrong}"))
    np.testing.assert_array_equal(sound, expected)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mkv", "ts", "mp4"])
async def test_truncated_file_decodes_like_the_start_of_the_whole_file(tmp_path: Path, suffix: str) -> None:
    muxer = {"movflags": "frag_every_frame+empty_moov"} if suffix == "mp4" else None
    codec = {"wav": "pcm_s16le", "flac": "flac"}.get(suffix, "aac")
    form = {"mkv": "matroska", "ts": "mpegts"}.get(suffix)
    path = make_tracks(tmp_path / f"a.{suffix}", [speech()], codec, form=form, muxer=muxer)
    _, whole = await decoded(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, sound = await decoded(path)
    assert 0.3 < len(sound) / len(whole) < 0.7
    sure = len(sound) - RATE // 4  # the last packet may be truncated
    np.testing.assert_allclose(sound[:sure], whole[:sure], atol=1e-4)


async def test_cover_art_of_an_m4a(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(make_audio(tmp_path / "plain.m4a"))) as plain, av.open(str(path), "w", format="mp4") as output:
        sound = output.add_stream_from_template(plain.streams.audio[0])
        cover: Any = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in plain.demux(audio=0):
            if packet.size:
                packet.stream = sound
                output.mux(packet)
        image = av.VideoFrame(64, 64, "yuvj420p")
        image.pts = 0
        output.mux(cover.encode(image))
        output.mux(cover.encode(None))
    _, expected = await decoded(tmp_path / "plain.m4a")
    audio, heard = await decoded(path)
    assert not audio.has_video
    np.testing.assert_array_equal(heard, expected)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
async def test_empty_track_next_to_one_with_audio(tmp_path: Path, suffix: str) -> None:
    form, muxer = {"mkv": ("matroska", None), "mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov"})}[suffix]
    tracks = [np.zeros(0, np.float32), chirp()]
    path = make_tracks(tmp_path / f"a.{suffix}", tracks, "flac", form=form, muxer=muxer)
    error = await refused(path, MediaUnreadable, audio_track=0)
    assert "no audio" in error.message
    for track in (None, 1):
        _, sound = await decoded(path, audio_track=track)
        assert signal_to_noise(sound, chirp()) > 70
