"""Part of the decoder process: convert decoded frames of any format into sample files for the models."""

import math
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import av
from av.filter import Graph

from daemon.errors import ClipOutOfRange, MediaTooLong, MediaUnreadable, TooManyChannels
from daemon.media.clip import WHOLE, Clip
from daemon.media.mixing import Meter, Mix

RATE = 16_000  # Hz
SAMPLE_BYTES = 4  # float32
MIN_SOURCE_RATE = 4000  # Hz; speech needs more, and a few bytes at a lower one would fill hours

# The top byte of a float32 holds its sign and most of its exponent: these values mean magnitudes below 2.
SOUND_BYTES = bytes(range(0x00, 0x40)) + bytes(range(0x80, 0xC0))
SILENT_BYTES = bytes(range(0x00, 0x38)) + bytes(range(0x80, 0xB8))  # below 2⁻¹⁵, the smallest 16-bit amplitude


class Waveform:
    """The output: float32 samples at 16 kHz, finite, of magnitude at most 2, limited in number.

    Each channel is written to its own file. Where the recording temporarily has fewer channels, the others are silent.
    Everything is appended in order; only the samples within the clip are written.
    """

    def __init__(self, files: Sequence[BinaryIO], max_seconds: float, clip: Clip = WHOLE) -> None:
        self._files = files
        self._max_seconds = max_seconds
        self._clip = clip
        self._first = math.floor(clip.start_seconds * RATE)
        self._last = math.inf if clip.end_seconds is None else math.ceil(clip.end_seconds * RATE)
        self._position = 0  # samples of the recording so far
        self._samples = 0  # written, of each channel
        self._channels = 1
        self.silent = True  # digitally, in all channels

    @property
    def seconds(self) -> float:
        """Position in the recording."""
        return self._position / RATE

    @property
    def room_seconds(self) -> float:
        """How much more can be written of each channel."""
        return self._max_seconds / self._channels - self._samples / RATE

    @property
    def ends_before_clip(self) -> bool:
        return self._position > 0 and not self._samples

    @property
    def complete(self) -> bool:
        """Whether the whole clip is written, so that the rest of the recording is not needed."""
        return self._position >= self._last

    @property
    def clip_seconds(self) -> float:
        """Position in the recording at which the clip begins."""
        return self._clip.start_seconds

    def advance(self, seconds: float) -> None:
        """Continue at this position of the recording, which is before the clip; do nothing if it is not ahead."""
        self._position = max(self._position, min(round(seconds * RATE), self._first))

    def require_room(self, channels: int) -> None:
        """Raise TooManyChannels if there are more channels than files."""
        if channels > len(self._files):
            message = f"the audio has {channels} channels; at most {len(self._files)} can be split"
            raise TooManyChannels(f'{message}: set options.channels to "mix"')

    def append(self, frame: av.AudioFrame) -> None:
        """Append a frame of packed float32. (Not planar, because PyAV miscounts the planes of 8 channels.)"""
        channels = frame.layout.nb_channels
        start, end = self._overlap(frame.samples)
        if start == end:
            return
        self._channels = max(self._channels, channels)
        self._grow(end - start)
        sample_bytes = channels * SAMPLE_BYTES
        content = _sanitize(memoryview(frame.planes[0])[start * sample_bytes : end * sample_bytes])
        self.silent = self.silent and not _top_bytes(content).translate(None, SILENT_BYTES)
        sound = content.cast("f")
        for index, file in enumerate(self._files):
            if index < channels:
                file.write(sound[index::channels].tobytes())
            else:
                _skip(file, end - start)

    def append_silence(self, samples: int) -> None:
        start, end = self._overlap(samples)
        self._grow(end - start)
        for file in self._files:
            _skip(file, end - start)

    def _overlap(self, samples: int) -> tuple[int, int]:
        """Advance by these samples. Return the range of them that belongs to the clip."""
        before = self._position
        self._position += samples
        start, end = (int(min(max(bound - before, 0), samples)) for bound in (self._first, self._last))
        return start, end

    def restart(self) -> None:
        """Forget everything that was appended."""
        self._position, self._samples, self._channels, self.silent = 0, 0, 1, True
        for file in self._files:
            file.seek(0)
            file.truncate()

    def finish(self) -> None:
        """Flush the files. Files without a channel stay empty.

        Raises MediaUnreadable if no audio was decoded, ClipOutOfRange if the recording ends before the clip begins.
        """
        if self.ends_before_clip:
            raise ClipOutOfRange(
                f"input.start_seconds is {self._clip.start_seconds:g}, but the recording ends at {self.seconds:.1f} s"
            )
        if not self._samples:
            raise MediaUnreadable("the file has an audio stream, but no audio can be decoded from it")
        for file in self._files[: self._channels]:
            file.flush()
            file.truncate(self._samples * SAMPLE_BYTES)

    def _grow(self, samples: int) -> None:
        # The duration declared by a container is often wrong, so only decoded audio counts against the limit. Every
        # channel counts, because each takes as much disk space and transcription time as a recording.
        self._samples += samples
        if self._samples * self._channels > self._max_seconds * RATE:
            long = (
                f"the recording's {self._channels} channels together are" if self._channels > 1 else "the recording is"
            )
            raise MediaTooLong(f"{long} longer than the limit of {self._max_seconds:g} s")


def _sanitize(sound: memoryview) -> memoryview:
    if not _top_bytes(sound).translate(None, SOUND_BYTES):
        return sound
    # Rare: NaN, infinity or extreme amplitudes, usually from a float WAV. The models cannot handle them.
    tame = (max(-2.0, min(2.0, sample)) if math.isfinite(sample) else 0.0 for sample in sound.cast("f"))
    return memoryview(array("f", tame)).cast("B")


def _top_bytes(sound: memoryview) -> bytes:
    """Return the top byte of each float32."""
    return sound[SAMPLE_BYTES - 1 :: SAMPLE_BYTES].tobytes()


def _skip(file: BinaryIO, samples: int) -> None:
    file.seek(samples * SAMPLE_BYTES, os.SEEK_CUR)  # a hole in the file: reads as zeros and uses no disk space


class Resampler:
    """Convert frames of one sample rate, format and layout to 16 kHz, mixed or split, and append them to a waveform."""

    def __init__(self, frame: av.AudioFrame, waveform: Waveform, split: bool, mix: Mix, meter: Meter) -> None:
        self._waveform = waveform
        self._meter = meter
        self.kind = frame_format(frame)
        self._graph = graph = Graph()
        graph.threads = 1
        rate, sample_format, layout = self.kind
        if rate < MIN_SOURCE_RATE:
            raise MediaUnreadable(f"the audio has {rate} samples a second; speech needs at least {MIN_SOURCE_RATE}")
        channels = frame.layout.nb_channels
        if split:
            waveform.require_room(channels)
        steps = [graph.add("abuffer", sample_rate=str(rate), sample_fmt=sample_format, channel_layout=layout)]
        if mix.scale != 1.0:
            steps.append(graph.add("aformat", sample_fmts="flt"))
            steps.append(graph.add("volume", f"volume={mix.scale:.9f}:precision=float"))
        if not split and mix.pan and channels == mix.channels:
            steps.append(graph.add("pan", mix.pan))
        elif not split and channels > 2 and layout == f"{channels} channels":
            # A recorder with n microphones, not surround sound: a guessed layout would drop the "subwoofer" channel.
            steps.append(graph.add("pan", "mono|c0<" + "+".join(f"c{index}" for index in range(channels))))
        # For float output, FFmpeg sums channels without scaling; maxval 1 makes it scale as for integers.
        steps.append(graph.add("aresample", rematrix_maxval="1"))
        layouts = layout if split else "mono"
        steps.append(graph.add("aformat", sample_fmts="flt", sample_rates=str(RATE), channel_layouts=layouts))
        graph.link_nodes(*steps, graph.add("abuffersink")).configure()

    def push(self, frame: av.AudioFrame | None) -> None:
        """Push a frame and append the output that is ready. None flushes and ends the resampler."""
        self._graph.push(frame)
        with suppress(av.error.BlockingIOError, av.error.EOFError):  # no output is ready, or the stream has ended
            while isinstance(ready := self._graph.pull(), av.AudioFrame):
                self._meter.measure_mix(memoryview(ready.planes[0])[: ready.samples * SAMPLE_BYTES].cast("f"))
                self._waveform.append(ready)


def frame_format(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name
