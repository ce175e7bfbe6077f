"""Part of the decoder process: decoded frames of any kind become files of samples that the models read."""

import math
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import av
from av.filter import Graph

from daemon.errors import MediaTooLong, MediaUnreadable, TooManyChannels

RATE = 16_000  # Hz
SAMPLE_BYTES = 4  # float32

# The top byte of a float32 holds its sign and most of its exponent: these are the magnitudes below 2.
SOUND_BYTES = bytes(range(0x00, 0x40)) + bytes(range(0x80, 0xC0))


class Waveform:
    """The output: float32 samples at 16 kHz, finite, magnitude at most 2, bounded in number.

    A channel goes to each file, as many as the recording has. Where it has fewer than elsewhere, the others are silent.
    """

    def __init__(self, files: Sequence[BinaryIO], max_seconds: float) -> None:
        self._files = files
        self._max_seconds = max_seconds
        self._samples = 0  # of each channel
        self._channels = 1

    def require_room(self, channels: int) -> None:
        """Raises TooManyChannels."""
        if channels > len(self._files):
            message = f"the audio has {channels} channels; no more than {len(self._files)} can be split"
            raise TooManyChannels(f'{message}: let options.channels be "mix"')

    def append(self, frame: av.AudioFrame) -> None:
        """Append a frame of packed float32 (PyAV miscounts the planes of 8 planar channels)."""
        channels = frame.layout.nb_channels
        self._channels = max(self._channels, channels)
        self._grow(frame.samples)
        sound = _tame(memoryview(frame.planes[0])[: frame.samples * channels * SAMPLE_BYTES]).cast("f")
        for index, file in enumerate(self._files):
            if index < channels:
                file.write(sound[index::channels].tobytes())
            else:
                _skip(file, frame.samples)

    def append_silence(self, samples: int) -> None:
        self._grow(samples)
        for file in self._files:
            _skip(file, samples)

    def finish(self) -> None:
        """Raises MediaUnreadable when there was no sound. Files without a channel stay empty."""
        if not self._samples:
            raise MediaUnreadable("the file has an audio stream, but no sound can be decoded from it")
        for file in self._files[: self._channels]:
            file.flush()
            file.truncate(self._samples * SAMPLE_BYTES)

    def _grow(self, samples: int) -> None:
        # The duration that a container declares is often wrong: only decoded sound counts against the limit. So does
        # each channel, since each takes as much of the disk, and of the time to transcribe it, as a recording.
        self._samples += samples
        if self._samples * self._channels > self._max_seconds * RATE:
            long = (
                f"the recording's {self._channels} channels together are" if self._channels > 1 else "the recording is"
            )
            raise MediaTooLong(f"{long} longer than {self._max_seconds:g} s, the longest that is accepted")


def _tame(sound: memoryview) -> memoryview:
    if not sound[SAMPLE_BYTES - 1 :: SAMPLE_BYTES].tobytes().translate(None, SOUND_BYTES):
        return sound
    # Rare: NaN, infinity or absurd loudness, as a rule from a float WAV. Models downstream choke on them.
    tame = (max(-2.0, min(2.0, sample)) if math.isfinite(sample) else 0.0 for sample in sound.cast("f"))
    return memoryview(array("f", tame)).cast("B")


def _skip(file: BinaryIO, samples: int) -> None:
    file.seek(samples * SAMPLE_BYTES, os.SEEK_CUR)  # a hole in the file: reads as zeros, costs no disk


class Resampler:
    """Turns frames of one kind (sample rate, format and layout) into 16 kHz, mixed or not, appended to the waveform."""

    def __init__(self, frame: av.AudioFrame, waveform: Waveform, split: bool) -> None:
        self._waveform = waveform
        self.kind = kind_of(frame)
        self._graph = graph = Graph()
        graph.threads = 1
        rate, sample_format, layout = self.kind
        channels = frame.layout.nb_channels
        if split:
            waveform.require_room(channels)
        steps = [graph.add("abuffer", sample_rate=str(rate), sample_fmt=sample_format, channel_layout=layout)]
        if not split and channels > 2 and layout == f"{channels} channels":
            # A recorder with n microphones, not surround sound: guessing a layout would drop the "subwoofer".
            steps.append(graph.add("pan", "mono|c0<" + "+".join(f"c{index}" for index in range(channels))))
        # FFmpeg adds channels up without scaling when it puts out floats; maxval 1 scales, as it does for integers.
        steps.append(graph.add("aresample", rematrix_maxval="1"))
        layouts = layout if split else "mono"
        steps.append(graph.add("aformat", sample_fmts="flt", sample_rates=str(RATE), channel_layouts=layouts))
        graph.link_nodes(*steps, graph.add("abuffersink")).configure()

    def push(self, frame: av.AudioFrame | None) -> None:
        """Append what is ready after `frame`; None appends the rest and ends the resampler."""
        self._graph.push(frame)
        with suppress(av.error.BlockingIOError, av.error.EOFError):  # nothing more for now, nothing more at all
            while isinstance(ready := self._graph.pull(), av.AudioFrame):
                self._waveform.append(ready)


def kind_of(frame: av.AudioFrame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.format.name, frame.layout.name
