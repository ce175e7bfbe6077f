"""Completes a job's options with the deployment's defaults, and rejects options that the deployment does not support."""

from typing import get_args
from urllib.parse import urlsplit

from daemon.config import Settings
from daemon.errors import (
    InvalidJob,
    InvalidSpeakers,
    LanguageConflict,
    NeedsTranscription,
    UnknownFormat,
    UnknownLanguage,
    UnknownModel,
    UnsupportedTask,
)
from daemon.media.clip import WHOLE, Clip
from daemon.schema.catalog import CANNOT_TRANSLATE, LANGUAGES, is_english_only, model_name
from daemon.schema.options import OPTIONS_AFTER_WORDS, URL, Format, JobOptions, Options, SpeakerBound
from daemon.schema.wording import clip, nearest


def fill_in(options: Options, settings: Settings, part: Clip = WHOLE, words_of: str | None = None) -> JobOptions:
    """Fill in the deployment's defaults and the part of the recording. Raises an InvalidJob subclass for unsupported options.

    With `words_of`, options that shape the words are refused. The earlier job has set them (earlier_result.py).
    """
    if words_of is not None:
        _require_kept_words(options, part)
    default_model = model_name(settings.model)
    model = options.model or default_model
    offered = tuple(dict.fromkeys((default_model, *map(model_name, settings.models))))
    if model not in offered:
        raise UnknownModel(f"options.model {clip(model)} is not offered by this deployment; {nearest(model, offered)}")
    if options.task == "translate" and (model in CANNOT_TRANSLATE or is_english_only(model)):
        raise UnsupportedTask(
            f'options.task "translate" is not supported by {model}; choose a multilingual model such as large-v3'
        )
    language, languages = _languages(options, model)
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
        language=language,
        languages=languages,
        diarize=_diarize(options, settings) if words_of is None else _diarize_again(options),
        num_speakers=options.num_speakers,
        min_speakers=minimum,
        max_speakers=maximum,
        own_speaker_bounds=[name for name in get_args(SpeakerBound) if getattr(options, name) is not None],
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
        clip_start_seconds=part.start_seconds,
        clip_end_seconds=part.end_seconds,
        words_of=words_of,
    )


def _require_kept_words(options: Options, part: Clip) -> None:
    """Raise NeedsTranscription for what would change the words of the earlier job."""
    fields = type(options).model_fields
    changed = [
        f"options.{name}"
        for name in fields
        if name not in OPTIONS_AFTER_WORDS
        and getattr(options, name) != fields[name].get_default(call_default_factory=True)
    ]
    if part != WHOLE:
        changed.append("input.start_seconds or input.end_seconds")
    if changed:
        raise NeedsTranscription(
            f"{', '.join(changed)} cannot be combined with input.words_of, which keeps the words of the earlier job; remove "
            "one of the two"
        )


def _diarize_again(options: Options) -> bool:
    """Return whether the job labels the speakers again. The deployment's default does not apply: speakers are kept by default."""
    if options.diarize is not None:
        return options.diarize
    return options.speaker_embeddings or any(getattr(options, name) is not None for name in get_args(SpeakerBound))


def _languages(options: Options, model: str) -> tuple[str | None, list[str]]:
    """Return the recording's language, or None to detect it, and the languages that detection may find; empty for all."""
    language, allowed = options.language, list(dict.fromkeys(options.languages or ()))
    if options.multilingual and is_english_only(model):
        raise UnknownLanguage(f"options.multilingual is not supported by {model}, which is English-only")
    if language is not None and allowed:
        raise LanguageConflict(
            "options.language cannot be combined with options.languages: the first names the language, the second restricts "
            "its detection; remove one of the two"
        )
    for code in allowed if language is None else [language]:
        name = "options.language" if language else "options.languages"
        if code not in LANGUAGES:
            raise UnknownLanguage(f"{name} {clip(code)} is not a Whisper language code; {nearest(code, LANGUAGES)}")
        if code != "en" and is_english_only(model):
            raise UnknownLanguage(f'{name} "{code}" is not supported by {model}, which is English-only')
    if is_english_only(model):
        return "en", allowed
    return allowed[0] if len(allowed) == 1 else language, allowed


def _diarize(options: Options, settings: Settings) -> bool:
    """Return whether to diarize. With split channels, each channel is one speaker, whatever the deployment's default."""
    if options.channels == "split":
        for name in ("diarize", "num_speakers", "min_speakers", "max_speakers"):
            if getattr(options, name):
                raise InvalidSpeakers(
                    f'options.{name} cannot be combined with options.channels "split", where each channel is one speaker; '
                    "remove one of the two"
                )
        return False
    return settings.diarize if options.diarize is None else options.diarize


def _speakers(options: Options, settings: Settings) -> tuple[int | None, int | None]:
    """Return the bounds on the number of speakers. A bound of the job takes precedence over a conflicting default."""
    if options.channels == "split":
        return None, None
    minimum, maximum = options.min_speakers, options.max_speakers
    if options.num_speakers is not None:
        if minimum is not None or maximum is not None:
            raise InvalidSpeakers("options.num_speakers cannot be combined with min_speakers or max_speakers")
        return None, None
    if minimum is not None and maximum is not None and minimum > maximum:
        raise InvalidSpeakers(
            f"options.min_speakers ({minimum}) is larger than options.max_speakers ({maximum}); swap them or remove one"
        )
    if minimum is None:
        minimum = min(settings.min_speakers, maximum or settings.min_speakers)
    if maximum is None:
        maximum = max(settings.max_speakers, minimum)
    return minimum, maximum


def _audio_url(url: str) -> str:
    """Validate the URL for the HTML player. Errors never quote it: a presigned URL is a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port validates it
    except ValueError as error:
        raise InvalidJob(f"options.audio_url is not a URL ({error})") from error
    if not URL.fullmatch(url):
        raise InvalidJob("options.audio_url is empty or has characters that are invalid in a URL; percent-encode them")
    relative = not parts.scheme and not url.startswith("//")  # a browser also reads `///host` as a host
    if not relative and not (parts.scheme == "https" and host):
        raise InvalidJob("options.audio_url must be https://…, or a path relative to the page such as ../a.mp4")
    if parts.username is not None or parts.password is not None:
        raise InvalidJob("options.audio_url must not contain a user name or password; presign it instead")
    return url
