"""All errors, and how each one affects the job.

Each subclass of TranscriptdError has a stable `code` (part of the public contract: it appears in the dead-letter queue,
webhooks, logs and metric labels), its `on_failure`, and a `hint`, which docs/errors.md prints next to the code. The
message given to the constructor says what was wrong and where.
"""

from enum import StrEnum
from typing import ClassVar


class OnFailure(StrEnum):
    """What happens to the message after an error; `processor.py` turns it into a disposition."""

    RETRY = "retry"  # may succeed later: the attempt counts, and the message becomes visible after a backoff
    RELEASE = "release"  # the daemon is stopping: the message is visible again at once, and no attempt counts
    ABANDON = "abandon"  # the lease is lost: no further call on the message is allowed
    DEAD_LETTER = "dead_letter"  # cannot succeed: the message moves to the dead-letter queue with the reason
    CANCEL = "cancel"  # no longer wanted: the message is deleted, and no attempt counts


class TranscriptdError(Exception):
    """Base class of all errors that transcriptd raises deliberately."""

    code: ClassVar[str] = "internal_error"
    on_failure: ClassVar[OnFailure] = OnFailure.RETRY
    hint: ClassVar[str] = "A fault in transcriptd itself: report it with the traceback."
    # Whether a retry counts as an attempt. Faults that affect every job (S3 down, disk full) do not count.
    consumes_attempt: ClassVar[bool] = True

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail  # traceback or library output of another process; truncate it before showing it


# --- start-up -----------------------------------------------------------------------------------------------------


EXIT_CONFIG = 78  # EX_CONFIG: the settings are invalid, so a restart does not help


class ConfigError(TranscriptdError):
    """The settings are invalid; the daemon does not start."""

    code = "config_invalid"
    hint = "Correct the setting that the message names."


class SetupFailed(TranscriptdError):
    """The runner process could not load its models."""

    code = "runner_setup_failed"
    consumes_attempt = False
    hint = "Read the runner's message. Likely causes are a wrong model name or token, the GPU driver, or too little memory."


# --- the message --------------------------------------------------------------------------------------------------


class InvalidJob(TranscriptdError):
    """The message violates the job contract."""

    code = "invalid_message"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Correct the field that the message names; docs/job.schema.json is the contract."


class InvalidJson(InvalidJob):
    code = "invalid_json"
    hint = "Send the body as one JSON object in UTF-8."


class UnknownField(InvalidJob):
    code = "unknown_field"
    hint = "Remove or rename the field; the message names the nearest known one."


class InvalidJobId(InvalidJob):
    code = "invalid_job_id"
    hint = "Use 1 to 128 of A-Z a-z 0-9 . _ - and start with a letter or digit."


class SeveralRecords(InvalidJob):
    code = "several_records"
    hint = "Send each record of the S3 notification in its own message, as S3 does."


class UnknownProfile(InvalidJob):
    code = "unknown_profile"
    hint = "Use a profile of the file that TRANSCRIPTD_PROFILES names, or none."


class UnknownModel(InvalidJob):
    code = "unknown_model"
    hint = "Use a model that this deployment offers (TRANSCRIPTD_MODELS)."


class UnknownLanguage(InvalidJob):
    code = "unknown_language"
    hint = "Use a Whisper language code such as `en`, or null to detect it."


class LanguageConflict(InvalidJob):
    code = "language_conflict"
    hint = "Give options.language to name the language, or options.languages to restrict its detection, but not both."


class UnknownFormat(InvalidJob):
    code = "unknown_format"
    hint = "Use the formats that docs/results.md lists."


class InvalidSpeakers(InvalidJob):
    code = "invalid_speakers"
    hint = "Give num_speakers alone, or min_speakers no larger than max_speakers; none of them with split channels."


class UnsupportedTask(InvalidJob):
    code = "unsupported_task"
    hint = "Translate with a multilingual model other than large-v3-turbo."


class BucketNotAllowed(InvalidJob):
    code = "bucket_not_allowed"
    hint = "Add the bucket to TRANSCRIPTD_INPUT_BUCKETS or TRANSCRIPTD_OUTPUT_BUCKETS, or use one that is listed there."


class PrefixNotAllowed(InvalidJob):
    code = "prefix_not_allowed"
    hint = "Use a prefix below TRANSCRIPTD_OUTPUT_PREFIX or below one that TRANSCRIPTD_OUTPUT_PREFIXES lists."


class WebhookNotAllowed(InvalidJob):
    code = "webhook_not_allowed"
    hint = "Use https and a host that TRANSCRIPTD_WEBHOOK_HOSTS lists."


class JobIdConflict(InvalidJob):
    code = "job_id_conflict"
    hint = "Use a different job_id for each recording and choice of options: a finished job with this job_id has others. Only formats, subtitles and audio_url may differ."


class TranscriptUnavailable(InvalidJob):
    """The stored transcript of a finished job cannot be used."""

    code = "transcript_unavailable"
    hint = "The earlier job has no usable transcript.json: it is not finished, had no `json` among its formats, or the file was removed or changed. Send the recording as a new job with `json` among the formats."


class NeedsTranscription(InvalidJob):
    code = "needs_transcription"
    hint = "input.words_of keeps the words of an earlier job: remove the option that would change them, or remove words_of to transcribe again."


class RecordingChanged(InvalidJob):
    code = "recording_changed"
    hint = "The recording is not the one of the job that input.words_of names: name the same object and version, or remove words_of to transcribe it."


class OutputOccupied(InvalidJob):
    """An object that transcriptd did not write has the key of one of the job's results."""

    code = "output_occupied"
    hint = "The key of a result belongs to an object that transcriptd did not write: remove it, or use another prefix or job_id."


# --- the input ----------------------------------------------------------------------------------------------------


class ObjectMissing(TranscriptdError):
    code = "object_missing"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Upload the object before you send the message; check bucket, key and version_id."


class AccessDenied(TranscriptdError):
    code = "access_denied"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Grant the instance role s3:GetObject (and kms:Decrypt) on the input, s3:GetObject, s3:PutObject and s3:DeleteObject on the output, and s3:ListBucket on both."


class ObjectRefused(TranscriptdError):
    code = "object_refused"
    on_failure = OnFailure.DEAD_LETTER
    hint = "S3 refuses the request for this object, and repeating it cures nothing: S3's code in the message names the cause, such as an object encrypted with the customer's own key (SSE-C)."


class ObjectArchived(TranscriptdError):
    code = "object_archived"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Restore the object from its archive storage class, then send the message again."


class ObjectEmpty(TranscriptdError):
    code = "object_empty"
    on_failure = OnFailure.DEAD_LETTER
    hint = "The object has 0 bytes: upload it again."


class ObjectTooLarge(TranscriptdError):
    code = "object_too_large"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Split or compress the recording, or raise TRANSCRIPTD_MAX_INPUT_BYTES."


class MediaUnreadable(TranscriptdError):
    code = "media_unreadable"
    on_failure = OnFailure.DEAD_LETTER
    hint = "The file is not media, or is truncated or damaged: check that it plays, and upload it again."


class NoAudio(TranscriptdError):
    code = "no_audio_stream"
    on_failure = OnFailure.DEAD_LETTER
    hint = "The file has no audio stream: send a recording with sound."


class AudioTrackMissing(TranscriptdError):
    code = "audio_track_missing"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Set options.audio_track to an audio stream of the file, counted from 0, or to null for the first one."


class TooManyChannels(TranscriptdError):
    code = "too_many_channels"
    on_failure = OnFailure.DEAD_LETTER
    hint = "At most 8 channels can be split: send fewer, or set options.channels to `mix`."


class MediaTooLong(TranscriptdError):
    code = "media_too_long"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Split the recording, or raise TRANSCRIPTD_MAX_MEDIA_SECONDS."


class ClipOutOfRange(TranscriptdError):
    code = "clip_out_of_range"
    on_failure = OnFailure.DEAD_LETTER
    hint = "The recording ends before input.start_seconds: correct the time, or remove it."


class DecodeLimit(TranscriptdError):
    """The decoder reached its time, memory or output limit: hostile or very unusual media."""

    code = "decode_limit"
    on_failure = OnFailure.DEAD_LETTER
    hint = "Decoding the file takes far more resources than its length explains: convert it to a common format first."


class DecoderKilled(TranscriptdError):
    """The kernel killed the decoder, which it does first when the host runs out of memory."""

    code = "decoder_killed"
    hint = "The host ran out of memory, so the kernel killed the decoder; the job is retried. If it recurs, use a host with more memory, or lower TRANSCRIPTD_DECODE_MEMORY_BYTES."


class CrashSuspect(TranscriptdError):
    """Deliveries of the job repeatedly ended without an outcome: the job probably crashes its host."""

    code = "crash_suspect"
    on_failure = OnFailure.DEAD_LETTER
    consumes_attempt = False  # the job was not attempted
    hint = "The job was started several times and its daemon died each time: test the recording on a spare instance."


# --- work that may succeed later ----------------------------------------------------------------------------------


class StorageUnavailable(TranscriptdError):
    code = "storage_unavailable"
    consumes_attempt = False
    hint = "S3 failed, throttled or timed out; the job is retried. If it persists, check the network and the region."


class QueueUnavailable(TranscriptdError):
    code = "queue_unavailable"
    consumes_attempt = False
    hint = "SQS failed, throttled or timed out; the call is retried. If it persists, check the network and the region."

    def __init__(self, message: str, *, may_have_worked: bool = True) -> None:
        super().__init__(message)
        self.may_have_worked = may_have_worked  # False only if SQS rejected the call or never received it


class QueueRefused(QueueUnavailable):
    """SQS refuses a call for every message: the queue is missing, or it or its KMS key denies access."""

    code = "queue_refused"
    hint = "The queue that the message names is missing, or it or its KMS key denies access. Correct the URL or the policy; receiving pauses until then (runbook TranscriptdBrakeEngaged)."

    def __init__(self, message: str, *, may_have_worked: bool = False) -> None:
        super().__init__(message, may_have_worked=may_have_worked)


class MessageGone(QueueUnavailable):
    """The receipt handle is valid no longer: the message expired, was purged, deleted or received again."""

    code = "message_gone"
    hint = "The message expired or was purged while its job ran. Raise the queue's retention period, or add capacity."

    def __init__(self, message: str, *, may_have_worked: bool = False) -> None:
        super().__init__(message, may_have_worked=may_have_worked)


class StorageRefused(TranscriptdError):
    """S3 refuses this deployment's requests, whatever the object. Jobs must not be dead-lettered for this."""

    code = "storage_refused"
    consumes_attempt = False
    hint = "S3 rejects the credentials or the clock of this instance. The job is retried, and receiving pauses until the fault is fixed (runbook TranscriptdBrakeEngaged)."


class OutputRefused(TranscriptdError):
    """The deployment's own output bucket is missing or denies access. Jobs must not be dead-lettered for this."""

    code = "output_refused"
    consumes_attempt = False
    hint = (
        "TRANSCRIPTD_OUTPUT_BUCKET is missing, or it or its KMS key denies access to the instance role. The job is "
        "retried, and receiving pauses until the fault is fixed (runbook TranscriptdBrakeEngaged)."
    )


class DiskFull(TranscriptdError):
    code = "disk_full"
    consumes_attempt = False
    hint = "The scratch disk is full; the job is retried. Give the instance more scratch space."


class DiskTooSmall(TranscriptdError):
    """The recording is within the limit on its size, but larger than the whole scratch disk: the deployment's fault.

    Consumes attempts: other instances may have larger disks, but this one will never have the space.
    """

    code = "disk_too_small"
    hint = "The recording is larger than the scratch disk. Give the instances a disk of at least TRANSCRIPTD_MAX_INPUT_BYTES, or lower that limit; then send the message again."


class ModelUnavailable(TranscriptdError):
    code = "model_unavailable"
    hint = "The model could not be downloaded or loaded. Run `transcriptd models verify`, and check the hub, the token and the instance's memory."


class RunnerCrashed(TranscriptdError):
    code = "runner_crashed"
    hint = "The runner process died and was replaced; the job is retried. If one job causes it repeatedly, inspect its recording."


class RunnerStalled(TranscriptdError):
    code = "runner_stalled"
    hint = "The runner made no progress and was replaced; the job is retried."


class DeviceFault(TranscriptdError):
    """CUDA reported an error; the process that received it cannot use the device again."""

    code = "device_fault"
    hint = "CUDA failed; the runner was replaced and the job is retried. If it recurs, replace the instance."


class OutOfMemory(TranscriptdError):
    code = "out_of_memory"
    hint = "Device memory is insufficient even at batch size 1: use a smaller model or a larger GPU."


class JobTimeout(TranscriptdError):
    code = "job_timeout"
    on_failure = OnFailure.DEAD_LETTER
    hint = "The job ran longer than TRANSCRIPTD_JOB_TIMEOUT_SECONDS: split the recording or raise the limit."


# --- interruptions: nothing is wrong with the job ------------------------------------------------------------------


class Interrupted(TranscriptdError):
    """This daemon is stopping; another delivery continues the job."""

    code = "interrupted"
    on_failure = OnFailure.RELEASE
    hint = "No action needed: the job continues on the next delivery."


class LeaseLost(TranscriptdError):
    """The lease expired, or can no longer be proved: another daemon may hold the message."""

    code = "lease_lost"
    on_failure = OnFailure.ABANDON
    hint = "No action needed: the message is delivered again. If it recurs, check for SQS errors and event-loop lag."


class JobCancelled(TranscriptdError):
    """Someone with write access to the job's results requested its cancellation."""

    code = "cancelled"
    on_failure = OnFailure.CANCEL
    consumes_attempt = False
    hint = "No action needed: the job was cancelled on request. To run it after all, send it again."


def all_errors() -> list[type[TranscriptdError]]:
    """Return every error class that can reach a user, in the order of this file (for docs/errors.md)."""

    def walk(cls: type[TranscriptdError]) -> list[type[TranscriptdError]]:
        return [cls, *(found for child in cls.__subclasses__() for found in walk(child))]

    return walk(TranscriptdError)


def error_class(code: str) -> type[TranscriptdError]:
    """Return the error class of a code from another process. An unknown code is an internal error."""
    return next((cls for cls in all_errors() if cls.code == code), TranscriptdError)
