"""What is said in the sample call of pyannote.audio, and who says it: the text and speaker files beside the recording."""

from typing import NamedTuple

from daemon.pipeline.pieces import Turn
from tests.integration.pipeline_fixture import sample_file


class Sentence(NamedTuple):
    start: float  # seconds
    text: str
    speaker: str


def reference_sentences() -> list[Sentence]:
    """From the STM file: recording, channel, speaker, start, end, text."""
    lines = (line.split(maxsplit=5) for line in sample_file("sample.stm").read_text().splitlines())
    return [Sentence(float(start), text, speaker) for _, _, speaker, start, _, text in lines]


def reference_turns() -> list[Turn]:
    """From the RTTM file: SPEAKER, recording, channel, start, duration, -, -, speaker, -, -."""
    lines = (line.split() for line in sample_file("sample.rttm").read_text().splitlines())
    return [Turn(float(f[3]), float(f[3]) + float(f[4]), f[7]) for f in lines]
