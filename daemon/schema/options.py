"""Transcription options: as published in the job message, and with all defaults filled in.

docs/job.schema.json is generated from these classes.
"""

import hashlib
import re
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

PersonalData = Literal["email", "phone", "card", "iban", "ssn", "url"]
SpeakerBound = Literal["num_speakers", "min_speakers", "max_speakers"]
Format = Literal["json", "md", "txt", "srt", "vtt", "ass", "tsv", "html"]

# Options that only shape how a transcript is written. A finished job may be sent again with others of these: its files are
# rendered from the stored transcript. Every other option needs the recording, so it makes another job.
RENDERING_OPTIONS = frozenset({"formats", "subtitles", "audio_url"})

# Options of a job that keeps the words of an earlier one (`input.words_of`). All others shape the words, so they are those of
# the earlier job.
OPTIONS_AFTER_WORDS = RENDERING_OPTIONS | {
    "diarize",
    "num_speakers",
    "min_speakers",
    "max_speakers",
    "speaker_embeddings",
    "redact",
    "profanity",
}

MAX_SPEAKERS = 64
MAX_TERMS = 100
MAX_CHOICES = 16  # items of a list of names
MAX_AUDIO_URL_LENGTH = 4096  # a presigned URL with a session token has about 2,000 characters

# The characters of a URL (RFC 3986, section 2). Excludes characters that a browser drops (line breaks) or
# replaces (a backslash by a slash).
URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")

Speakers = Annotated[int, Field(ge=1, le=MAX_SPEAKERS)]
Prompt = Annotated[str, StringConstraints(max_length=1000)]
Term = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class ContractModel(BaseModel):
    """Base of all parts of the job message. Unknown names and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SubtitleOptions(ContractModel):
    """Layout of srt, vtt and ass. Defaults follow the Netflix Timed Text Style Guide where it specifies a value."""

    max_chars_per_line: int = Field(42, ge=10, le=100, description="columns; a full-width character counts as two")
    max_lines: int = Field(2, ge=1, le=3, description="lines per cue")
    min_duration_seconds: float = Field(0.8, ge=0, le=2, description="shorter cues are extended into the following gap")
    max_duration_seconds: float = Field(7.0, ge=2, le=60, description="longest display time of a cue")
    max_chars_per_second: float = Field(
        20.0,
        ge=5,
        le=100,
        description="reading speed in columns; faster cues are extended into silence or split differently",
    )
    min_gap_seconds: float = Field(
        0.08, ge=0, le=1, description="gap between two cues; less if the speech leaves no room"
    )
    highlight_words: bool = Field(False, description="mark each word while it is spoken")
    speaker_labels: bool = Field(True, description="show the speaker labels")


class Options(ContractModel):
    """Transcription options. Missing options take the deployment's default."""

    model: str | None = Field(None, description="a Whisper model that the deployment offers")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="`translate` translates to English")
    language: str | None = Field(None, description="Whisper language code; null detects the language")
    languages: list[str] | None = Field(
        None,
        min_length=1,
        max_length=MAX_CHOICES,
        description="detect only these languages, for the recording and, with `multilingual`, for each chunk; null allows all",
    )
    diarize: bool | None = Field(None, description="label speakers")
    num_speakers: Speakers | None = Field(None, description="exact number, if known")
    min_speakers: Speakers | None = None
    max_speakers: Speakers | None = None
    speaker_embeddings: bool = Field(False, description="add a vector of each speaker's voice to the transcript")
    formats: list[str] | None = Field(
        None, min_length=1, max_length=MAX_CHOICES, description="any of: " + ", ".join(get_args(Format))
    )
    align: Literal["auto", "wav2vec2", "attention", "off"] = Field(
        "auto",
        description="method for word times; `auto`: wav2vec2 if a model for the language is available, else Whisper's attention",
    )
    redact: list[PersonalData] | None = Field(
        None, max_length=MAX_CHOICES, description="personal data to remove from all outputs"
    )
    profanity: Literal["keep", "mask"] | None = Field(None, description="`mask` writes profane words as `d***`")
    channels: Literal["mix", "split"] = Field(
        "mix",
        description="`mix`: all channels are mixed to one; `split`: each is transcribed separately, as one speaker",
    )
    audio_track: int | None = Field(
        None,
        ge=0,
        lt=1000,
        description="index of the audio stream in the file, from 0; null selects the first, or another one if that is silent",
    )
    initial_prompt: Prompt | None = Field(None, description="text that guides style and spelling")
    hotwords: Prompt | None = Field(None, description="words to favor")
    audio_url: str | None = Field(
        None,
        max_length=MAX_AUDIO_URL_LENGTH,
        description="URL of the recording for the `html` page: https, or relative to the page; null lets the reader choose a file",
    )
    subtitles: SubtitleOptions = SubtitleOptions()
    vocabulary: list[Term] = Field(
        [],
        max_length=MAX_TERMS,
        description="names and terms to favor, after the hot words. Most important first: terms that do not fit into "
        "Whisper's prompt of 223 tokens are dropped with a warning",
    )
    suppress_numerals: bool = Field(False, description="write numbers as words, unless a number would be lost")
    multilingual: bool = Field(
        False,
        description="detect the language of each chunk of at most 30 s, instead of one language for the recording",
    )


class JobOptions(ContractModel):
    """Options with all defaults filled in. The runner receives them, and the manifest's digest covers them. They include
    the clip, because another part of a recording is another job.

    The audio URL is excluded: a presigned URL grants access to the recording, and it does not affect the runner.
    """

    model: str
    task: Literal["transcribe", "translate"]
    language: str | None
    diarize: bool
    num_speakers: int | None
    min_speakers: int | None
    max_speakers: int | None
    own_speaker_bounds: list[SpeakerBound] = []  # the bounds above that the message set, not the deployment
    formats: list[Format]
    align: Literal["auto", "wav2vec2", "attention", "off"]
    redact: list[PersonalData]
    profanity: Literal["keep", "mask"]
    channels: Literal["mix", "split"]
    audio_track: int | None
    initial_prompt: str | None
    hotwords: str | None
    audio_url: str | None = Field(None, exclude=True)
    subtitles: SubtitleOptions = SubtitleOptions()
    speaker_embeddings: bool = False
    vocabulary: list[str]
    suppress_numerals: bool
    multilingual: bool
    languages: list[str] = []  # that detection may find; empty for all
    clip_start_seconds: float = 0.0  # the part of the recording, from the message's input
    clip_end_seconds: float | None = None
    # The finished job whose words this one keeps, from the message's input. `diarize` then says whether to diarize again.
    words_of: str | None = None

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
