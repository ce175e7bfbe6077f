"""Every way a job can go wrong, and what becomes of the job.

One base class. Each subclass carries a stable `code` (part of the public contract: it appears in the dead-letter
queue, in webhooks, in logs and in metric labels), its `fate`, and a `cure`, the sentence that docs/api.md prints beside
the code. The message given to the constructor says what was wrong and where.
"""

from enum import StrEnum
from typing import ClassVar


class Fate(StrEnum):
    """What an error means for the message that caused it; `processor.py` turns it into a disposition."""

    RETRY = "retry"  # may succeed later: the attempt is counted, the message comes back after a back-off
    RELEASE = "release"  # nothing is wrong with the job, we are leaving: visible again at once, no attempt counted
    ABANDON = "abandon"  # the lease is no longer ours: no further call on the message is allowed
    DEAD_LETTER = "dead_letter"  # will never succeed as it stands: moved to the dead-letter queue with the reason


class TranscriptdError(Exception):
    """Base of all errors transcriptd raises on purpose."""

    code: ClassVar[str] = "internal_error"
    fate: ClassVar[Fate] = Fate.RETRY
    cure: ClassVar[str] = "A fault in transcriptd itself: report it with the traceback."
    # Whether a retry spends one of the job's attempts. What every job would meet (S3 down, disk full) spends none.
    counts: ClassVar[bool] = True

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail  # a traceback or library output from another process; never shown without bounds


# --- start-up -----------------------------------------------------------------------------------------------------


EXIT_CONFIG = 78  # EX_CONFIG: settings that cannot work; restarting will not help


class ConfigError(TranscriptdError):
    """The settings cannot work; the daemon refuses to start."""

    code = "config_invalid"
    cure = "Correct the setting that the message names."


class SetupFailed(TranscriptdError):
    """The runner process could not load its models."""

    code = "runner_setup_failed"
    counts = False
    cure = "Read the runner's message: a model name, a token, a driver or memory is wrong on this instance."


# --- the message --------------------------------------------------------------------------------------------------


class InvalidJob(TranscriptdError):
    """The message breaks the job contract."""

    code = "invalid_message"
    fate = Fate.DEAD_LETTER
    cure = "Correct the field that the message names; docs/job.schema.json is the contract."


class InvalidJson(InvalidJob):
    code = "invalid_json"
    cure = "Send the body as one JSON object in UTF-8."


class UnknownField(InvalidJob):
    code = "unknown_field"
    cure = "Remove or rename the field; the message names the nearest known one."


class InvalidJobId(InvalidJob):
    code = "invalid_job_id"
    cure = "Use 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit."


class UnknownModel(InvalidJob):
    code = "unknown_model"
    cure = "Use a model that this deployment offers (TRANSCRIPTD_MODELS)."


class UnknownLanguage(InvalidJob):
    code = "unknown_language"
    cure = "Use a Whisper language code such as `en`, or null to detect it."


class UnknownFormat(InvalidJob):
    code = "unknown_format"
    cure = "Use the formats that docs/api.md lists."


class InvalidSpeakers(InvalidJob):
    code = "invalid_speakers"
    cure = "Give num_speakers alone, or min_speakers no larger than max_speakers; none of them with split channels."


class UnsupportedTask(InvalidJob):
    code = "unsupported_task"
    cure = "Translate with a multilingual model other than large-v3-turbo."


class BucketNotAllowed(InvalidJob):
    code = "bucket_not_allowed"
    cure = "Add the bucket to TRANSCRIPTD_INPUT_BUCKETS or TRANSCRIPTD_OUTPUT_BUCKETS, or use one that is there."


class WebhookNotAllowed(InvalidJob):
    code = "webhook_not_allowed"
    cure = "Use https and a host that TRANSCRIPTD_WEBHOOK_HOSTS lists."


class JobIdConflict(InvalidJob):
    code = "job_id_conflict"
    cure = "Give every recording a job_id of its own: a finished job with this one has another input."


# --- the input ----------------------------------------------------------------------------------------------------


class ObjectMissing(TranscriptdError):
    code = "object_missing"
    fate = Fate.DEAD_LETTER
    cure = "Upload the object before the message is sent; check bucket, key and version_id."


class AccessDenied(TranscriptdError):
    code = "access_denied"
    fate = Fate.DEAD_LETTER
    cure = "Grant the instance role s3:GetObject (and kms:Decrypt) on the input, s3:GetObject, s3:PutObject and s3:DeleteObject on the output, s3:ListBucket on both."


class ObjectArchived(TranscriptdError):
    code = "object_archived"
    fate = Fate.DEAD_LETTER
    cure = "Restore the object from its archive storage class, then send the message again."


class ObjectEmpty(TranscriptdError):
    code = "object_empty"
    fate = Fate.DEAD_LETTER
    cure = "The object has 0 bytes: upload it again."


class ObjectTooLarge(TranscriptdError):
    code = "object_too_large"
    fate = Fate.DEAD_LETTER
    cure = "Split or compress the recording, or raise TRANSCRIPTD_MAX_INPUT_BYTES."


class MediaUnreadable(TranscriptdError):
    code = "media_unreadable"
    fate = Fate.DEAD_LETTER
    cure = "The file is not media, is cut off, or is damaged: check that it plays, and upload it again."


class NoAudio(TranscriptdError):
    code = "no_audio_stream"
    fate = Fate.DEAD_LETTER
    cure = "The file has no audio stream: send a recording that has sound."


class AudioTrackMissing(TranscriptdError):
    code = "audio_track_missing"
    fate = Fate.DEAD_LETTER
    cure = (
        "Use an options.audio_track that the file has, counted from 0 among its audio streams, or null for the first."
    )


class TooManyChannels(TranscriptdError):
    code = "too_many_channels"
    fate = Fate.DEAD_LETTER
    cure = "Channels that are split may be 8 at most: send fewer, or let options.channels be `mix`."


class MediaTooLong(TranscriptdError):
    code = "media_too_long"
    fate = Fate.DEAD_LETTER
    cure = "Split the recording, or raise TRANSCRIPTD_MAX_MEDIA_SECONDS."


class DecodeLimit(TranscriptdError):
    """The decoder reached its limit of time, memory or output: hostile or very unusual media."""

    code = "decode_limit"
    fate = Fate.DEAD_LETTER
    cure = "The file costs far more to decode than its length explains: convert it to a plain format first."


class CrashSuspect(TranscriptdError):
    """Deliveries of the job keep ending without an outcome: it seems to take its hosts down with it."""

    code = "crash_suspect"
    fate = Fate.DEAD_LETTER
    counts = False  # nothing was tried
    cure = "The job was begun several times and its daemon died each time: try its media on a spare instance."


# --- work that may succeed later ----------------------------------------------------------------------------------


class StorageUnavailable(TranscriptdError):
    code = "storage_unavailable"
    counts = False
    cure = "S3 failed, throttled or timed out; the job is retried. If it lasts, check the network and the region."


class QueueUnavailable(TranscriptdError):
    code = "queue_unavailable"
    counts = False
    cure = "SQS failed, throttled or timed out; the call is retried. If it lasts, check the network and the region."

    def __init__(self, message: str, *, may_have_worked: bool = True) -> None:
        super().__init__(message)
        self.may_have_worked = may_have_worked  # False only where SQS refused the call, or never got it


class DiskFull(TranscriptdError):
    code = "disk_full"
    counts = False
    cure = "The scratch disk has no room; the job is retried. Give the instance more scratch space."


class ModelUnavailable(TranscriptdError):
    code = "model_unavailable"
    cure = "The model could not be fetched or loaded; run `transcriptd models verify`, check the hub, the token and the instance's memory."


class RunnerCrashed(TranscriptdError):
    code = "runner_crashed"
    cure = "The runner process died and was replaced; the job is retried. If one job repeats it, look at its media."


class RunnerStalled(TranscriptdError):
    code = "runner_stalled"
    cure = "The runner made no progress and was replaced; the job is retried."


class DeviceFault(TranscriptdError):
    """CUDA reported an error: the process that saw it never produces another result."""

    code = "device_fault"
    cure = "CUDA failed, the runner was replaced and the job is retried. If it repeats, replace the instance."


class OutOfMemory(TranscriptdError):
    code = "out_of_memory"
    cure = "Not enough device memory even at batch 1: use a smaller model or a larger GPU."


class JobTimeout(TranscriptdError):
    code = "job_timeout"
    fate = Fate.DEAD_LETTER
    cure = "The job ran longer than TRANSCRIPTD_JOB_TIMEOUT_SECONDS: split the recording or raise the limit."


# --- interruptions: nothing is wrong with the job ------------------------------------------------------------------


class Interrupted(TranscriptdError):
    """This daemon is leaving; another delivery does the job."""

    code = "interrupted"
    fate = Fate.RELEASE
    cure = "Nothing to do: the job continues on the next delivery."


class LeaseLost(TranscriptdError):
    """The visibility lease ended, or can no longer be proved: another daemon may hold the message."""

    code = "lease_lost"
    fate = Fate.ABANDON
    cure = "Nothing to do: the message is delivered again. If it repeats, look at SQS errors and event-loop lag."


def all_errors() -> list[type[TranscriptdError]]:
    """Every class that can reach a user, in the order of this file (docs/api.md prints them)."""

    def walk(cls: type[TranscriptdError]) -> list[type[TranscriptdError]]:
        return [cls, *(found for child in cls.__subclasses__() for found in walk(child))]

    return walk(TranscriptdError)


def error_class(code: str) -> type[TranscriptdError]:
    """The class of a code that crossed a process boundary; an unknown code is an internal error."""
    return next((cls for cls in all_errors() if cls.code == code), TranscriptdError)
