"""Error measures of a transcript: words, speakers, times. Pure functions; all times are in seconds."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jiwer
import numpy as np
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.optimize import linear_sum_assignment
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from bench.reference import Sentence
from daemon.pipeline.types import Turn

Utterance = tuple[str | None, str]  # speaker, text

_normalize_english = EnglishTextNormalizer()
_normalize_other = BasicTextNormalizer()


class WordErrors(NamedTuple):
    words: int  # in the reference
    substituted: int
    lost: int  # words of the reference without a counterpart
    invented: int  # recognized words without a counterpart


class DiarizationErrors(NamedTuple):
    wrong_seconds: float  # with the wrong speaker, with none, or with one in silence
    spoken_seconds: float


def tokens(text: str, language: str | None = "en") -> list[str]:
    """Return the words of a text after Whisper's normalization: lower case, no punctuation; for English, also `don't`
    as `do not` and one spelling."""
    normalize = _normalize_english if language in ("en", None) else _normalize_other
    return str(normalize(text)).split()


def word_errors(reference: str, hypothesis: str, language: str | None = "en") -> WordErrors:
    """Count the errors of the alignment with the fewest errors."""
    return _word_errors(tokens(reference, language), tokens(hypothesis, language))


def word_error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Return substitutions, deletions and insertions divided by the words of the reference, aligned text by text."""
    return float(
        jiwer.wer([" ".join(tokens(text)) for text in reference], [" ".join(tokens(text)) for text in hypothesis])
    )


def speaker_word_error_rate(reference: Sequence[Utterance], hypothesis: Iterable[Utterance]) -> float:
    """Return the word error rate of each speaker's words under the best pairing of speakers (cpWER)."""
    return speaker_word_errors(reference, hypothesis) / sum(len(tokens(text)) for _, text in reference)


def speaker_word_errors(reference: Iterable[Utterance], hypothesis: Iterable[Utterance]) -> int:
    """Count the errors of each speaker's words under the best pairing of speakers, for cpWER.

    A word with the wrong speaker counts twice, as a deletion and an insertion. Words without a speaker count as those
    of one additional speaker. Watanabe et al. 2020, CHiME-6, arXiv:2004.09249.
    """
    said, found = _words_by_speaker(reference), _words_by_speaker(hypothesis)
    count = max(len(said), len(found))
    said += [[]] * (count - len(said))
    found += [[]] * (count - len(found))
    errors = np.array([[sum(_word_errors(of_one, words)[1:]) for words in found] for of_one in said])
    return int(errors[linear_sum_assignment(errors)].sum())


def diarization_error_rate(reference: Iterable[Turn], found: Iterable[Turn], duration: float) -> float:
    """Return the diarization error rate without a collar and with overlapping speech, the strictest variant."""
    errors = diarization_errors(reference, found, duration)
    return errors.wrong_seconds / errors.spoken_seconds


def diarization_errors(reference: Iterable[Turn], found: Iterable[Turn], duration: float) -> DiarizationErrors:
    """Return both parts of the diarization error rate, so that recordings can be added up."""
    metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    parts = metric(_annotation(reference), _annotation(found), uem=Timeline([Segment(0.0, duration)]), detailed=True)
    wrong = parts["confusion"] + parts["false alarm"] + parts["missed detection"]
    return DiarizationErrors(float(wrong), float(parts["total"]))


def start_errors(
    sentences: Sequence[Sentence], words: Iterable[tuple[str, float]], language: str | None = "en"
) -> list[float | None]:
    """Return for each sentence how late (positive) its first word starts; None if that word was not recognised.

    `words` are the recognised words with their starts, aligned as for the word error rate. Only recognised first words
    count: for a missing word the aligned one is arbitrary, and the word error rate already includes it.
    """
    hypothesis = [(token, start) for word, start in words for token in tokens(word, language)]
    said = [
        (token, index == 0, sentence.start)
        for sentence in sentences
        for index, token in enumerate(tokens(sentence.text, language))
    ]
    if not hypothesis:
        return [None for _, is_first, _ in said if is_first]
    alignment = jiwer.process_words(" ".join(t[0] for t in said), " ".join(t[0] for t in hypothesis)).alignments[0]
    matched = {
        chunk.ref_start_idx + offset: hypothesis[chunk.hyp_start_idx + offset][1]
        for chunk in alignment
        if chunk.type == "equal"
        for offset in range(chunk.ref_end_idx - chunk.ref_start_idx)
    }
    return [
        matched[position] - start if position in matched else None
        for position, (_, is_first, start) in enumerate(said)
        if is_first
    ]


def _words_by_speaker(utterances: Iterable[Utterance]) -> list[list[str]]:
    texts: dict[str | None, list[str]] = {}
    for speaker, text in utterances:
        texts.setdefault(speaker, []).append(text)
    return [tokens(" ".join(each)) for each in texts.values()]


def _word_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> WordErrors:
    if not reference or not hypothesis:
        return WordErrors(len(reference), 0, lost=len(reference), invented=len(hypothesis))
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return WordErrors(len(reference), found.substitutions, found.deletions, found.insertions)


def _annotation(turns: Iterable[Turn]) -> Annotation:
    result = Annotation()
    for track, turn in enumerate(turns):
        result[Segment(turn.start, turn.end), track] = turn.speaker
    return result
