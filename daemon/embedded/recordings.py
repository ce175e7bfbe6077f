"""Recordings for the demo and the tests: one that a package carries, and videos made around it."""

from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av

AUDIO_RATE = 48_000  # Hz
FRAMES_PER_SECOND = 10
WIDTH, HEIGHT = 320, 180


def sample_call() -> Path:
    """A real telephone call of 30 s with two speakers (WAV); `sample.stm` and `sample.rttm` beside it say who says what.

    Raises FileNotFoundError when pyannote.audio is not installed.
    """
    # Importing pyannote.audio.sample, or asking find_spec for it, would load torch.
    namespace = find_spec("pyannote")
    folders = namespace.submodule_search_locations if namespace else None
    for folder in folders or ():
        path = Path(folder) / "audio" / "sample" / "sample.wav"
        if path.is_file():
            return path
    raise FileNotFoundError("the sample call comes with the package pyannote.audio, which is not installed")


def make_video(speech: Path | None, target: Path, seconds: float) -> None:
    """Write a small MP4 (H.264) of colours that change, with the first `seconds` of `speech` as its sound (AAC).

    Speech that is shorter ends before the picture does. Without `speech` the video has no audio stream.
    """
    with av.open(str(target), "w", format="mp4") as output:
        picture = output.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"preset": "ultrafast"})
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = output.add_stream("aac", rate=AUDIO_RATE, layout="mono") if speech else None
        for frame in _pictures(seconds):
            output.mux(picture.encode(frame))
        output.mux(picture.encode(None))
        if speech and sound:
            for audio_frame in _sound(speech, seconds):
                output.mux(sound.encode(audio_frame))
            output.mux(sound.encode(None))


def _pictures(seconds: float) -> Iterator[av.VideoFrame]:
    for index in range(max(1, round(seconds * FRAMES_PER_SECOND))):
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
        # Brightness fixed, the two colour planes change: a picture that visibly moves and compresses to nothing.
        for plane, value in zip(frame.planes, (128, index % 256, 255 - index % 256), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts, frame.time_base = index, Fraction(1, FRAMES_PER_SECOND)
        yield frame


def _sound(speech: Path, seconds: float) -> Iterator[av.AudioFrame]:
    resampler = av.AudioResampler("fltp", "mono", AUDIO_RATE)
    with av.open(str(speech)) as source:
        for frame in source.decode(audio=0):
            if frame.time is not None and frame.time >= seconds:
                break
            yield from resampler.resample(frame)
    yield from resampler.resample(None)
