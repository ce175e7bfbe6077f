"""The sample call of pyannote.audio: its audio, its text, and its speakers."""

import wave
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from daemon.demo.recordings import sample_call
from daemon.pipeline.types import Turn


class Sentence(NamedTuple):
    start: float  # seconds
    text: str
    speaker: str


@cache
def sample_audio() -> np.ndarray:
    """Return the 30 s call: float32, mono, 16 kHz, read-only like the runner's memory map."""
    with wave.open(str(sample_call())) as file:
        audio = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
    audio.setflags(write=False)
    return audio


def reference_sentences() -> list[Sentence]:
    """Read the STM file: recording, channel, speaker, start, end, text."""
    lines = (line.split(maxsplit=5) for line in sample_call().with_name("sample.stm").read_text().splitlines())
    return [Sentence(float(start), text, speaker) for _, _, speaker, start, _, text in lines]


def reference_turns() -> list[Turn]:
    return read_turns(sample_call().with_name("sample.rttm"))


def read_turns(file: Path) -> list[Turn]:
    """Read an RTTM file: SPEAKER, recording, channel, start, duration, -, -, speaker, -, -."""
    lines = (line.split() for line in file.read_text().splitlines())
    return [Turn(float(f[3]), float(f[3]) + float(f[4]), f[7]) for f in lines if f and f[0] == "SPEAKER"]
