"""The running text in paragraphs: one for each turn of a speaker, or between pauses where nobody is named."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

from daemon.outputs.text import clean, is_spaced
from daemon.transcript import Segment, Transcript

PARAGRAPH_PAUSE_SECONDS = 2.0
UNKNOWN_SPEAKER = "UNKNOWN"  # for what diarization could give to nobody


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One line of clean text; the speaker's name, clean as well, or None in a transcript without speakers."""

    speaker: str | None
    text: str


def is_diarized(transcript: Transcript) -> bool:
    return any(segment.speaker or any(word.speaker for word in segment.words) for segment in transcript.segments)


def paragraphs(transcript: Transcript) -> list[Paragraph]:
    """All that was said; empty when nothing was."""
    spoken = [segment for segment in transcript.segments if clean(segment.text)]
    space = " " if is_spaced(transcript) else ""
    if is_diarized(transcript):
        turns = groupby(spoken, key=lambda segment: segment.speaker)
        return [Paragraph(speaker_name(speaker), _join(turn, space)) for speaker, turn in turns]
    return [Paragraph(None, _join(part, space)) for part in _between_pauses(spoken)]


def speaker_name(speaker: str | None) -> str:
    return clean(speaker or "") or UNKNOWN_SPEAKER


def _join(segments: Iterable[Segment], space: str) -> str:
    return space.join(clean(segment.text) for segment in segments)


def _between_pauses(segments: list[Segment]) -> list[list[Segment]]:
    parts = [segments[:1]] if segments else []
    for previous, segment in pairwise(segments):
        if segment.start - previous.end >= PARAGRAPH_PAUSE_SECONDS:
            parts.append([])
        parts[-1].append(segment)
    return parts
