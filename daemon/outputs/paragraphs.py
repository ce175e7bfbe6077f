"""Split the text into paragraphs: one per speaker turn or, without diarization, between pauses."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

from daemon.outputs.text import (
    RIGHT_TO_LEFT_MARK,
    clean,
    join,
    reads_right_to_left,
    starts_left_to_right,
    written_language,
)
from daemon.schema.transcript import Segment, Transcript

PARAGRAPH_PAUSE_SECONDS = 2.0
UNKNOWN_SPEAKER = "UNKNOWN"  # for segments that diarization assigned to no speaker


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One line of cleaned text, with the speaker's cleaned name, or None in a transcript without speakers.

    `mark` goes before both: a direction mark if the line reads right to left but starts with a Latin letter, else empty.
    """

    speaker: str | None
    text: str
    mark: str = ""


def is_diarized(transcript: Transcript) -> bool:
    return any(segment.speaker or any(word.speaker for word in segment.words) for segment in transcript.segments)


def paragraphs(transcript: Transcript) -> list[Paragraph]:
    """Return the transcript's paragraphs; empty if it has no text."""
    spoken = [segment for segment in transcript.segments if clean(segment.text)]
    if is_diarized(transcript):
        turns = groupby(spoken, key=lambda segment: segment.speaker)
        return [_paragraph(transcript, speaker_name(speaker), turn) for speaker, turn in turns]
    return [_paragraph(transcript, None, part) for part in _between_pauses(spoken)]


def speaker_name(speaker: str | None) -> str:
    return clean(speaker or "") or UNKNOWN_SPEAKER


def _paragraph(transcript: Transcript, speaker: str | None, segments: Iterable[Segment]) -> Paragraph:
    texts = [(clean(segment.text), written_language(transcript, segment)) for segment in segments]
    text = join(texts)
    marked = reads_right_to_left(*texts[0]) and starts_left_to_right((speaker or "") + text)
    return Paragraph(speaker, text, RIGHT_TO_LEFT_MARK if marked else "")


def _between_pauses(segments: list[Segment]) -> list[list[Segment]]:
    parts = [segments[:1]] if segments else []
    for previous, segment in pairwise(segments):
        if segment.start - previous.end >= PARAGRAPH_PAUSE_SECONDS:
            parts.append([])
        parts[-1].append(segment)
    return parts
