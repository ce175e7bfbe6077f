"""A transcript against what is known of its recording, for every peer alike. docs/accuracy.md says what is measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from bench.corpus import Recording
from daemon.pipeline.pieces import Chunk, Turn
from daemon.pipeline.words import spread
from daemon.transcript import Transcript
from tests.measures import diarization_error_rate, speaker_word_error_rate, start_errors, tokens, word_error_rate


class Segment(NamedTuple):
    start: float
    end: float
    text: str
    speaker: str | None


@dataclass(frozen=True, slots=True)
class Heard:
    segments: list[Segment]
    words: list[tuple[str, float]]  # each with its start

    @classmethod
    def of_daemon(cls, transcript: Transcript) -> "Heard":
        return cls(
            [Segment(s.start, s.end, s.text, s.speaker) for s in transcript.segments],
            [(word.word, word.start) for segment in transcript.segments for word in segment.words],
        )

    @classmethod
    def of_whisperx(cls, segments: Iterable[Any]) -> "Heard":
        """Segments as whisperx has them. Without a wav2vec2 model whisperx has no word times: they are spread over the segment by the words' lengths."""
        found = [Segment(s["start"], s["end"], s["text"], s.get("speaker")) for s in segments]
        words = [
            word for s in found for word in spread(s.text, "en", Chunk(s.start, s.end, regions=((s.start, s.end),)))
        ]
        return cls(found, [(word.text, word.start) for word in words])

    @property
    def made_up(self) -> int:
        """Words, of a recording in which nothing is said."""
        return len(tokens(" ".join(segment.text for segment in self.segments)))


@dataclass(frozen=True, slots=True)
class Scores:
    wer: float
    speaker_wer: float
    der: float
    starts_off_seconds: float  # median distance of the sentences' starts; of those whose first word was recognised

    @classmethod
    def of(cls, recording: Recording, heard: Heard) -> "Scores":
        errors = [abs(error) for error in start_errors(recording.sentences, heard.words) if error is not None]
        return cls(
            wer=word_error_rate([recording.text], [" ".join(segment.text for segment in heard.segments)]),
            speaker_wer=speaker_word_error_rate(
                [(sentence.speaker, sentence.text) for sentence in recording.sentences],
                [(segment.speaker, segment.text) for segment in heard.segments],
            ),
            der=turns_error(recording, (Turn(s.start, s.end, s.speaker) for s in heard.segments if s.speaker)),
            starts_off_seconds=median(errors) if errors else float("inf"),
        )


def turns_error(recording: Recording, turns: Iterable[Turn]) -> float:
    return diarization_error_rate(recording.turns, turns, recording.duration)
