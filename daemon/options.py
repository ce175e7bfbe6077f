"""How a recording is to be transcribed: the options of the job message, and what becomes of them with every default.

The JSON Schema that docs/job.schema.json ships is generated from these classes.
"""

import hashlib
import re
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from daemon.catalog import CANNOT_TRANSLATE, LANGUAGES, is_english_only, model_name
from daemon.config import Format, PersonalData, Settings
from daemon.errors import (
    InvalidJob,
    InvalidSpeakers,
    UnknownFormat,
    UnknownLanguage,
    UnknownModel,
    UnsupportedTask,
)
from daemon.wording import clip, nearest

MAX_SPEAKERS = 64
MAX_TERMS = 100
MAX_AUDIO_URL_LENGTH = 4096  # a presigned URL with a session token has about 2,000 characters

# The characters of a URL (RFC 3986, section 2): none that a browser drops, as it does a line
# break, or takes for another, as it does a backslash for a slash.
URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")

Speakers = Annotated[int, Field(ge=1, le=MAX_SPEAKERS)]
Prompt = Annotated[str, StringConstraints(max_length=1000)]
Term = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class ContractModel(BaseModel):
    """A part of the job message: a name that is not known, or a value of another type, is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SubtitleOptions(ContractModel):
    """How srt, vtt and ass are laid out. The defaults are those of the Netflix Timed Text Style Guide, where it has one."""

    max_chars_per_line: int = Field(42, ge=10, le=100, description="columns; a full-width character takes two")
    max_lines: int = Field(2, ge=1, le=3, description="lines of a cue")
    min_duration_seconds: float = Field(0.8, ge=0, le=2, description="a shorter cue is extended into free time")
    max_duration_seconds: float = Field(7.0, ge=2, le=60, description="longest time that a cue is shown")
    max_chars_per_second: float = Field(
        20.0,
        ge=5,
        le=100,
        description="reading speed in columns; faster cues are extended into silence or cut elsewhere",
    )
    min_gap_seconds: float = Field(0.08, ge=0, le=1, description="between two cues; less where they follow too closely")
    highlight_words: bool = Field(False, description="mark each word while it is spoken")
    speaker_labels: bool = Field(True, description="name the speakers that diarization found")


class Options(ContractModel):
    """How to transcribe. What is absent takes the deployment's default."""

    model: str | None = Field(None, description="a Whisper model this deployment offers")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="`translate` writes English")
    language: str | None = Field(None, description="Whisper language code; null detects it")
    diarize: bool | None = Field(None, description="label speakers")
    num_speakers: Speakers | None = Field(None, description="exact number, when known")
    min_speakers: Speakers | None = None
    max_speakers: Speakers | None = None
    speaker_embeddings: bool = Field(False, description="put each speaker's voice, as a vector, into the transcript")
    formats: list[str] | None = Field(None, min_length=1, description="any of: " + ", ".join(get_args(Format)))
    align: Literal["auto", "wav2vec2", "attention", "off"] = Field(
        "auto", description="word times: wav2vec2 where a model for the language is at hand, else Whisper's attention"
    )
    redact: list[PersonalData] | None = Field(None, description="personal data to take out of every output")
    profanity: Literal["keep", "mask"] | None = Field(None, description="`mask` writes profane words as `d***`")
    channels: Literal["mix", "split"] = Field(
        "mix", description="`mix`: all channels become one; `split`: each is transcribed apart, and is one speaker"
    )
    audio_track: int | None = Field(
        None, ge=0, lt=1000, description="which of the file's audio streams, counted from 0; null takes the first"
    )
    initial_prompt: Prompt | None = Field(None, description="text that sets style and spelling")
    hotwords: Prompt | None = Field(None, description="words to favour")
    audio_url: str | None = Field(
        None,
        max_length=MAX_AUDIO_URL_LENGTH,
        description="where the `html` page plays the recording from: https, or relative to the page; null lets its reader choose a file",
    )
    subtitles: SubtitleOptions = SubtitleOptions()
    vocabulary: list[Term] = Field(
        [],
        max_length=MAX_TERMS,
        description="names and terms to favour, after the hot words; the most important first: those that find no room "
        "in Whisper's prompt of 223 tokens are left out, with a warning",
    )
    suppress_numerals: bool = Field(
        False, description="write numbers out in words, except where one would be lost in that"
    )
    multilingual: bool = Field(
        False, description="detect the language of each stretch of at most 30 s; otherwise one for all of the recording"
    )


class JobOptions(ContractModel):
    """Options with every default filled in: what the runner gets and what the manifest's digest covers.

    But for the audio URL: a presigned one is a key to the recording, and changes nothing that the runner does.
    """

    model: str
    task: Literal["transcribe", "translate"]
    language: str | None
    diarize: bool
    num_speakers: int | None
    min_speakers: int | None
    max_speakers: int | None
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

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def fill_in(options: Options, settings: Settings) -> JobOptions:
    """The options with the deployment's defaults. Raises an InvalidJob subclass for what cannot be done here."""
    default_model = model_name(settings.model)
    model = options.model or default_model
    offered = tuple(dict.fromkeys((default_model, *map(model_name, settings.models))))
    if model not in offered:
        raise UnknownModel(f"options.model {clip(model)} is not offered here; {nearest(model, offered)}")
    if options.task == "translate" and (model in CANNOT_TRANSLATE or is_english_only(model)):
        raise UnsupportedTask(
            f'options.task "translate" cannot be done by {model}; choose a multilingual model such as large-v3'
        )
    language = options.language
    if options.multilingual and is_english_only(model):
        raise UnknownLanguage(f"options.multilingual cannot be done by {model}, which knows English alone")
    if language is not None and language not in LANGUAGES:
        raise UnknownLanguage(
            f"options.language {clip(language)} is not a Whisper language code; {nearest(language, LANGUAGES)}"
        )
    if language not in (None, "en") and is_english_only(model):
        raise UnknownLanguage(f'options.language "{language}" cannot be done by {model}, which knows English alone')
    known_formats: tuple[str, ...] = get_args(Format)
    formats = options.formats or list(settings.formats)
    for name in formats:
        if name not in known_formats:
            raise UnknownFormat(
                f"options.formats has {clip(name)}, which is not a format; {nearest(name, known_formats)}"
            )
    minimum, maximum = _speakers(options, settings)
    return JobOptions(
        model=model,
        task=options.task,
        language="en" if is_english_only(model) else language,
        diarize=_diarize(options, settings),
        num_speakers=options.num_speakers,
        min_speakers=minimum,
        max_speakers=maximum,
        formats=list(dict.fromkeys(formats)),  # type: ignore[arg-type]  # checked above
        align=options.align,
        channels=options.channels,
        redact=list(dict.fromkeys(settings.redact if options.redact is None else options.redact)),
        profanity=options.profanity or settings.profanity,
        audio_track=options.audio_track,
        initial_prompt=options.initial_prompt,
        hotwords=options.hotwords,
        audio_url=None if options.audio_url is None else _audio_url(options.audio_url),
        subtitles=options.subtitles,
        speaker_embeddings=options.speaker_embeddings,
        vocabulary=options.vocabulary,
        suppress_numerals=options.suppress_numerals,
        multilingual=options.multilingual,
    )


def _diarize(options: Options, settings: Settings) -> bool:
    """Whether to tell speakers apart by their voices: not where the channels do it, whatever the deployment's default."""
    if options.channels == "split":
        for name in ("diarize", "num_speakers", "min_speakers", "max_speakers"):
            if getattr(options, name):
                raise InvalidSpeakers(
                    f'options.{name} does not go with options.channels "split", where each channel is one speaker; '
                    "drop one of the two"
                )
        return False
    return settings.diarize if options.diarize is None else options.diarize


def _speakers(options: Options, settings: Settings) -> tuple[int | None, int | None]:
    """The bounds on the number of speakers; a bound that the job gives moves a default out of its way."""
    if options.channels == "split":
        return None, None
    minimum, maximum = options.min_speakers, options.max_speakers
    if options.num_speakers is not None:
        if minimum is not None or maximum is not None:
            raise InvalidSpeakers("options.num_speakers is exact: give it alone, without min_speakers or max_speakers")
        return None, None
    if minimum is not None and maximum is not None and minimum > maximum:
        raise InvalidSpeakers(
            f"options.min_speakers ({minimum}) is larger than options.max_speakers ({maximum}); swap or drop one"
        )
    if minimum is None:
        minimum = min(settings.min_speakers, maximum or settings.min_speakers)
    if maximum is None:
        maximum = max(settings.max_speakers, minimum)
    return minimum, maximum


def _audio_url(url: str) -> str:
    """The URL, if a page may play it. It is never quoted: presigned, it is a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port validates it
    except ValueError as error:
        raise InvalidJob(f"options.audio_url is not a URL ({error})") from error
    if not URL.fullmatch(url):
        raise InvalidJob("options.audio_url has characters that no URL has, or is empty; percent-encode them")
    relative = not parts.scheme and not url.startswith("//")  # to a browser `///host` is a host too
    if not relative and not (parts.scheme == "https" and host):
        raise InvalidJob("options.audio_url must be https://…, or a path relative to the page such as ../a.mp4")
    if parts.username is not None or parts.password is not None:
        raise InvalidJob("options.audio_url must not carry a user name or password; presign it instead")
    return url
