"""What every tool does alike: how it ends, what it takes from the environment, how it reaches AWS and the screen."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console

from daemon.config import Settings, read_settings, variable
from daemon.errors import ConfigError
from daemon.sqs import refuse_garbage

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNFINISHED = 3
EXIT_AWS = 4
EXIT_INTERRUPTED = 130  # what a shell reports after Ctrl-C

CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 30
TRIES = 4
SLICE_SECONDS = 0.1
# Wide enough that a pipe or a file gets whole lines.
PIPE_COLUMNS = 240

# What the shell of a person need not know of the deployment. The daemon checks it; a tool lets it pass.
UNKNOWN: dict[str, Any] = {
    "queue_url": "unknown:queue",
    "dlq_url": "unknown:dlq",
    "output_bucket": "unknown",
    "output_buckets": ("*",),
    "webhook_hosts": ("*",),
    "webhook_secret": "unknown",
}

err = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


class ToolError(Exception):
    """The end of a command, in words for the person at the terminal."""

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


class UsageError(ToolError):
    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_USAGE)


def run(name: str, call: Callable[[], int]) -> int:
    """The exit status of a command, with what ended it said on stderr."""
    try:
        return call()
    except ToolError as error:
        message, status = str(error), error.status
    except ConfigError as error:
        message, status = error.message, EXIT_USAGE
    except (BotoCoreError, ClientError, Boto3Error) as error:
        message, status = f"AWS: {error}", EXIT_AWS
    except KeyboardInterrupt:
        message, status = "stopped", EXIT_INTERRUPTED
    except BrokenPipeError:  # `… | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    err.print(f"transcriptd {name}: {printable(message)}")
    return status


# --- environment ---------------------------------------------------------------------------------------------------


def from_environment(name: str) -> str | None:
    """The value of a setting, without a look at the others; None if it is absent or empty."""
    return next((value for key, value in os.environ.items() if key.upper() == variable(name)), None) or None


def required(given: str | None, name: str) -> str:
    """What was given on the command line, else the setting. Raises UsageError if there is neither."""
    if value := given or from_environment(name):
        return value
    raise UsageError(f"--{name.replace('_', '-')} is missing, and {variable(name)} is not set")


def contract_settings(**given: Any) -> Settings:
    """Settings to check a message by: what is given (None: nothing), and what the environment tells of the deployment.

    What it does not tell is allowed.
    """
    unknown = {name: value for name, value in UNKNOWN.items() if from_environment(name) is None}
    return read_settings(**unknown | {name: value for name, value in given.items() if value is not None})


# --- AWS -----------------------------------------------------------------------------------------------------------


def _config() -> Config:
    return Config(
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
    )


def open_sqs() -> "SQSClient":
    """A client that takes for an answer only what can be one."""
    client = boto3.client("sqs", config=_config())
    client.meta.events.register("before-parse.sqs", refuse_garbage)
    return client


def open_s3() -> "S3Client":
    return boto3.client("s3", config=_config())


def send(sqs: "SQSClient", queue_url: str, body: str, attributes: dict[str, Any]) -> str:
    """Send a message; its id, which proves that SQS has it."""
    sent: dict[str, Any] = {**sqs.send_message(QueueUrl=queue_url, MessageBody=body, MessageAttributes=attributes)}
    if not sent.get("MessageId"):
        raise ToolError("SQS answered a send without a message id: what answers is not SQS", EXIT_AWS)
    return str(sent["MessageId"])


# --- stopping ------------------------------------------------------------------------------------------------------


class Stop:
    """`with Stop() as stop:` Ctrl-C and SIGTERM are noted in `asked`, for the command to stop between two steps.

    A second one does not wait.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until one asks to stop."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, SLICE_SECONDS))

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, the first Ctrl-C raises KeyboardInterrupt, as does an earlier one: while a person is asked."""
        earlier, self.asked = self.asked, True
        if earlier:
            raise KeyboardInterrupt
        try:
            yield
        finally:
            self.asked = False


# --- screen --------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Text of strangers for a terminal: what could command it is written as its escape; line breaks stay."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode() for char in text
    )


def age(seconds: float) -> str:
    """`45s`, `12m`, `3h 20m`, `2d 4h`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m" if minutes else f"{rest}s"
