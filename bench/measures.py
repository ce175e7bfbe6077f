"""Error measures of a transcript: words, speakers, times. Pure functions; all times are in seconds."""

from collections.abc import Iterable, Sequence

import jiwer
import numpy as np
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.optimize import linear_sum_assignment
from whisper_normalizer.english import EnglishTextNormalizer

from bench.reference import Sentence
from daemon.pipeline.types import Turn

Utterance = tuple[str | None, str]  # speaker, text

_normalize = EnglishTextNormalizer()


def tokens(text: str) -> list[str]:
    """Return the words of a text after Whisper's English normalization: lower case, no punctuation, `don't` as `do
    not`."""
    return str(_normalize(text)).split()


def word_error_rate(reference: Sequence[str], hypothesis: Sequence[str]) -> float:
    """Return substitutions, deletions and insertions divided by the words of the reference, aligned text by text."""
    return float(
        jiwer.wer([" ".join(tokens(text)) for text in reference], [" ".join(tokens(text)) for text in hypothesis])
    )


def speaker_word_error_rate(reference: Iterable[Utterance], hypothesis: Iterable[Utterance]) -> float:
    """Return the word error rate of each speaker's words under the best pairing of speakers (cpWER).

    A word with the wrong speaker counts twice, as a deletion and an insertion. Words without a speaker count as those
    of one additional speaker. Watanabe et al. 2020, CHiME-6, arXiv:2004.09249.
    """
    said, found = _words_by_speaker(reference), _words_by_speaker(hypothesis)
    count = max(len(said), len(found))
    said += [[]] * (count - len(said))
    found += [[]] * (count - len(found))
    errors = np.array([[_errors(of_one, words) for words in found] for of_one in said])
    return float(errors[linear_sum_assignment(errors)].sum() / sum(map(len, said)))


def diarization_error_rate(reference: Iterable[Turn], found: Iterable[Turn], duration: float) -> float:
    """Return the diarization error rate without a collar and with overlapping speech, the strictest variant."""
    metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    return float(metric(_annotation(reference), _annotation(found), uem=Timeline([Segment(0.0, duration)])))


def start_errors(sentences: Sequence[Sentence], words: Iterable[tuple[str, float]]) -> list[float | None]:
    """Return for each sentence how late (positive) its first word starts; None if that word was not recognised.

    `words` are the recognised words with their starts, aligned as for the word error rate. Only recognised first words
    count: for a missing word the aligned one is arbitrary, and the word error rate already includes it.
    """
    hypothesis = [(token, start) for word, start in words for token in tokens(word)]
    said = [
        (token, index == 0, sentence.start)
        for sentence in sentences
        for index, token in enumerate(tokens(sentence.text))
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


def _errors(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis)
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return int(found.substitutions + found.deletions + found.insertions)


def _annotation(turns: Iterable[Turn]) -> Annotation:
    result = Annotation()
    for track, turn in enumerate(turns):
        result[Segment(turn.start, turn.end), track] = turn.speaker
    return result
