"""Turns a message body into a job. Makes every check that is possible before any work; errors use the contract's terms."""

import json
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import JsonValue, ValidationError

from daemon.bucket_settings import allows
from daemon.config import Settings
from daemon.errors import BucketNotAllowed, ConfigError, InvalidJob, PrefixNotAllowed
from daemon.jobs.message_forms import job_fields, read_form
from daemon.jobs.option_defaults import fill_in
from daemon.jobs.refusal import refusal
from daemon.media.clip import Clip
from daemon.schema.job import (
    CHECKPOINTS,
    JOB_ID,
    MAX_KEY_BYTES,
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_PREFIX_BYTES,
    Input,
    Job,
    Message,
    Place,
    Webhook,
)
from daemon.schema.notifications import NotAJob
from daemon.schema.wording import clip
from daemon.webhooks.ssrf import check_webhook_url

ANY = {"job_id": "any", "input": {"bucket": "any", "key": "any"}}  # a valid message, to validate single fields


def parse_job(body: str, settings: Settings) -> Job:
    """Parse and validate a message body.

    Raises an InvalidJob subclass that names the field, what is wrong with it, and what to do; NotAJob for a notification
    that announces no recording.
    """
    message = _validate(job_fields(read_form(body), settings))
    _check_metadata(message.metadata)
    _check_key(message.input.key)
    if message.input.words_of == message.job_id:
        raise InvalidJob("input.words_of is the job itself; name the finished job whose words to keep")
    input_bucket = message.input.bucket
    if not allows(settings.input_buckets, input_bucket):
        raise BucketNotAllowed(f'input.bucket "{input_bucket}" is not a bucket that this deployment reads from')
    output_bucket = message.output.bucket or settings.output_bucket
    if output_bucket is None:
        raise InvalidJob("output.bucket is missing and this deployment has no default; name a bucket")
    if not allows(settings.output_buckets, output_bucket) and output_bucket != settings.output_bucket:
        raise BucketNotAllowed(f'output.bucket "{output_bucket}" is not a bucket that this deployment writes to')
    return Job(
        job_id=message.job_id,
        input=message.input,
        output_bucket=output_bucket,
        output_prefix=_place(message, settings),
        options=fill_in(message.options, settings, _clip(message.input), message.input.words_of),
        webhook_url=_webhook_url(message.webhook, settings),
        metadata=message.metadata,
    )


def check_profiles(settings: Settings) -> None:
    """Raise ConfigError unless each profile makes valid jobs. Call before the daemon receives anything."""
    problems = []
    for profile in settings.profiles:
        bucket = profile.bucket or next((name for name in settings.input_buckets if name != "*"), "any")
        message = {"job_id": "profile", "input": {"bucket": bucket, "key": "key"}, "profile": profile.name}
        try:
            parse_job(json.dumps(message), settings)
        except InvalidJob as error:
            problems.append(f"profile {profile.name}: {error.message}")
    if problems:
        raise ConfigError("TRANSCRIPTD_PROFILES: " + "\n  ".join(problems))


def peek_job_id(body: str) -> str | None:
    """Return the job_id of a body that may be invalid otherwise, so that its failure can be reported."""
    try:
        job_id = read_form(body).fields.get("job_id")
    except (InvalidJob, NotAJob):
        return None
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None


class Parts(NamedTuple):
    """The parts of a message that an event repeats. In a refused message, a part that could not be read is empty."""

    input: Input | None
    place: Place | None
    metadata: dict[str, JsonValue]


def parts_of(job: Job) -> Parts:
    return Parts(job.input, job.place, job.metadata)


def peek_parts(body: str, settings: Settings) -> Parts:
    """Return the valid parts of a body. Each is validated separately."""
    try:
        fields = job_fields(read_form(body), settings)
    except (InvalidJob, NotAJob):
        return Parts(None, None, {})
    source: Input | None = None
    metadata: dict[str, JsonValue] = {}
    with suppress(ValidationError):
        source = Input.model_validate(fields.get("input"))
    with suppress(InvalidJob, ValidationError):
        given = Message.model_validate({**ANY, "metadata": fields.get("metadata", {})}).metadata
        _check_metadata(given)
        metadata = given
    return Parts(source, _place_of(fields, settings), metadata)


def peek_place(body: str, settings: Settings) -> Place | None:
    """Return the place of the results of a body that may be invalid otherwise, if it names an allowed one."""
    try:
        return _place_of(job_fields(read_form(body), settings), settings)
    except (InvalidJob, NotAJob):
        return None


def _place_of(fields: dict[str, Any], settings: Settings) -> Place | None:
    known = {name: fields[name] for name in ("job_id", "output") if name in fields}
    try:
        # A message with these fields alone: the others do not matter here.
        message = Message.model_validate({"input": ANY["input"], **known})
        bucket, prefix = message.output.bucket or settings.output_bucket, _place(message, settings)
    except (InvalidJob, ValidationError):
        return None
    base = prefix.removesuffix(message.job_id + "/")
    if bucket is None or not settings.allows_output(bucket, base):
        return None
    return Place(message.job_id, bucket, prefix)


def peek_webhook_url(body: str, settings: Settings) -> str | None:
    """Return the webhook URL of a body that may be invalid otherwise. Only an allowed URL is returned."""
    try:
        webhook = Webhook.model_validate(job_fields(read_form(body), settings).get("webhook"))
        return _webhook_url(webhook, settings)
    except (InvalidJob, NotAJob, ValidationError):
        return settings.webhook_url


def _check_metadata(metadata: dict[str, JsonValue]) -> None:
    """Reject metadata that would prevent the result from being written after the work is done."""
    try:
        size_bytes = len(json.dumps(metadata, allow_nan=False).encode())
    except ValueError as error:
        raise InvalidJob("metadata has a number outside the range of a double; send it as a string") from error
    if size_bytes > MAX_METADATA_BYTES:
        raise InvalidJob(
            f"metadata is larger than {MAX_METADATA_BYTES} bytes as JSON; make it smaller, or send a reference"
        )
    if _depth(metadata) > MAX_METADATA_DEPTH:
        raise InvalidJob(f"metadata is nested more than {MAX_METADATA_DEPTH} levels deep; make it flatter")
    try:
        json.dumps(metadata, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidJob(
            "metadata has half of a surrogate pair; check whether a string was cut within an emoji"
        ) from error


def _depth(value: JsonValue) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _check_key(key: str) -> None:
    """Reject keys that S3 rejects: an S3-compatible store might resolve `..` to a path outside the bucket."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidJob(f"input.key is longer than {MAX_KEY_BYTES} bytes in UTF-8; S3 does not allow longer keys")
    level = 0
    for part in key.split("/"):
        level += -1 if part == ".." else 1
        if level < 0:
            raise InvalidJob(f"input.key {clip(key)} leads out of its bucket with `..`; use the object's own key")


def _clip(source: Input) -> Clip:
    start_seconds, end_seconds = source.start_seconds or 0.0, source.end_seconds
    if end_seconds is not None and end_seconds <= start_seconds:
        raise InvalidJob(
            f"input.end_seconds ({end_seconds:g}) is not after input.start_seconds ({start_seconds:g}); correct one of the two"
        )
    return Clip(start_seconds, end_seconds)


def _validate(data: dict[str, Any]) -> Message:
    try:
        return Message.model_validate(data)
    except ValidationError as error:
        raise refusal(error) from None


def _prefix(prefix: str | None, settings: Settings) -> str:
    if prefix is None:
        return settings.output_prefix
    if prefix.startswith("/") or ".." in prefix.split("/") or not prefix.isprintable():
        raise InvalidJob(
            f"output.prefix {clip(prefix)} is not allowed: no leading slash, no `..`, no control or invisible characters"
        )
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise InvalidJob(f"output.prefix is longer than {MAX_PREFIX_BYTES} bytes in UTF-8; shorten it")
    prefix = prefix if prefix == "" or prefix.endswith("/") else prefix + "/"
    if not settings.allows_prefix(prefix):
        raise PrefixNotAllowed(f"output.prefix {clip(prefix)} is not below a prefix that this deployment writes to")
    return prefix


def _place(message: Message, settings: Settings) -> str:
    """Return the prefix of the job's results. It must not be where the checkpoints of another job are."""
    place = _prefix(message.output.prefix, settings) + message.job_id + "/"
    if "/" + CHECKPOINTS in "/" + place.removeprefix(settings.output_prefix):
        raise PrefixNotAllowed(
            f'results at {clip(place)} could be among the checkpoints of another job; avoid "checkpoints"'
        )
    return place


def _webhook_url(webhook: Webhook | None, settings: Settings) -> str | None:
    return settings.webhook_url if webhook is None else check_webhook_url(webhook.url, settings)
