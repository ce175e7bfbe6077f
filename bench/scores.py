"""Score a transcript against the reference of its recording, in the same way for every peer. docs/accuracy.md explains
the measures."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from bench.corpus import Recording
from bench.measures import diarization_error_rate, speaker_word_error_rate, start_errors, tokens, word_error_rate
from daemon.pipeline.alignment.words import spread
from daemon.pipeline.types import Chunk, Turn
from daemon.schema.transcript import Transcript


class Segment(NamedTuple):
    start: float
    end: float
    text: str
    speaker: str | None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    segments: list[Segment]
    words: list[tuple[str, float]]  # each with its start

    @classmethod
    def of_daemon(cls, transcript: Transcript) -> "Hypothesis":
        return cls(
            [Segment(s.start, s.end, s.text, s.speaker) for s in transcript.segments],
            [(word.word, word.start) for segment in transcript.segments for word in segment.words],
        )

    @classmethod
    def of_whisperx(cls, segments: Iterable[Any]) -> "Hypothesis":
        """Convert whisperx's segments. Without a wav2vec2 model whisperx has no word times, so words are spread over
        the segment by length."""
        found = [Segment(s["start"], s["end"], s["text"], s.get("speaker")) for s in segments]
        words = [
            word for s in found for word in spread(s.text, "en", Chunk(s.start, s.end, regions=((s.start, s.end),)))
        ]
        return cls(found, [(word.text, word.start) for word in words])

    @property
    def made_up(self) -> int:
        """Number of hallucinated words in a recording without speech."""
        return len(tokens(" ".join(segment.text for segment in self.segments)))


@dataclass(frozen=True, slots=True)
class Scores:
    wer: float
    speaker_wer: float
    der: float
    # Median distance of the sentences' starts; only sentences whose first word was recognised.
    starts_off_seconds: float

    @classmethod
    def of(cls, recording: Recording, hypothesis: Hypothesis) -> "Scores":
        errors = [abs(error) for error in start_errors(recording.sentences, hypothesis.words) if error is not None]
        return cls(
            wer=word_error_rate([recording.text], [" ".join(segment.text for segment in hypothesis.segments)]),
            speaker_wer=speaker_word_error_rate(
                [(sentence.speaker, sentence.text) for sentence in recording.sentences],
                [(segment.speaker, segment.text) for segment in hypothesis.segments],
            ),
            der=turns_error(recording, (Turn(s.start, s.end, s.speaker) for s in hypothesis.segments if s.speaker)),
            starts_off_seconds=median(errors) if errors else float("inf"),
        )


def turns_error(recording: Recording, turns: Iterable[Turn]) -> float:
    return diarization_error_rate(recording.turns, turns, recording.duration)
