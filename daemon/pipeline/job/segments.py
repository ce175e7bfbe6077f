"""Split the passages, of up to 30 s, into segments: sentences with one speaker each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from daemon.pipeline.diarization.speakers import Timeline, in_order_of_appearance, label_words, majority
from daemon.pipeline.job.units import MAX_PAUSE_SECONDS, units
from daemon.pipeline.types import Passage, TimedWord
from daemon.schema import transcript
from daemon.schema.punctuation import ends_sentence

# A speaker change inside a sentence counts only if each side has this many words, and lasts this long: turn boundaries are
# off by a word or two, and a sentence split at the wrong word reads worse than one word attributed to the wrong speaker.
MIN_SIDE_WORDS = 3
MIN_SIDE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Sentence:
    words: list[TimedWord]
    avg_logprob: float | None
    language: str

    @property
    def text(self) -> str:
        return "".join(word.text for word in self.words).strip()


def sentences(passages: Sequence[Passage], timeline: Timeline | None) -> list[Sentence]:
    """Split the passages' words, keeping all of them, at sentence ends, long pauses and speaker changes."""
    found = []
    for passage in passages:
        words = _labelled(passage, timeline) if timeline else passage.words
        for sentence in _split_text(words):
            found += [Sentence(part, passage.avg_logprob, passage.language) for part in _split_speakers(sentence)]
    return found


def build_segments(parts: Sequence[Sentence], with_words: bool) -> tuple[list[transcript.Segment], dict[str, str]]:
    """Build the transcript's segments, and map each speaker's label to its public name in order of appearance."""
    speakers = [majority(part.words) for part in parts]
    labels = (label for part, speaker in zip(parts, speakers, strict=True) for label in _labels(part, speaker))
    names = in_order_of_appearance(labels if with_words else speakers)
    segments = [
        transcript.Segment(
            start=part.words[0].start,
            end=part.words[-1].end,
            text=part.text,
            speaker=names.get(speaker) if speaker else None,
            overlap=_any(word.overlap for word in part.words),
            confidence=confidence(part),
            language=part.language,
            avg_logprob=part.avg_logprob,
            words=[
                transcript.Word(
                    word=word.text.strip(),
                    start=word.start,
                    end=word.end,
                    score=word.score,
                    speaker=names.get(word.speaker) if word.speaker else None,
                    overlap=word.overlap,
                )
                for word in part.words
            ]
            if with_words
            else [],
        )
        for part, speaker in zip(parts, speakers, strict=True)
    ]
    return segments, names


def confidence(part: Sentence) -> float | None:
    """Compute the text's confidence: the mean of the word scores, weighted by duration.

    Short words are often correct despite a low score. Without scores, use Whisper's mean log-probability, which is the
    same for all sentences of a passage.
    """
    scored = [(word.score, max(word.end - word.start, 0.001)) for word in part.words if word.score is not None]
    if scored:
        mean = sum(score * seconds for score, seconds in scored) / sum(seconds for _, seconds in scored)
        return min(mean, 1.0)  # rounding may exceed 1
    return None if part.avg_logprob is None else math.exp(min(part.avg_logprob, 0.0))


def _any(flags: Iterable[bool | None]) -> bool | None:
    """Whether any known flag is true; None if none is known."""
    known = [flag for flag in flags if flag is not None]
    return any(known) if known else None


def _labels(part: Sentence, speaker: str | None) -> Iterator[str | None]:
    yield speaker
    for word in part.words:
        yield word.speaker


def _labelled(passage: Passage, timeline: Timeline) -> list[TimedWord]:
    """Label the words with their speakers. A pause inside a unit gives no part of it to another speaker."""
    labelled: list[TimedWord] = []
    for unit in units(passage.words, passage.language):
        words = label_words(unit, timeline)
        speaker = majority(words)
        labelled += [replace(word, speaker=speaker) for word in words]
    return labelled


def _without_flicker(words: list[TimedWord]) -> list[TimedWord]:
    """Give a moment of another speaker inside a sentence to the speaker around it: no one says a word so fast."""
    runs = [list(run) for _, run in groupby(words, key=lambda word: word.speaker)]
    for before, run, after in zip(runs, runs[1:], runs[2:], strict=False):
        if before[-1].speaker == after[0].speaker and run[-1].end - run[0].start < MIN_SIDE_SECONDS:
            run[:] = [replace(word, speaker=before[-1].speaker) for word in run]
    return [word for run in runs for word in run]


def _split_text(words: Sequence[TimedWord]) -> Iterator[list[TimedWord]]:
    current: list[TimedWord] = []
    for word in words:
        if current and (ends_sentence(current[-1].text) or word.start - current[-1].end > MAX_PAUSE_SECONDS):
            yield current
            current = []
        current.append(word)
    if current:
        yield current


def _split_speakers(words: list[TimedWord]) -> Iterator[list[TimedWord]]:
    """Cut at speaker changes. A run too short to count stays with the words around it."""
    runs = [list(run) for _, run in groupby(_without_flicker(words), key=lambda word: word.speaker)]
    parts: list[tuple[str | None, list[TimedWord]]] = []
    for run in runs:
        speaker = run[0].speaker
        if parts and (_is_brief(run) or speaker == parts[-1][0]):
            parts[-1][1].extend(run)
        elif parts and _is_brief(parts[-1][1]):
            parts[-1] = (speaker, parts[-1][1] + run)
        else:
            parts.append((speaker, list(run)))
    for _, part in parts:
        yield part


def _is_brief(run: Sequence[TimedWord]) -> bool:
    return len(run) < MIN_SIDE_WORDS or run[-1].end - run[0].start < MIN_SIDE_SECONDS
