"""The finished job whose words a job keeps (`input.words_of`): its options, its transcript, and the proof of its recording.

Its results are read where this job writes its own, so a message reaches no other place through them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.aws.s3 import Storage
from daemon.errors import InvalidSpeakers, RecordingChanged, TranscriptdError, TranscriptUnavailable
from daemon.jobs.late_outputs import read_transcript
from daemon.jobs.result_store import ResultStore
from daemon.schema.job import MAX_BODY_CHARACTERS, Input, Job, Place
from daemon.schema.manifest import InputObject, Manifest
from daemon.schema.options import OPTIONS_AFTER_WORDS, JobOptions
from daemon.schema.transcript import Transcript


@dataclass(frozen=True, slots=True)
class EarlierResult:
    """An earlier result, and the job that continues from it."""

    job: Job  # with the options and the part of the recording that the earlier job had, where it does not set its own
    recording: InputObject
    transcript: Transcript

    def require_same_recording(self, found: InputObject) -> None:
        """Raise RecordingChanged unless the object is the one that was transcribed."""
        if (found.etag, found.size_bytes) != (self.recording.etag, self.recording.size_bytes):
            raise RecordingChanged(
                f"s3://{found.bucket}/{found.key} has changed since job {self.job.options.words_of} transcribed it; remove "
                "input.words_of to transcribe it again"
            )

    def require_same_words(self, found: Transcript) -> None:
        """Raise TranscriptdError if the runner changed a word or its times."""
        if list(_words(found)) != list(_words(self.transcript)):
            raise TranscriptdError("diarizing again changed the words of the transcript")

    def write(self, path: Path) -> None:
        """Write the transcript for the runner."""
        path.write_bytes(self.transcript.model_dump_json().encode())

    def with_its_speakers(self) -> Transcript:
        """Return the transcript as this job's own, without the vectors of voices, which each job has to request."""
        own: dict[str, Any] = {"job_id": self.job.job_id, "speaker_embeddings": None, "timings_seconds": {}}
        return self.transcript.model_copy(update=own)


async def find_earlier(storage: Storage, results: ResultStore, job: Job) -> EarlierResult:
    """Read the result whose words the job keeps.

    Raises TranscriptUnavailable, RecordingChanged, InvalidSpeakers, or an error of S3.
    """
    name = job.options.words_of or ""
    place = Place(name, job.output_bucket, job.output_prefix.removesuffix(f"{job.job_id}/") + f"{name}/")
    found = await results.find_result(place)
    if found is None:
        raise TranscriptUnavailable(
            f"job {name}, which input.words_of names, has no manifest at s3://{place.bucket}/{place.prefix}; send the message "
            "after its job.completed, with the same output"
        )
    manifest, _ = found
    resolved = _resolved(job, manifest)
    with results.attribute_errors(place):
        transcript = await read_transcript(storage, place, manifest)
    return EarlierResult(resolved, manifest.input, transcript)


def _resolved(job: Job, manifest: Manifest) -> Job:
    """Return the job with everything that it takes over from the earlier one. The manifest is untrusted."""
    source, wanted, name = manifest.input, job.input, job.options.words_of
    same = (source.bucket, source.key) == (wanted.bucket, wanted.key)
    if not same or wanted.version_id not in (None, source.version_id):
        raise RecordingChanged(
            f"input is not the recording of job {name}; name the object and version that it transcribed"
        )
    own = job.options.model_dump(mode="json")
    after = {*OPTIONS_AFTER_WORDS, "own_speaker_bounds", "words_of"}
    known = {key: value for key, value in manifest.options.items() if key in JobOptions.model_fields}
    taken: dict[str, Any] = own | known | {key: value for key, value in own.items() if key in after}
    try:
        text = json.dumps(taken, allow_nan=False)
        if len(text) > MAX_BODY_CHARACTERS:
            raise ValueError("more than a message can have")
        options = JobOptions.model_validate_json(text)
        part = {"start_seconds": source.start_seconds, "end_seconds": source.end_seconds}
        recording = Input.model_validate({**wanted.model_dump(), **part, "version_id": source.version_id})
    except ValueError as error:  # also pydantic's, whose message would quote the content
        count = error.error_count() if isinstance(error, ValidationError) else "some"
        raise TranscriptUnavailable(
            f"the manifest of job {name} has options that this release cannot use: {count} are missing or wrong"
        ) from None
    if options.channels == "split" and options.diarize:
        raise InvalidSpeakers(
            f'job {name} had options.channels "split", where each channel is one speaker; its speakers cannot be found again'
        )
    options = options.model_copy(update={"audio_url": job.options.audio_url})
    return job.model_copy(update={"options": options, "input": recording})


def _words(transcript: Transcript) -> Iterator[tuple[str, float, float, float | None]]:
    for segment in transcript.segments:
        for word in segment.words:
            yield word.word, word.start, word.end, word.score
