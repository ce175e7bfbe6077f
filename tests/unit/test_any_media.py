"""Whatever the container, the codec, the rate or the channels: the sound is that of the WAV, as far as the codec keeps it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from daemon.errors import MediaUnreadable
from tests.decoding import decoded, lag, refused, signal_to_noise
from tests.media import RATE, Sound, chirp, make_audio, make_tracks, speech

LATE_SAMPLES = 1152  # an encoder's first frame, in containers that cannot say that it is padding


@dataclass(frozen=True)
class Kind:
    suffix: str
    codec: str
    decibels: float  # what the codec keeps, less a margin of some dB
    rate: int = RATE
    more: dict[str, Any] = field(default_factory=dict)

    def make(self, path: Path, sound: Sound) -> Path:
        return make_tracks(path.with_suffix(f".{self.suffix}"), [sound], self.codec, rate=self.rate, **self.more)

    def __str__(self) -> str:
        return f"{self.suffix}-{self.codec}"


MP4 = {"form": "mp4"}
KINDS = [
    Kind("wav", "pcm_u8", 30),
    Kind("wav", "pcm_s16le", 75),
    Kind("wav", "pcm_s24le", 115),
    Kind("wav", "pcm_s32le", 150),
    Kind("wav", "pcm_f32le", 150),
    Kind("wav", "pcm_f64le", 150),
    Kind("wav", "pcm_mulaw", 35),
    Kind("wav", "pcm_alaw", 35),
    Kind("wav", "adpcm_ima_wav", 25),
    Kind("aiff", "pcm_s16be", 75),
    Kind("caf", "pcm_s16le", 75),
    Kind("au", "pcm_s16be", 75),
    Kind("mp3", "libmp3lame", 18),
    Kind("m4a", "aac", 40, more=MP4),
    Kind("m4a", "alac", 75, more=MP4),
    Kind("aac", "aac", 40, more={"form": "adts"}),
    Kind("flac", "flac", 75),
    Kind("ogg", "libopus", 30),
    Kind("ogg", "vorbis", 15, 48_000, {"layout": "stereo", "encoder": {"strict": "experimental"}}),
    Kind("opus", "libopus", 30),
    Kind("webm", "libopus", 30),
    Kind("mp4", "aac", 40),
    Kind("mov", "pcm_s16le", 75),
    Kind("mkv", "flac", 75, more={"form": "matroska"}),
    Kind("mka", "ac3", 50, 48_000, {"form": "matroska"}),
    Kind("avi", "libmp3lame", 18),
    Kind("avi", "pcm_s16le", 75),
    Kind("ts", "aac", 40, more={"form": "mpegts"}),
    Kind("ts", "mp2", 40, more={"form": "mpegts"}),
    Kind("wma", "wmav2", 15, 44_100, {"form": "asf", "encoder": {"b": "64000"}}),
    # What a telephone codec keeps of the wave is little, of the words it is enough: test_any_media_words.py.
    Kind("amr", "libopencore_amrnb", 8, 8_000, {"encoder": {"b": "12200"}}),
    Kind("3gp", "libopencore_amrnb", 8, 8_000, {"encoder": {"b": "12200"}}),
    Kind("3gp", "aac", 40),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_every_kind_of_file_sounds_as_the_wav_does(tmp_path: Path, kind: Kind) -> None:
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
async def test_all_channels_are_mixed_at_the_loudness_of_one(tmp_path: Path, layout: str, count: int) -> None:
    everywhere = np.stack([speech()] * count, axis=1)
    if count >= 6:
        everywhere[:, 3] = 0  # the subwoofer, which carries no speech
    _, sound = await decoded(make_tracks(tmp_path / "a.flac", [everywhere], "flac", layout=layout))
    assert signal_to_noise(sound, speech()) > 50


async def test_one_who_speaks_in_the_middle_of_surround_sound(tmp_path: Path) -> None:
    channels = np.zeros((len(speech()), 6), np.float32)
    channels[:, 2] = speech()
    _, sound = await decoded(make_tracks(tmp_path / "a.m4a", [channels], "aac", rate=48_000, layout="5.1", form="mp4"))
    loudness = np.abs(sound).max()
    assert loudness > 0.2
    assert signal_to_noise(sound / loudness, speech() / np.abs(speech()).max()) > 20


async def test_sound_without_a_header_cannot_be_recognized(tmp_path: Path) -> None:
    """FFmpeg would go by the name, which an uploader chose."""
    await refused(make_tracks(tmp_path / "a.g722", [speech()], "g722"), MediaUnreadable)


# --- how the file is laid out -------------------------------------------------------------------------------------


async def test_it_does_not_matter_where_an_mp4_has_its_index(tmp_path: Path) -> None:
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
async def test_the_name_of_the_file_does_not_matter(tmp_path: Path, right: str, wrong: str) -> None:
    codec = {"wav": "pcm_s16le", "mp3": "libmp3lame", "mp4": "aac", "ogg": "libopus"}[right]
    path = make_tracks(tmp_path / f"right.{right}", [chirp()], codec)
    _, expected = await decoded(path)
    _, sound = await decoded(path.rename(tmp_path / f"wrong.{wrong}"))
    np.testing.assert_array_equal(sound, expected)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mkv", "ts", "mp4"])
async def test_a_file_that_is_cut_off_begins_as_the_whole(tmp_path: Path, suffix: str) -> None:
    muxer = {"movflags": "frag_every_frame+empty_moov"} if suffix == "mp4" else None
    codec = {"wav": "pcm_s16le", "flac": "flac"}.get(suffix, "aac")
    form = {"mkv": "matroska", "ts": "mpegts"}.get(suffix)
    path = make_tracks(tmp_path / f"a.{suffix}", [speech()], codec, form=form, muxer=muxer)
    _, whole = await decoded(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, sound = await decoded(path)
    assert 0.3 < len(sound) / len(whole) < 0.7
    sure = len(sound) - RATE // 4  # the last packet may be cut in its middle
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
async def test_a_track_without_sound_beside_one_that_has_some(tmp_path: Path, suffix: str) -> None:
    form, muxer = {"mkv": ("matroska", None), "mp4": ("mp4", {"movflags": "frag_keyframe+empty_moov"})}[suffix]
    tracks = [np.zeros(0, np.float32), chirp()]
    path = make_tracks(tmp_path / f"a.{suffix}", tracks, "flac", form=form, muxer=muxer)
    error = await refused(path, MediaUnreadable)
    assert "no sound" in error.message
    _, sound = await decoded(path, audio_track=1)
    assert signal_to_noise(sound, chirp()) > 70
