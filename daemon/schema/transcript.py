"""The transcript. Its JSON form is a public contract (docs/transcript.schema.json, generated from this module).

All times are seconds from the start of the recording, rounded to 1 ms. Every key is always present; null means unknown.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.0"
NO_SPEECH_FOUND = "no_speech_found"  # code of the warning about a transcript without words

Seconds = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda value: round(value, 3))]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(lambda value: round(value, 4))]
Score = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class _Model(BaseModel):
    # Every field is required, so that no key is ever missing for readers.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Word(_Model):
    """A spoken word with attached punctuation, without surrounding spaces."""

    word: str
    start: Seconds = Field(ge=0, description="seconds; within the segment")
    end: Seconds = Field(ge=0, description="seconds; not before start")
    score: Score | None = Field(description="confidence from 0 to 1; null if the aligner gives none")
    speaker: str | None = Field(
        description="`SPEAKER_00`, … from diarization, `CHANNEL_00`, … for split channels, else null"
    )
    overlap: bool | None = Field(description="whether someone else speaks at the same time; null without diarization")


class Segment(_Model):
    """A stretch of speech by one speaker, usually a sentence."""

    start: Seconds = Field(ge=0)
    end: Seconds = Field(ge=0)
    text: str
    speaker: str | None
    language: str = Field(
        description="Whisper language code used for decoding; with `multilingual` each segment has its own"
    )
    overlap: bool | None = Field(description="whether someone else speaks during one of its words")
    confidence: Score | None = Field(
        ge=0,
        le=1,
        description="from 0 to 1: the words' mean score weighted by duration, else the mean probability of Whisper's tokens",
    )
    avg_logprob: Score | None = Field(
        description="mean log-probability of Whisper's tokens; closer to 0 is more confident"
    )
    words: list[Word]


class TranscriptWarning(_Model):
    """A degradation of the transcript, which is still usable."""

    code: str = Field(description="stable, e.g. `alignment_fallback`")
    stage: str = Field(description="the affected stage, e.g. `align`")
    message: str


class Models(_Model):
    """Models and device that produced the transcript. Names are as configured; null if a stage did not run."""

    asr: str
    vad: str
    alignment: str | None = Field(description="a wav2vec2 model's name, `attention` (Whisper's own), or null")
    diarization: str | None
    device: Literal["cpu", "cuda"]
    compute_type: str


class Transcript(_Model):
    schema_version: Literal["1.0"] = Field(
        description="changes with a breaking change; keys may be added without a new version"
    )
    job_id: str
    task: Literal["transcribe", "translate"]
    language: str | None = Field(
        description="Whisper language code, given or detected; null if there was no speech to detect it from"
    )
    language_probability: Score | None = Field(
        description="probability of the detected language; null if the job named the language"
    )
    language_probabilities: dict[str, Probability] = Field(
        description="the most probable languages of the detection, most probable first; empty if the job named the language"
    )
    start_seconds: Seconds = Field(
        description="where the transcribed part of the recording begins; 0 unless the job named one"
    )
    duration_seconds: Seconds = Field(
        description="length of the transcribed part, which is the recording unless the job named one"
    )
    speakers: list[str] = Field(description="labels in order of first appearance")
    speaker_embeddings: dict[str, list[float]] | None = Field(
        description="speaker → vector of unit length that represents the voice; null unless requested. Its dimension depends "
        "on models.diarization. Speakers with too little speech have no entry"
    )
    segments: list[Segment]
    models: Models
    timings_seconds: dict[str, Seconds] = Field(description="wall time per stage")
    redactions: dict[str, int] = Field(
        description="number of removed items for each kind of personal data, and for profanity"
    )
    warnings: list[TranscriptWarning]

    def moved(self, seconds: float) -> "Transcript":
        """Return the transcript of audio that begins this much later in the recording."""

        def later(item: Word | Segment) -> dict[str, float]:
            return {"start": round(item.start + seconds, 3), "end": round(item.end + seconds, 3)}

        segments = [
            each.model_copy(
                update={**later(each), "words": [word.model_copy(update=later(word)) for word in each.words]}
            )
            for each in self.segments
        ]
        return self.model_copy(update={"start_seconds": round(self.start_seconds + seconds, 3), "segments": segments})

    @property
    def avg_logprob(self) -> float | None:
        """Mean over the segments, weighted by their length; None if no segment has a value."""
        known = [
            (each.avg_logprob, max(each.end - each.start, 0.001))
            for each in self.segments
            if each.avg_logprob is not None
        ]
        return sum(mean * length for mean, length in known) / sum(length for _, length in known) if known else None
