"""Diarize a recording again: the words and times of an earlier transcript, with new speakers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.diarization.speakers import Timeline, overlapped, unmet_bound
from daemon.pipeline.job.diarization import diarize
from daemon.pipeline.job.segments import Sentence, build_segments, sentences
from daemon.pipeline.runtime.fallback import FallbackPolicy
from daemon.pipeline.runtime.reporter import Reporter
from daemon.pipeline.runtime.work import JobWork, StageTimer
from daemon.pipeline.stages import Stages
from daemon.pipeline.types import Chunk, Diarization, Passage, TimedWord
from daemon.schema.catalog import UNSPACED_LANGUAGES
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Segment, Transcript


def diarize_again(
    stages: Stages,
    job_id: str,
    audio: np.ndarray,
    earlier: Transcript,
    options: JobOptions,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> Transcript:
    """Return the transcript with the speakers of a new diarization. If that fails, the earlier ones stay, with a warning."""
    timer, fallback = StageTimer(reporter), FallbackPolicy()
    work = JobWork(audio, options, checkpoints, timer, fallback)
    diarized = diarize(stages, work, None, "the speakers are those of the earlier job")
    kept = [warning for warning in earlier.warnings if warning.stage != "diarize"]
    changes: dict[str, object] = {"speaker_embeddings": None}
    if diarized is None:
        kept = earlier.warnings
    else:
        segments, names = relabelled(earlier, _in_recording(diarized, earlier.start_seconds))
        if unmet := unmet_bound(options, len(names)):
            fallback.warn("speaker_bounds_unmet", "diarize", unmet)
        voices = {name: diarized.voices[label] for label, name in names.items() if label in diarized.voices}
        changes = {
            "segments": segments,
            "speakers": list(names.values()),
            "speaker_embeddings": voices if options.speaker_embeddings else None,
            "models": earlier.models.model_copy(update={"diarization": stages.diarizer.name}),
        }
    return earlier.model_copy(
        update={
            **changes,
            "job_id": job_id,
            "timings_seconds": timer.seconds(),
            "warnings": [*kept, *fallback.warnings()],
        }
    )


def _in_recording(diarized: Diarization, start_seconds: float) -> Timeline:
    """Return the turns with the times of the recording, of which the audio may be a part. The words have these times."""
    turns, exclusive = (
        [replace(turn, start=turn.start + start_seconds, end=turn.end + start_seconds) for turn in each]
        for each in (diarized.turns, diarized.exclusive)
    )
    return Timeline(exclusive, overlapped(turns))


def relabelled(earlier: Transcript, timeline: Timeline) -> tuple[list[Segment], dict[str, str]]:
    """Divide the words into segments by the new speakers, and map each speaker's label to its public name."""
    parts: list[Sentence] = []
    wordless: dict[int, Segment] = {}  # by the index of its sentence
    for passage in _passages(earlier.segments):
        if passage[0].words:
            parts += sentences([_as_passage(passage, earlier.task)], timeline)
        else:  # there are no word times, so the segment cannot be divided
            wordless[len(parts)] = passage[0]
            parts.append(_as_sentence(passage[0], timeline))
    segments, names = build_segments(parts, with_words=True)
    for index, segment in wordless.items():
        segments[index] = segments[index].model_copy(update={"words": [], "text": segment.text})
    # Computed again from rounded scores, the confidence of the same words could differ in its last digit.
    known = {_span(segment): segment.confidence for segment in earlier.segments}
    kept = [each.model_copy(update={"confidence": known.get(_span(each), each.confidence)}) for each in segments]
    return kept, names


def _span(segment: Segment) -> tuple[float, float, str]:
    return segment.start, segment.end, segment.text


def _passages(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Group the segments of one passage, which have its mean log-probability, so that a sentence cut between speakers is whole again."""

    def key(numbered: tuple[int, Segment]) -> tuple[object, ...]:
        number, segment = numbered
        alone = number if not segment.words or segment.avg_logprob is None else None
        return alone, segment.language, segment.avg_logprob

    for _, group in groupby(enumerate(segments), key=key):
        yield [segment for _, segment in group]


def _as_passage(segments: Sequence[Segment], task: str) -> Passage:
    first, last = segments[0], segments[-1]
    words = list(_timed_words(segments, spaced=task == "translate" or first.language not in UNSPACED_LANGUAGES))
    return Passage(
        chunk=Chunk(first.start, last.end, ((first.start, last.end),)),
        text="".join(word.text for word in words),
        avg_logprob=first.avg_logprob,
        language=first.language,
        words=words,
    )


def _timed_words(segments: Iterable[Segment], *, spaced: bool) -> Iterator[TimedWord]:
    """Yield the words with the spaces that the text has before them."""
    for segment in segments:
        cursor = 0
        for number, word in enumerate(segment.words):
            at = segment.text.find(word.word, cursor)
            gap = at > cursor if at >= 0 else spaced
            cursor = at + len(word.word) if at >= 0 else cursor
            space = " " if (gap if number else spaced) else ""
            yield TimedWord(space + word.word, word.start, word.end, word.score)


def _as_sentence(segment: Segment, timeline: Timeline) -> Sentence:
    speaker = timeline.speaker(segment.start, segment.end)
    overlap = timeline.is_overlapped(segment.start, segment.end)
    whole = TimedWord(segment.text, segment.start, segment.end, None, speaker, overlap)
    return Sentence([whole], segment.avg_logprob, segment.language)
