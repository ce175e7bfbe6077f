"""How wrong a transcript is: its words, its speakers, its times. Pure functions; all times are seconds."""

from collections.abc import Iterable, Sequence

import jiwer
import numpy as np
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from scipy.optimize import linear_sum_assignment
from whisper_normalizer.english import EnglishTextNormalizer

from daemon.pipeline.pieces import Turn
from tests.reference import Sentence

Utterance = tuple[str | None, str]  # speaker, text

_normalize = EnglishTextNormalizer()


def tokens(text: str) -> list[str]:
    """The words of a text after Whisper's English normalization: lower case, no marks, `don't` as `do not`."""
    return str(_normalize(text)).split()


def word_error_rate(reference: Sequence[str], heard: Sequence[str]) -> float:
    """Substitutions, deletions and insertions by the words of the reference; text by text, then all of them together."""
    return float(jiwer.wer([" ".join(tokens(text)) for text in reference], [" ".join(tokens(text)) for text in heard]))


def speaker_word_error_rate(reference: Iterable[Utterance], heard: Iterable[Utterance]) -> float:
    """The word error rate of each speaker's words, under the likeliest pairing of speakers (cpWER).

    A word that goes to the wrong speaker counts twice: missing there, too many here. What no speaker was given is as if
    said by one more. Watanabe et al. 2020, CHiME-6, arXiv:2004.09249.
    """
    said, found = _words_by_speaker(reference), _words_by_speaker(heard)
    count = max(len(said), len(found))
    said += [[]] * (count - len(said))
    found += [[]] * (count - len(found))
    errors = np.array([[_errors(of_one, words) for words in found] for of_one in said])
    return float(errors[linear_sum_assignment(errors)].sum() / sum(map(len, said)))


def diarization_error_rate(reference: Iterable[Turn], found: Iterable[Turn], duration: float) -> float:
    """DER without a collar, overlapped speech included: the strictest reading."""
    metric = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    return float(metric(_annotation(reference), _annotation(found), uem=Timeline([Segment(0.0, duration)])))


def start_errors(sentences: Sequence[Sentence], words: Iterable[tuple[str, float]]) -> list[float | None]:
    """For each sentence, how late (positive) its first word is said to begin; None where that word was not recognised.

    `words` are those heard, each with its start. They are matched by the alignment that the word error rate is counted
    on. Only a first word that was recognised counts: for one that was not, it is arbitrary which word stands in its
    place, and the word error rate has it already.
    """
    heard = [(token, start) for word, start in words for token in tokens(word)]
    said = [
        (token, index == 0, sentence.start)
        for sentence in sentences
        for index, token in enumerate(tokens(sentence.text))
    ]
    if not heard:
        return [None for _, is_first, _ in said if is_first]
    alignment = jiwer.process_words(" ".join(t[0] for t in said), " ".join(t[0] for t in heard)).alignments[0]
    matched = {
        chunk.ref_start_idx + offset: heard[chunk.hyp_start_idx + offset][1]
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


def _errors(reference: Sequence[str], heard: Sequence[str]) -> int:
    if not reference or not heard:
        return len(reference) + len(heard)
    found = jiwer.process_words(" ".join(reference), " ".join(heard))
    return int(found.substitutions + found.deletions + found.insertions)


def _annotation(turns: Iterable[Turn]) -> Annotation:
    result = Annotation()
    for track, turn in enumerate(turns):
        result[Segment(turn.start, turn.end), track] = turn.speaker
    return result
