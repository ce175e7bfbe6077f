"""Recordings for the demo and the tests: a sample call from a package, and videos generated from it."""

from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av

AUDIO_RATE = 48_000  # Hz
FRAMES_PER_SECOND = 10
WIDTH, HEIGHT = 320, 180


def sample_call() -> Path:
    """Return the path of a real 30 s telephone call with two speakers (WAV). Raises FileNotFoundError without
    pyannote.audio.

    `sample.stm` and `sample.rttm` in the same folder have its transcript and its speaker turns.
    """
    # Importing pyannote.audio.sample, or calling find_spec for it, would load torch.
    namespace = find_spec("pyannote")
    folders = namespace.submodule_search_locations if namespace else None
    for folder in folders or ():
        path = Path(folder) / "audio" / "sample" / "sample.wav"
        if path.is_file():
            return path
    raise FileNotFoundError("the sample call comes with the package pyannote.audio, which is not installed")


def make_video(speech: Path | None, target: Path, seconds: float) -> None:
    """Write a small MP4 (H.264) with changing colours and the first `seconds` of `speech` as its sound (AAC).

    If the speech is shorter, it ends before the picture. Without `speech`, the video has no audio stream.
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
        # Constant brightness with changing colour planes: the picture visibly changes and compresses well.
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
