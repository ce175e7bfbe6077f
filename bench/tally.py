"""Errors of a peer, counted so that recordings can be added up."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Self

import numpy as np

from bench.corpus import Recording
from bench.hypothesis import Hypothesis
from bench.measures import diarization_errors, speaker_word_errors, start_errors, tokens, word_errors


class _Addable:
    """A dataclass whose sum is field by field; a field that one of both does not have is None in the sum."""

    __slots__ = ()

    def __add__(self, other: Self) -> Self:
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}  # type: ignore[arg-type]
        return type(self)(
            **{name: None if one is None or two is None else one + two for name, (one, two) in pairs.items()}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WordTally(_Addable):
    words: int = 0  # in the reference
    substituted: int = 0
    lost: int = 0
    invented: int = 0
    # Distances between a recognized first word of a sentence and its reference; None if the peer has no word times.
    start_errors_seconds: tuple[float, ...] | None = None

    @classmethod
    def of(cls, recording: Recording, hypothesis: Hypothesis, *, times_words: bool) -> Self:
        language = recording.language or "en"
        found = word_errors(recording.text, hypothesis.text, language)
        starts = None
        if times_words:
            errors = start_errors(recording.sentences, hypothesis.words, language)
            starts = tuple(abs(error) for error in errors if error is not None)
        return cls(
            words=found.words,
            substituted=found.substituted,
            lost=found.lost,
            invented=found.invented,
            start_errors_seconds=starts,
        )

    @property
    def error_rate(self) -> float | None:
        return (self.substituted + self.lost + self.invented) / self.words if self.words else None

    def start_error(self, percentile: float) -> float | None:
        """Return a percentile of the start errors in seconds; None if there are none."""
        return float(np.percentile(self.start_errors_seconds, percentile)) if self.start_errors_seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerTally(_Addable):
    wrong_seconds: float  # of the transcript's segments
    spoken_seconds: float
    diarization_wrong_seconds: float | None  # before speakers are assigned to words, if the peer returns it
    word_errors: int  # speaker by speaker
    words: int  # in the reference, 0 if its text is unknown
    recordings: int
    right_counts: int  # recordings with the right number of speakers

    @classmethod
    def of(cls, recording: Recording, hypothesis: Hypothesis) -> Self:
        segments = diarization_errors(recording.turns, hypothesis.segment_turns(), recording.duration)
        said = [(sentence.speaker, sentence.text) for sentence in recording.sentences]
        found = [(segment.speaker, segment.text) for segment in hypothesis.segments]
        speakers = {turn.speaker for turn in recording.turns}
        return cls(
            wrong_seconds=segments.wrong_seconds,
            spoken_seconds=segments.spoken_seconds,
            diarization_wrong_seconds=None
            if hypothesis.turns is None
            else diarization_errors(recording.turns, hypothesis.turns, recording.duration).wrong_seconds,
            word_errors=speaker_word_errors(said, found) if said else 0,
            words=len(tokens(recording.text)),
            recordings=1,
            right_counts=int(len(hypothesis.speakers) == len(speakers)),
        )

    @property
    def der(self) -> float:
        return self.wrong_seconds / self.spoken_seconds

    @property
    def diarization_der(self) -> float | None:
        return None if self.diarization_wrong_seconds is None else self.diarization_wrong_seconds / self.spoken_seconds

    @property
    def word_error_rate(self) -> float | None:
        """Return cpWER; None if the text is unknown."""
        return self.word_errors / self.words if self.words else None


@dataclass(frozen=True, slots=True)
class Tally(_Addable):
    words: WordTally | None  # None if the text is unknown
    speakers: SpeakerTally | None  # None if the peer gives no speakers, or they are not measured on the recording


def total(tallies: Iterable[Tally]) -> Tally:
    return reduce(add, tallies)
