"""The job message, contract v1: what an API publishes, validated before anything is spent on it.

The JSON Schema that docs/job.schema.json ships is generated from these classes.
"""

import json
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, StringConstraints, ValidationError

from daemon.config import Settings
from daemon.errors import (
    BucketNotAllowed,
    InvalidJob,
    InvalidJobId,
    InvalidJson,
    UnknownField,
    WebhookNotAllowed,
)
from daemon.options import ContractModel, JobOptions, Options, SubtitleOptions, fill_in
from daemon.wording import clip, nearest

MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 64
MAX_KEY_BYTES = 1024  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
MAX_PREFIX_BYTES = 512

# It becomes part of S3 keys, file names and log lines, hence the narrow alphabet; never `.` or `..`.
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Bucket = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]


class Input(ContractModel):
    """The recording: any audio or video that FFmpeg's libraries read."""

    bucket: Bucket
    key: str = Field(min_length=1, max_length=MAX_KEY_BYTES)
    version_id: str | None = Field(None, max_length=1024)


class Output(ContractModel):
    """Where results go: `<prefix><job_id>/…`. Both default to the deployment's settings."""

    bucket: Bucket | None = None
    prefix: str | None = Field(
        None, max_length=MAX_PREFIX_BYTES, description="ends with `/`, which is added where it is missing"
    )


class Webhook(ContractModel):
    """Where this job's events go, instead of the deployment's WEBHOOK_URL."""

    url: str = Field(max_length=2048)


class Message(ContractModel):
    """The body of an SQS message."""

    version: Literal[1] = 1
    job_id: str = Field(pattern=f"^{JOB_ID.pattern}$")
    input: Input
    output: Output = Output()
    options: Options = Options()
    webhook: Webhook | None = None
    metadata: dict[str, JsonValue] = Field(
        default_factory=dict,
        description=f"echoed in webhooks and manifest; at most {MAX_METADATA_BYTES} bytes as JSON, nested at most {MAX_METADATA_DEPTH} deep",
    )


class Job(ContractModel):
    """A message that passed every check, with all defaults filled in."""

    job_id: str
    input: Input
    output_bucket: str
    output_prefix: str  # `<prefix><job_id>/`
    options: JobOptions
    webhook_url: str | None
    metadata: dict[str, JsonValue]

    def output_key(self, name: str) -> str:
        return self.output_prefix + name


def parse_job(body: str, settings: Settings) -> Job:
    """The job in a message body.

    Raises an InvalidJob subclass that names the field, what is wrong with it, and what to do.
    """
    message = _validate(_json_object(body))
    _check_metadata(message.metadata)
    _check_key(message.input.key)
    input_bucket = message.input.bucket
    if not allows(settings.input_buckets, input_bucket):
        raise BucketNotAllowed(f'input.bucket "{input_bucket}" is not one this deployment reads from')
    output_bucket = message.output.bucket or settings.output_bucket
    if output_bucket is None:
        raise InvalidJob("output.bucket is missing and this deployment has no default; name a bucket")
    if not allows(settings.output_buckets, output_bucket) and output_bucket != settings.output_bucket:
        raise BucketNotAllowed(f'output.bucket "{output_bucket}" is not one this deployment writes to')
    return Job(
        job_id=message.job_id,
        input=message.input,
        output_bucket=output_bucket,
        output_prefix=_prefix(message.output.prefix, settings) + message.job_id + "/",
        options=fill_in(message.options, settings),
        webhook_url=_webhook_url(message.webhook, settings),
        metadata=message.metadata,
    )


def peek_job_id(body: str) -> str | None:
    """The job_id of a body that may be invalid otherwise: so that even its failure can be reported."""
    try:
        job_id = _json_object(body).get("job_id")
    except InvalidJob:
        return None
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None


def peek_webhook_url(body: str, settings: Settings) -> str | None:
    """Where to report a body that may be invalid otherwise; only a URL that would be allowed."""
    try:
        webhook = Webhook.model_validate(_json_object(body).get("webhook"))
        return _webhook_url(webhook, settings)
    except (InvalidJob, ValidationError):
        return settings.webhook_url


def allows(allowed: tuple[str, ...], name: str) -> bool:
    """Whether an allow-list has the name; `*` alone allows every name."""
    return allowed == ("*",) or name in allowed


def check_webhook_url(url: str, settings: Settings) -> str:
    """The URL, if this deployment may call it. Raises WebhookNotAllowed, which never quotes it: it may hold a token."""
    if url == settings.webhook_url:
        return url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port validates it
    except ValueError:
        raise WebhookNotAllowed("webhook.url is not a URL") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and settings.webhook_allow_http):
        raise WebhookNotAllowed("webhook.url must be https")
    if parts.username is not None or parts.password is not None:
        raise WebhookNotAllowed("webhook.url must not carry a user name or password; verify the signature instead")
    if host is None or not allows(settings.webhook_hosts, host):
        raise WebhookNotAllowed(f"webhook.url: the host {clip(host)} is not one this deployment may call")
    return url


def _check_metadata(metadata: dict[str, JsonValue]) -> None:
    """Refuse now what no result could be written with once the work is done."""
    try:
        size_bytes = len(json.dumps(metadata, allow_nan=False).encode())
    except ValueError as error:
        raise InvalidJob("metadata has a number beyond the range of a double; write it as text") from error
    if size_bytes > MAX_METADATA_BYTES:
        raise InvalidJob(
            f"metadata is larger than {MAX_METADATA_BYTES} bytes as JSON; keep it small, or pass a reference"
        )
    if _depth(metadata) > MAX_METADATA_DEPTH:
        raise InvalidJob(f"metadata is nested more than {MAX_METADATA_DEPTH} deep; make it flatter")
    try:
        json.dumps(metadata, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidJob("metadata has half of a surrogate pair; was a text with an emoji cut in two?") from error


def _depth(value: JsonValue) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _check_key(key: str) -> None:
    """Refuse what S3 refuses: a store that is only like S3 might let a climbing key out of its bucket."""
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidJob(f"input.key is longer than {MAX_KEY_BYTES} bytes in UTF-8; S3 has no such keys")
    level = 0
    for part in key.split("/"):
        level += -1 if part == ".." else 1
        if level < 0:
            raise InvalidJob(f"input.key {clip(key)} climbs out of its bucket with `..`; name the object itself")


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _json_object(body: str) -> dict[str, Any]:
    try:
        data = json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"the body is not JSON ({error}); send one JSON object") from error
    if not isinstance(data, dict):
        raise InvalidJson(f"the body is a JSON {_json_type(data)}; send one JSON object")
    return data


def _json_type(value: object) -> str:
    names = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names.get(type(value), "value")


def _validate(data: dict[str, Any]) -> Message:
    try:
        return Message.model_validate(data)
    except ValidationError as error:
        # Unknown names first: a misspelt field is also "missing" under its right name, and the spelling is the cure.
        problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
        raise _translate(problems[0]["loc"], problems[0]["type"], problems[0]["msg"], problems[0]["input"]) from None


def _translate(loc: tuple[int | str, ...], kind: str, message: str, value: object) -> InvalidJob:
    """One of pydantic's complaints in the words of the contract. Values are quoted, but never at length."""
    path = ".".join(str(part) for part in loc)
    if kind == "extra_forbidden":
        known = _fields_at(loc[:-1])
        hint = nearest(str(loc[-1]), known, otherwise="known here: ")
        return UnknownField(f"unknown {'option' if loc[0] == 'options' else 'field'} {clip(path)}; {hint}")
    if kind == "missing":
        return InvalidJob(f"{path} is missing; it is required")
    if path == "job_id":
        return InvalidJobId(
            f"job_id {clip(value)} is not allowed; {InvalidJobId.cure[0].lower()}{InvalidJobId.cure[1:]}"
        )
    # What stands where an object or a list belongs, or is one itself, may hold what is private below it.
    private = _PRIVATE & {*loc} or isinstance(value, dict | list) or kind in _WRONG_SHAPE
    got = f"a JSON {_json_type(value)}" if private else clip(value)
    return InvalidJob(f"{clip(path)}: {message[0].lower()}{message[1:]}; got {got}")


_WRONG_SHAPE = {"model_type", "model_attributes_type", "dict_type", "list_type", "tuple_type"}  # pydantic's names
# Fields whose values must not be quoted in logs and dead letters: tokens in URLs, the caller's data, what is spoken.
_PRIVATE = {"webhook", "metadata", "initial_prompt", "hotwords", "vocabulary", "audio_url"}


def _fields_at(loc: tuple[int | str, ...]) -> list[str]:
    models: dict[tuple[int | str, ...], type[ContractModel]] = {
        (): Message,
        ("input",): Input,
        ("output",): Output,
        ("options",): Options,
        ("options", "subtitles"): SubtitleOptions,
        ("webhook",): Webhook,
    }
    return list(models[loc].model_fields)


def _prefix(prefix: str | None, settings: Settings) -> str:
    if prefix is None:
        return settings.output_prefix
    if prefix.startswith("/") or ".." in prefix.split("/") or not prefix.isprintable():
        raise InvalidJob(
            f"output.prefix {clip(prefix)} is not allowed: no leading slash, no `..`, no control or invisible characters"
        )
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise InvalidJob(f"output.prefix is longer than {MAX_PREFIX_BYTES} bytes in UTF-8; shorten it")
    return prefix if prefix == "" or prefix.endswith("/") else prefix + "/"


def _webhook_url(webhook: Webhook | None, settings: Settings) -> str | None:
    return settings.webhook_url if webhook is None else check_webhook_url(webhook.url, settings)
