"""The steps of a job that need neither a queue nor a bucket, for the daemon and for `transcriptd transcribe`."""

from pathlib import Path

from daemon.config import Settings
from daemon.errors import MediaUnreadable
from daemon.media.clip import Clip
from daemon.media.decoder_pool import MEDIA_INCOMPLETE, Audio, DecodeLimits, DecoderPool
from daemon.privacy import protect
from daemon.schema.options import JobOptions
from daemon.schema.transcript import NO_SPEECH_FOUND, Transcript, TranscriptWarning


async def decode(decoder: DecoderPool, source: Path, target: Path, options: JobOptions, settings: Settings) -> Audio:
    """Decode the wanted part of the recording to `target`.

    Raises the errors of DecoderPool.decode. MediaUnreadable also if a part of the recording could not be read and the
    settings forbid that.
    """
    limits = DecodeLimits(
        max_media_seconds=settings.max_media_seconds,
        timeout_seconds=settings.decode_timeout_seconds,
        memory_bytes=settings.decode_memory_bytes,
    )
    audio = await decoder.decode(
        source,
        target,
        limits,
        audio_track=options.audio_track,
        split=options.channels == "split",
        clip=Clip(options.clip_start_seconds, options.clip_end_seconds),
    )
    if settings.incomplete_media == "fail":
        for warning in audio.warnings:
            if warning.code == MEDIA_INCOMPLETE:
                raise MediaUnreadable(f"a part of the recording cannot be read: {warning.message}")
    return audio


def read_result(result: Path, options: JobOptions, audio: Audio, settings: Settings) -> Transcript:
    """Read the runner's result, with redaction and masking applied, and with the times of the recording.

    No later step sees the original. The decoder's warnings come first: they concern everything else. A long transcript is
    megabytes of JSON: call this in a thread where an event loop must not wait.
    """
    transcript = Transcript.model_validate_json(result.read_bytes())
    if start_seconds := options.clip_start_seconds:
        transcript = transcript.moved(start_seconds)
    own = [_with_tracks(warning, audio.tracks) for warning in transcript.warnings]
    return protected(transcript.model_copy(update={"warnings": [*audio.warnings, *own]}), options, settings)


def protected(transcript: Transcript, options: JobOptions, settings: Settings) -> Transcript:
    """Return the transcript with redaction and masking applied."""
    unwanted = settings.profanity_words if options.profanity == "mask" else ()
    return protect(transcript, options.redact, unwanted) if options.redact or unwanted else transcript


def _with_tracks(warning: TranscriptWarning, tracks: int) -> TranscriptWarning:
    """Add to the warning about a transcript without words that the file has other audio streams."""
    if warning.code != NO_SPEECH_FOUND or tracks == 1:
        return warning
    hint = f"the file has {tracks} audio streams: set options.audio_track, from 0 to {tracks - 1}, to try another one"
    return warning.model_copy(update={"message": f"{warning.message}; {hint}"})
