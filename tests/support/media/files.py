"""Media files for tests: audio that is known sample by sample, in many containers, intact and damaged.

Audio is float32 in [-1, 1], one-dimensional, 16 kHz, one channel, unless a function says otherwise.
"""

import struct
import subprocess
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import imageio_ffmpeg  # type: ignore[import-untyped]  # ships no types
import numpy as np
from numpy.typing import NDArray

from daemon.demo.recordings import make_video, sample_call

__all__ = ["make_video", "sample_call"]

RATE = 16_000
Sound = NDArray[np.float32]

# suffix → encoder, for audio-only files
AUDIO_FILES = {
    "wav": "pcm_s16le",
    "mp3": "libmp3lame",
    "flac": "flac",
    "ogg": "libopus",
    "m4a": "aac",
    "mkv": "aac",
    "webm": "libopus",
    "aiff": "pcm_s16be",
    "ts": "aac",
}


def chirp(seconds: float = 2.0) -> Sound:
    """Return a tone that rises from 200 to 2000 Hz at half of full scale; its autocorrelation has a single peak."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * (200 * time + 900 * time**2 / max(seconds, 1e-9))
    return (0.5 * np.sin(phase)).astype(np.float32)


def speech(start: float = 6.0, seconds: float = 4.0) -> Sound:
    """Return speech from the sample call, scaled to full scale without clipping."""
    with wave.open(str(sample_call())) as file:
        call = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)
    sound = call[round(start * RATE) : round((start + seconds) * RATE)]
    loud: Sound = (0.9 * sound / np.abs(sound).max()).astype(np.float32)
    return loud


def silence(seconds: float = 2.0) -> Sound:
    return np.zeros(round(seconds * RATE), np.float32)


def make_wav(path: Path, sound: NDArray[np.generic] | None = None, rate: int = RATE) -> Path:
    """Write a WAV file without an encoder, so that it can contain values an encoder would reject.

    `sound` has the shape (samples,) or (samples, channels) and is stored in its own type: float32 or int16.
    """
    sound = chirp() if sound is None else sound
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    width = sound.dtype.itemsize
    kind = 3 if sound.dtype.kind == "f" else 1
    data = sound.astype(sound.dtype.newbyteorder("<")).tobytes()
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * width, channels * width, 8 * width)
    body = b"WAVE" + _chunk(b"fmt ", form) + _chunk(b"data", data)
    path.write_bytes(_chunk(b"RIFF", body))
    return path


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


def make_audio(path: Path, sound: Sound | None = None, codec: str | None = None, rate: int = RATE) -> Path:
    """Write an audio-only file; the suffix selects the container and its usual codec."""
    return _encode(path, sound, codec or AUDIO_FILES[path.suffix[1:]], rate)


def make_recording(
    path: Path, sound: Sound | None = None, codec: str = "aac", start: float = 0.0, gap: float = 0.0
) -> Path:
    """Write a video of one colour from 0 s, with audio that starts at `start` s and pauses for `gap` s in the
    middle."""
    return _encode(path, sound, codec, RATE, picture=True, start=start, gap=gap)


def make_late_audio(path: Path, start: float = 0.0, gap: float = 0.0) -> Path:
    """Write an audio-only file whose first timestamp is `start` s, with a pause of `gap` s in the middle."""
    return _encode(path, None, "pcm_s16le", RATE, start=start, gap=gap)


def make_truncated_mp4(path: Path) -> Path:
    """Write an MP4 whose upload was interrupted: the index at its end is missing."""
    make_recording(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def make_text(path: Path) -> Path:
    path.write_text("Dear reader,\n\nthis is a letter and not a recording.\n" * 20)
    return path


def make_tracks(
    path: Path,
    tracks: Sequence[NDArray[np.float32]],
    codec: str,
    *,
    rate: int = RATE,
    layout: str = "mono",
    form: str | None = None,
    muxer: dict[str, str] | None = None,
    encoder: dict[str, str] | None = None,
) -> Path:
    """Write a file with several audio streams, each of the shape (samples,) or (samples, channels), in FFmpeg's
    `layout`.

    `form` is the container if the suffix does not determine it; `muxer` and `encoder` are FFmpeg options.
    """
    with av.open(str(path), "w", format=form, container_options=muxer or {}) as output:
        streams = [
            cast(av.AudioStream, output.add_stream(codec, rate=rate, layout=layout, options=encoder)) for _ in tracks
        ]
        for stream, sound in zip(streams, tracks, strict=True):
            resampler = av.AudioResampler(
                stream.codec_context.format, layout, rate, frame_size=stream.codec_context.frame_size or 1024
            )
            frames = []
            if sound.size:
                frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), format="flt", layout=layout)
                frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
                frames = [*resampler.resample(frame), *resampler.resample(None)]
            for ready in frames:
                output.mux(stream.encode(ready))
            output.mux(stream.encode(None))
    return path


def make_amr(path: Path, sound: Sound, bits_per_second: int = 12_200) -> Path:
    """Write telephone AMR at 8 kHz, in the container that the suffix selects.

    Uses the ffmpeg program: from version 19 on, PyAV's FFmpeg decodes AMR but cannot encode it.
    """
    source = make_wav(path.with_suffix(".source.wav"), sound)
    encoding = ["-ar", "8000", "-ac", "1", "-c:a", "libopencore_amrnb", "-b:a", str(bits_per_second)]
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-nostdin", "-loglevel", "error", "-y", "-i", source, *encoding, path], check=True)
    source.unlink()
    return path


def _encode(
    path: Path,
    sound: Sound | None,
    codec: str,
    rate: int,
    *,
    picture: bool = False,
    start: float = 0.0,
    gap: float = 0.0,
) -> Path:
    sound = chirp() if sound is None else sound
    with av.open(
        str(path), "w", format={".mkv": "matroska", ".m4a": "mp4", ".ts": "mpegts"}.get(path.suffix)
    ) as output:
        video = output.add_stream("mpeg4", rate=10) if picture else None
        audio = cast(av.AudioStream, output.add_stream(codec, rate=rate, layout="mono"))
        if video:
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
            for index in range(max(1, round(10 * (start + gap + len(sound) / RATE)))):
                image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index % 256, np.uint8), format="rgb24")
                image.pts, image.time_base = index, Fraction(1, 10)
                output.mux(video.encode(image))
            output.mux(video.encode(None))
        resampler = av.AudioResampler(audio.codec_context.format, "mono", rate)
        step = RATE // 50
        for offset in range(0, len(sound), step):
            frame = av.AudioFrame.from_ndarray(sound[None, offset : offset + step], format="flt", layout="mono")
            late = start + (gap if offset >= len(sound) / 2 else 0.0)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), offset + round(late * RATE)
            for ready in resampler.resample(frame):
                output.mux(audio.encode(ready))
        for ready in resampler.resample(None):
            output.mux(audio.encode(ready))
        output.mux(audio.encode(None))
    return path


def repeated_call(target: Path, times: int) -> Path:
    """Return the sample call repeated `times` times, 30 s each."""
    with wave.open(str(sample_call())) as call, wave.open(str(target), "wb") as repeated:
        repeated.setparams(call.getparams())
        repeated.writeframes(call.readframes(call.getnframes()) * times)
    return target
