"""File formats that users upload: container, codec, and how much of the signal the codec preserves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.media.files import RATE, Sound, make_amr, make_tracks


@dataclass(frozen=True)
class Kind:
    suffix: str
    codec: str
    decibels: float  # signal-to-noise ratio that the codec preserves, minus a margin of some dB
    rate: int = RATE
    more: dict[str, Any] = field(default_factory=dict)

    def make(self, path: Path, sound: Sound) -> Path:
        path = path.with_suffix(f".{self.suffix}")
        if self.codec == AMR:
            return make_amr(path, sound)
        return make_tracks(path, [sound], self.codec, rate=self.rate, **self.more)

    def __str__(self) -> str:
        return f"{self.suffix}-{self.codec}"


AMR = "libopencore_amrnb"
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
    # A telephone codec preserves little of the waveform but enough of the words: test_any_media_words.py.
    Kind("amr", AMR, 8),
    Kind("3gp", AMR, 8),
    Kind("3gp", "aac", 40),
]
