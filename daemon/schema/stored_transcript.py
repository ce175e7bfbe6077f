"""Reads a stored transcript.json, which is untrusted: anyone with write access to the bucket may have replaced it. Pure."""

import math
from collections.abc import Iterator

from pydantic import ValidationError

from daemon.errors import TranscriptUnavailable
from daemon.schema.transcript import Segment, Transcript, Word

MAX_TRANSCRIPT_BYTES = 64 * 1024 * 1024  # a day of speech has less
# Far more than a pipeline writes: a segment is a sentence of one speaker, which subtitles lay out as a whole.
MAX_SEGMENT_WORDS = 2_000
MAX_SEGMENT_CHARACTERS = 20_000
MAX_LABEL_CHARACTERS = 100
MAX_SPEAKERS = 1_000
MAX_SECONDS = 10_000_000.0


def parse_transcript(body: bytes, where: str) -> Transcript:
    """Return the transcript. Raises TranscriptUnavailable, which says what is wrong with the file at `where`."""
    if len(body) > MAX_TRANSCRIPT_BYTES:
        raise TranscriptUnavailable(f"{where} is larger than {MAX_TRANSCRIPT_BYTES} bytes, so it is no transcript")
    try:
        # Readers of the contract ignore unknown keys, and a later release may have written it.
        found = Transcript.model_validate_json(body, extra="ignore")
    except ValidationError as error:  # its message would quote the content
        problem = f"{error.error_count()} fields are missing or wrong"
        raise TranscriptUnavailable(
            f"{where} is not a transcript of this release ({problem}); docs/transcript.schema.json describes it"
        ) from None
    for impossible in _problems(found):
        raise TranscriptUnavailable(f"{where} is not a transcript that transcriptd wrote: {impossible}")
    return found


def _problems(found: Transcript) -> Iterator[str]:
    """Yield what the types allow and no pipeline writes."""
    if not all(0 <= seconds <= MAX_SECONDS for seconds in (found.start_seconds, found.duration_seconds)):
        yield "its length is impossible"
    if len(found.speakers) > MAX_SPEAKERS:
        yield f"it has {len(found.speakers)} speakers"
    vectors = (number for vector in (found.speaker_embeddings or {}).values() for number in vector)
    probabilities = (found.language_probability, *found.language_probabilities.values())
    if not all(map(_finite, (*vectors, *probabilities))):
        yield "it has a number that is not finite"
    for label in found.speakers:
        if len(label) > MAX_LABEL_CHARACTERS:
            yield "a speaker label is too long"
    for number, segment in enumerate(found.segments):
        for problem in _problems_of(segment):
            yield f"segment {number} {problem}"


def _problems_of(segment: Segment) -> Iterator[str]:
    if len(segment.words) > MAX_SEGMENT_WORDS or len(segment.text) > MAX_SEGMENT_CHARACTERS:
        yield "is too long"
    if sum(len(word.word) for word in segment.words) > MAX_SEGMENT_CHARACTERS:
        yield "has words that are too long"
    both: list[Segment | Word] = [segment, *segment.words]
    if any(len(each.speaker or "") > MAX_LABEL_CHARACTERS for each in both):
        yield "has a speaker label that is too long"
    if any(not 0 <= each.start <= each.end <= MAX_SECONDS for each in both):
        yield "has impossible times"
    if not all(map(_finite, (segment.confidence, segment.avg_logprob, *(word.score for word in segment.words)))):
        yield "has a score that is not finite"


def _finite(number: float | None) -> bool:
    return number is None or math.isfinite(number)
