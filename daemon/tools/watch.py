"""`transcriptd watch`: follow a job to its end by what lies in S3, and fetch its transcript.

The end is the manifest, or a failure in the record of deliveries. In between S3 knows when a delivery began and which
parts are finished, but neither how many there will be nor the progress within one: that is told by webhooks alone, so
no percentage is shown. A message that is refused before a delivery is noted (one that breaks the contract) leaves
nothing in S3 at all: it looks like one that waits.
"""

import hashlib
import shlex
import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Self

from botocore.exceptions import ClientError
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from daemon.errors import JobIdConflict, error_class
from daemon.history import Delivery, History
from daemon.job import JOB_ID, Input
from daemon.manifest import MANIFEST_NAME, Manifest
from daemon.results import CHECKPOINTS, HISTORY_NAME
from daemon.tools.command import (
    EXIT_AWS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNFINISHED,
    ToolError,
    UsageError,
    contract_settings,
    err,
    open_s3,
    printable,
    required,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POLL_SECONDS = 2.0
MAX_READ_BYTES = 64 * 1024 * 1024
DEFAULT_FORMAT = "md"
# How the names of checkpoints begin (pipeline/saved.py) → what was finished.
PARTS = {
    "asr-": "recognized speech",
    "plain-": "recognized speech",
    "align-": "timed words",
    "attend-": "timed words",
    "diarize": "speakers",
}


@dataclass(frozen=True)
class Watched:
    """A job, and where its results will be."""

    job_id: str
    bucket: str
    prefix: str  # `<prefix><job_id>/`
    message_id: str | None = None  # of this message alone the failures count
    input: Input | None = None  # what it was published with, where that is known


@dataclass(frozen=True)
class Seen:
    """What S3 has of a job at one moment."""

    manifest: Manifest | None = None
    deliveries: tuple[Delivery, ...] = ()  # of one message
    parts: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return bool(self.deliveries) and self.deliveries[-1].outcome == "dead_lettered"

    def __str__(self) -> str:
        if not self.deliveries:
            return "waiting: no daemon has begun it"
        last = self.deliveries[-1]
        attempt = 1 + sum(each.counts for each in self.deliveries[:-1])
        if last.outcome is None:
            since = time.strftime("%H:%M:%S", time.localtime(last.begun_at))
            done = f"; stored so far: {', '.join(self.parts)}" if self.parts else ""
            return f"worked on since {since} by {last.worker_id}, attempt {attempt}{done}"
        said = f"{last.reason}: {last.message}" if last.message else f"{last.reason}"
        return f"waiting for the next delivery; attempt {attempt} ended {last.outcome} ({said})"


def watch(arguments: Namespace) -> int:
    if not JOB_ID.fullmatch(arguments.job_id):
        raise UsageError(f"{arguments.job_id!r} is not a job id")
    check_target(arguments)
    bucket = required(arguments.output_bucket, "output_bucket")
    prefix = contract_settings(output_prefix=arguments.output_prefix).output_prefix
    return follow(Watched(arguments.job_id, bucket, f"{prefix}{arguments.job_id}/", arguments.message_id), arguments)


def check_target(arguments: Namespace) -> None:
    """Refuse a directory that has something in it: now, not after the work."""
    if arguments.save is None:
        return
    target = Path(arguments.save)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--save {target}: give a directory that is new or empty")


def follow(watched: Watched, arguments: Namespace) -> int:
    """Watch to the end, then print or save the result. Ctrl-C ends the watching, never the job."""
    s3 = open_s3()
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    try:
        with Display(err, watched.job_id) as display:
            while True:
                seen = look(s3, watched)
                if seen.manifest or seen.failed:
                    break
                display.show(str(seen))
                if deadline is not None and time.monotonic() >= deadline:
                    raise ToolError(f"not finished within the time; {_again(watched)}", EXIT_UNFINISHED)
                left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
                time.sleep(min(POLL_SECONDS, max(0.0, left)))
    except KeyboardInterrupt:
        err.print(f"\nstopped watching; the job goes on; {_again(watched)}")
        return EXIT_INTERRUPTED
    if seen.manifest:
        _check_input(watched, seen.manifest)
        return _deliver(s3, watched, seen.manifest, arguments)
    return _report(watched, seen.deliveries[-1])


def look(s3: "S3Client", watched: Watched) -> Seen:
    """What there is. The record is read first: who is finished meanwhile has a manifest then, and that counts."""
    record = _read(s3, watched.bucket, watched.prefix + HISTORY_NAME)
    body = _read(s3, watched.bucket, watched.prefix + MANIFEST_NAME)
    if body is not None:
        try:
            return Seen(manifest=Manifest.model_validate_json(body))
        except ValidationError as error:
            raise ToolError(
                f"s3://{watched.bucket}/{watched.prefix}{MANIFEST_NAME} is not a manifest", EXIT_AWS
            ) from error
    try:
        deliveries = History.model_validate_json(record).deliveries if record else ()
    except ValidationError:
        deliveries = ()  # the daemon begins it anew
    message_id = watched.message_id or (deliveries[-1].message_id if deliveries else None)
    deliveries = tuple(each for each in deliveries if each.message_id == message_id)
    return Seen(deliveries=deliveries, parts=_parts(s3, watched) if deliveries else ())


def _parts(s3: "S3Client", watched: Watched) -> tuple[str, ...]:
    """What is finished of an unfinished job, in words."""
    prefix = watched.prefix + CHECKPOINTS
    listed = s3.list_objects_v2(Bucket=watched.bucket, Prefix=prefix).get("Contents", [])
    names = [item["Key"].rpartition("/")[2] for item in listed]
    counts = Counter(words for name in names for start, words in PARTS.items() if name.startswith(start))
    return tuple(f"{words} ×{number}" for words, number in counts.items())


def _read(s3: "S3Client", bucket: str, key: str) -> bytes | None:
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
                f"{where}: access denied; s3:GetObject is needed, and s3:ListBucket: without it S3 answers 403 where there is nothing yet",
                EXIT_AWS,
            ) from error
        raise
    if len(body) > MAX_READ_BYTES:
        raise ToolError(f"{where} is larger than {MAX_READ_BYTES} bytes", EXIT_AWS)
    return body


def _again(watched: Watched) -> str:
    """How to go on watching."""
    command = ["transcriptd", "watch", watched.job_id, "--output-bucket", watched.bucket]
    command += ["--output-prefix", watched.prefix.removesuffix(f"{watched.job_id}/")]
    if watched.message_id:
        command += ["--message-id", watched.message_id]
    return f"watch again: {shlex.join(command)}"


# --- the end -------------------------------------------------------------------------------------------------------


def _check_input(watched: Watched, manifest: Manifest) -> None:
    """A result of another recording is not this job's: the daemon refuses such a job."""
    found, wanted = manifest.input, watched.input
    if wanted and (found.bucket, found.key) != (wanted.bucket, wanted.key):
        raise ToolError(
            f"failed: {JobIdConflict.code}: job_id {watched.job_id} finished earlier with another input "
            f"(s3://{found.bucket}/{found.key})\n{JobIdConflict.cure}"
        )


def _report(watched: Watched, failure: Delivery) -> int:
    code = failure.reason or "internal_error"
    err.print(printable(f"failed: {code}: {failure.message or 'see the dead-letter queue'}"))
    err.print(error_class(code).cure)
    err.print(printable(f"more: transcriptd dlq show {watched.job_id}"))
    return EXIT_FAILED


def _deliver(s3: "S3Client", watched: Watched, manifest: Manifest, arguments: Namespace) -> int:
    """Print or save what was published."""
    for warning in manifest.warnings:
        err.print(printable(f"warning: {warning.code}: {warning.message}"))
    err.print(
        printable(
            f"completed: {manifest.duration_seconds:.1f} s, {manifest.language}, {manifest.speakers} speakers; "
            f"s3://{watched.bucket}/{watched.prefix}"
        )
    )
    if arguments.save is not None:
        _save(s3, watched, manifest, Path(arguments.save))
        return EXIT_OK
    wanted = arguments.format or DEFAULT_FORMAT
    output = next((each for each in manifest.outputs if each.format == wanted), None)
    if output is None:
        formats = ", ".join(each.format for each in manifest.outputs)
        err.print(printable(f"there is no output {wanted}; the job has {formats}"))
        return EXIT_OK if arguments.format is None else EXIT_FAILED
    text = _output(s3, watched, output.key, output.sha256).decode()
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
    return EXIT_OK


def _save(s3: "S3Client", watched: Watched, manifest: Manifest, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for output in manifest.outputs:
        path = target / PurePosixPath(output.key).name  # no name in a manifest becomes a path
        path.write_bytes(_output(s3, watched, output.key, output.sha256))
        err.print(f"saved {path}")
    if manifest_body := _read(s3, watched.bucket, watched.prefix + MANIFEST_NAME):
        (target / MANIFEST_NAME).write_bytes(manifest_body)


def _output(s3: "S3Client", watched: Watched, key: str, sha256: str) -> bytes:
    body = _read(s3, watched.bucket, key)
    if body is None or hashlib.sha256(body).hexdigest() != sha256:
        raise ToolError(f"s3://{watched.bucket}/{key} is not what the manifest describes: removed or replaced since")
    return body


class Display:
    """What is known, as it changes: one moving line on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, job_id: str) -> None:
        self._console = console
        self._job_id = job_id
        self._last = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(20),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(job_id, total=None)  # it moves, and promises nothing

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, text: str) -> None:
        line = printable(f"{self._job_id}: {text}")
        if self._bar:
            self._bar.update(self._task, description=line)
        elif line != self._last:
            self._console.print(line)
        self._last = line
