"""Shared parts of the commands: exit statuses, settings, AWS clients, signals and terminal output."""

import json
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from daemon.aws.sqs import in_group, refuse_garbage
from daemon.config import Settings, read_settings, variable
from daemon.errors import ConfigError
from daemon.job_queues import named
from daemon.jobs.validation import parse_job
from daemon.schema.job import JOB_ID, Job
from daemon.schema.tenant import RULE, valid_tenant
from daemon.settings_rules import queue_region
from daemon.telemetry.redaction import describe

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNFINISHED = 3
EXIT_AWS = 4
EXIT_INTERRUPTED = 130  # the shell's exit status after Ctrl-C

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30
TRIES = 4
SLICE_SECONDS = 0.1
# Wide enough to keep table rows on one line in a pipe or a file.
PIPE_COLUMNS = 240
MAX_READ_BYTES = 64 * 1024 * 1024

# Placeholders for deployment settings that the user's shell may lack. Only the daemon validates these.
UNKNOWN: dict[str, Any] = {
    "queue_url": "unknown:queue",
    "dlq_url": "unknown:dlq",
    "queue_weights": (),
    "queue_visibility_timeout_seconds": (),
    "output_bucket": "unknown",
    "output_buckets": ("*",),
    "output_prefixes": ("*",),
    "webhook_hosts": ("*",),
    "webhook_secret": "unknown",
}

# Settings that name the queues.
QUEUE_SETTINGS = ("queue_url", "dlq_url", "queue_weights", "queue_visibility_timeout_seconds")

err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


class ToolError(Exception):
    """Raised to end a command with an error message for the user."""

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


class UsageError(ToolError):
    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_USAGE)


def run(name: str, call: Callable[[], int]) -> int:
    """Run a command and return its exit status. Prints an error to stderr."""
    try:
        return call()
    except ToolError as error:
        message, status = str(error), error.status
    except ConfigError as error:
        message, status = error.message, EXIT_USAGE
    except (BotoCoreError, ClientError, Boto3Error) as error:
        message, status = f"AWS: {describe(error)}", EXIT_AWS
    except KeyboardInterrupt:
        message, status = "stopped", EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has closed the pipe, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    err.print(f"transcriptd {name}: {printable(message)}")
    return status


# --- environment ---------------------------------------------------------------------------------------------------


def from_environment(name: str) -> str | None:
    """Return the value of one setting without validating the others; None if it is unset or empty."""
    return next((value for key, value in os.environ.items() if key.upper() == variable(name)), None) or None


def required(given: str | None, name: str) -> str:
    """Return the command-line value, or else the setting. Raises UsageError if both are missing."""
    if value := given or from_environment(name):
        return value
    raise UsageError(f"--{name.replace('_', '-')} is missing, and {variable(name)} is not set")


def queue_url(arguments: Namespace, name: str) -> str:
    """Return the URL that the command line gives, or else the setting's for the chosen queue. Raises UsageError."""
    if given := getattr(arguments, name):
        return str(given)
    urls = dict(named(tuple(required(None, name).replace(",", " ").split())))
    chosen, names = arguments.queue, ", ".join(urls)
    if chosen is None and len(urls) > 1:
        raise UsageError(f"{variable(name)} has several queues: pass --queue with one of {names}")
    if chosen is not None and chosen not in urls:
        raise UsageError(f"{variable(name)} has no queue {chosen}; it has {names}")
    return urls[chosen] if chosen is not None else next(iter(urls.values()))


def contract_settings(**given: Any) -> Settings:
    """Return the settings to validate a message with: the given values that are not None, then the environment.

    A setting that neither defines does not restrict the message.
    """
    unknown = {name: value for name, value in UNKNOWN.items() if from_environment(name) is None}
    if unknown.keys() & {"queue_url", "dlq_url"}:  # they must name the same queues
        unknown |= {name: UNKNOWN[name] for name in QUEUE_SETTINGS}
    return read_settings(**unknown | {name: value for name, value in given.items() if value is not None})


def results_place(arguments: Namespace) -> tuple[str, str]:
    """Return the bucket and the prefix below which the results of all jobs are."""
    bucket = required(arguments.output_bucket, "output_bucket")
    return bucket, contract_settings(output_prefix=arguments.output_prefix).output_prefix


def require_job_id(job_id: str) -> None:
    """Raise UsageError unless the text is a job ID."""
    if not JOB_ID.fullmatch(job_id):
        raise UsageError(f"{job_id!r} is not a job ID")


def check_message(message: dict[str, Any], settings: Settings) -> Job:
    """Validate a job message by the daemon's rules. Raises InvalidJob.

    Without TRANSCRIPTD_PROFILES, only the daemon knows what the message's profile adds.
    """
    known = message if settings.profiles else {name: value for name, value in message.items() if name != "profile"}
    return parse_job(json.dumps(known, ensure_ascii=False), settings)


# --- AWS -----------------------------------------------------------------------------------------------------------


def _config(**more: Any) -> Config:
    return Config(
        **more,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )


def open_sqs(queue_url: str) -> "SQSClient":
    """Open a client, in the region of the queue's URL, that rejects responses that cannot come from SQS."""
    client = boto3.client("sqs", region_name=queue_region(queue_url), config=_config())
    client.meta.events.register("before-parse.sqs", refuse_garbage)
    return client


def open_s3(settings: Settings) -> "S3Client":
    """Open a client that follows the settings for buckets, with the credentials of now: a session keeps those it has found."""
    client = boto3.Session().client("s3", config=_config(s3=settings.s3_options))
    settings.prepare_client(client)
    return client


def read_object(s3: "S3Client", bucket: str, key: str) -> bytes | None:
    """Return an object's body, or None if it does not exist. Raises ToolError."""
    where = f"s3://{bucket}/{key}"
    try:
        response = s3.get_object(Bucket=bucket, Key=key)
        body = response["Body"].read(MAX_READ_BYTES + 1)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("NoSuchKey", "404"):
            return None
        if code in ("AccessDenied", "403"):
            raise ToolError(
                f"{where}: access denied; grant s3:GetObject and s3:ListBucket (without the latter S3 answers 403 if there is no object)",
                EXIT_AWS,
            ) from error
        raise
    if len(body) > MAX_READ_BYTES:
        raise ToolError(f"{where} is larger than {MAX_READ_BYTES} bytes", EXIT_AWS)
    return body


def require_tenant(name: str | None) -> None:
    """Raise UsageError if SQS would refuse the name as a message group ID."""
    if name is not None and valid_tenant(name) is None:
        raise UsageError(f"--tenant {name[:130]!r} is not a message group ID: use {RULE}")


def send(sqs: "SQSClient", queue_url: str, body: str, attributes: dict[str, Any], tenant: str | None = None) -> str:
    """Send a message and return its ID, which confirms that SQS has stored it."""
    call: dict[str, Any] = {"QueueUrl": queue_url, "MessageBody": body, "MessageAttributes": attributes}
    sent: dict[str, Any] = {**sqs.send_message(**call, **in_group(tenant))}
    if not sent.get("MessageId"):
        raise ToolError("SendMessage returned no message ID: the endpoint is not SQS", EXIT_AWS)
    return str(sent["MessageId"])


# --- stopping ------------------------------------------------------------------------------------------------------


class Stop:
    """Record Ctrl-C and SIGTERM in `requested`, so that the command can stop between two steps.

    The second signal raises KeyboardInterrupt. Use as a context manager.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def sleep(self, seconds: float) -> None:
        """Sleep until the time has passed or a stop is requested."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_SECONDS))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal raise KeyboardInterrupt, also one that came before. For prompts."""
        earlier, self.requested = self.requested, True
        if earlier:
            raise KeyboardInterrupt
        try:
            yield
        finally:
            self.requested = False


# --- screen --------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Escape control characters in untrusted text, except line breaks and tabs."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def age(seconds: float) -> str:
    """Format an age as `45s`, `12m`, `3h 20m` or `2d 4h`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m" if minutes else f"{rest}s"
