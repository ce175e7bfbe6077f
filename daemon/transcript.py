"""The transcript: the product. Its JSON form is a public contract (docs/transcript.schema.json, generated from here).

All times are seconds from the start of the recording, rounded to 1 ms. Every key is always present; null means unknown.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.0"

Seconds = Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda value: round(value, 3))]
Score = Annotated[float, AfterValidator(lambda value: round(value, 4))]


class _Model(BaseModel):
    # Every field is required, so that a producer cannot forget a key and a reader never meets a missing one.
    model_config = ConfigDict(extra="forbid", frozen=True)


class Word(_Model):
    """One spoken word as written, with punctuation attached and no surrounding spaces."""

    word: str
    start: Seconds = Field(ge=0, description="seconds; inside the segment")
    end: Seconds = Field(ge=0, description="seconds; not before start")
    score: Score | None = Field(description="confidence from 0 to 1, null when the aligner gives none")
    speaker: str | None = Field(
        description="`SPEAKER_00`, … by diarization, `CHANNEL_00`, … where channels are split, else null"
    )
    overlap: bool | None = Field(description="whether somebody else speaks at the same time; null without diarization")


class Segment(_Model):
    """A stretch of speech, usually a sentence, by one speaker."""

    start: Seconds = Field(ge=0)
    end: Seconds = Field(ge=0)
    text: str
    speaker: str | None
    language: str = Field(description="Whisper code it was decoded in; with `multilingual` each has its own")
    overlap: bool | None = Field(description="whether somebody else speaks during one of its words")
    confidence: Score | None = Field(
        ge=0, le=1, description="from 0 to 1: the mean of the words' scores by duration, else that of Whisper's tokens"
    )
    avg_logprob: Score | None = Field(description="mean log-probability of Whisper's tokens; nearer 0 is surer")
    words: list[Word]


class TranscriptWarning(_Model):
    """A degradation the reader should know of; the transcript is still usable."""

    code: str = Field(description="stable, e.g. `alignment_fallback`")
    stage: str = Field(description="the stage it happened in, e.g. `align`")
    message: str


class Models(_Model):
    """What produced the transcript: names as configured, or null where a stage did not run."""

    asr: str
    vad: str
    alignment: str | None = Field(description="a wav2vec2 model's name, `attention` (Whisper's own), or null")
    diarization: str | None
    device: Literal["cpu", "cuda"]
    compute_type: str


class Transcript(_Model):
    schema_version: Literal["1.0"] = Field(description="raised on a breaking change; keys may be added without")
    job_id: str
    task: Literal["transcribe", "translate"]
    language: str | None = Field(
        description="Whisper code, given or detected; null when there was no speech to detect it on"
    )
    language_probability: Score | None = Field(description="of the detection; null when the job named the language")
    language_probabilities: dict[str, Score] = Field(
        description="the likeliest languages of the detection, the first first; empty when the job named the language"
    )
    duration_seconds: Seconds
    speakers: list[str] = Field(description="labels in order of first appearance")
    speaker_embeddings: dict[str, list[float]] | None = Field(
        description="speaker → voice as a vector of unit length, null unless asked for; its dimension depends on "
        "models.diarization; a speaker of whom too little was heard has none"
    )
    segments: list[Segment]
    models: Models
    timings_seconds: dict[str, Seconds] = Field(description="wall time per stage")
    redactions: dict[str, int] = Field(description="how often each kind of personal data, or profanity, was taken out")
    warnings: list[TranscriptWarning]

    @property
    def avg_logprob(self) -> float | None:
        """The segments' mean by their length; None when none has one."""
        known = [
            (each.avg_logprob, max(each.end - each.start, 0.001))
            for each in self.segments
            if each.avg_logprob is not None
        ]
        return sum(mean * length for mean, length in known) / sum(length for _, length in known) if known else None
