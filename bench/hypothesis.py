"""Transcripts of all peers in one form."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.corpus import Recording
from bench.measures import diarization_error_rate
from daemon.pipeline.types import Turn
from daemon.schema.transcript import Transcript


class Segment(NamedTuple):
    start: float
    end: float
    text: str
    speaker: str | None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    segments: list[Segment]
    words: list[tuple[str, float]]  # each with its start; empty if the peer gives no word times
    turns: list[Turn] | None = None  # of the diarization alone, if the peer tells speakers
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_daemon(cls, transcript: Transcript, turns: list[Turn] | None = None) -> "Hypothesis":
        return cls(
            [Segment(s.start, s.end, s.text, s.speaker) for s in transcript.segments],
            [(word.word, word.start) for segment in transcript.segments for word in segment.words],
            turns,
            warnings=tuple(warning.message for warning in transcript.warnings),
        )

    @classmethod
    def of_library(cls, segments: Iterable[Any], turns: list[Turn] | None = None) -> "Hypothesis":
        """Convert segments in the form of whisperx: text, start, end, and speaker and words if the peer gives them."""
        found = list(segments)
        return cls(
            [Segment(s["start"], s["end"], s["text"], s.get("speaker")) for s in found],
            [(word["word"], word["start"]) for s in found for word in s.get("words", ())],
            turns,
        )

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def speakers(self) -> set[str]:
        named = self.turns if self.turns is not None else self.segments
        return {each.speaker for each in named if each.speaker is not None}

    def segment_turns(self) -> list[Turn]:
        return [Turn(s.start, s.end, s.speaker) for s in self.segments if s.speaker]


def turns_error(recording: Recording, turns: Iterable[Turn]) -> float:
    return diarization_error_rate(recording.turns, turns, recording.duration)
