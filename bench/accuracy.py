"""How good a transcript of the sample call is: the measures of tests/measures.py, for every peer alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.pipeline.pieces import Turn
from tests.measures import diarization_error_rate, word_error_rate
from tests.reference import reference_sentences, reference_turns

DURATION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Accuracy:
    wer: float
    der: float | None  # None where the peer does not tell speakers


def accuracy(text: str, turns: Sequence[Turn] | None) -> Accuracy:
    """WER after Whisper's English normalization; DER without a collar, overlapped speech included."""
    reference = " ".join(sentence.text for sentence in reference_sentences())
    return Accuracy(
        wer=word_error_rate([reference], [text]),
        der=diarization_error_rate(reference_turns(), turns, DURATION_SECONDS) if turns is not None else None,
    )
