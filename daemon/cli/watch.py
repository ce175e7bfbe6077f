"""`transcriptd watch`: follow a job to its end by reading S3, and fetch its transcript.

The job ends with its manifest, or with a failure in its delivery record. Until then, S3 shows when the delivery began
and which parts are finished, but neither the number of parts nor the progress within one. Only webhooks report that,
so no percentage is shown. An invalid message is rejected before its delivery is recorded: it leaves nothing in S3, and
the job looks as if it were waiting.
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

from daemon.cli.command import (
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
from daemon.errors import JobIdConflict, error_class
from daemon.jobs.delivery_log import DeliveryLog, DeliveryRecord
from daemon.jobs.result_store import DELIVERY_LOG_NAME
from daemon.schema.job import CHECKPOINTS, JOB_ID, Input
from daemon.schema.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POLL_SECONDS = 2.0
MAX_READ_BYTES = 64 * 1024 * 1024
DEFAULT_FORMAT = "md"
# Prefix of a checkpoint's name (pipeline/checkpoints/parts.py) → the finished part.
PARTS = {
    "asr-": "recognized speech",
    "plain-": "recognized speech",
    "align-": "timed words",
    "attend-": "timed words",
    "diarize": "speakers",
}


@dataclass(frozen=True)
class WatchedJob:
    """A job and the location of its results."""

    job_id: str
    bucket: str
    prefix: str  # `<prefix><job_id>/`
    message_id: str | None = None  # ignore failures of other messages
    input: Input | None = None  # as published, if known


@dataclass(frozen=True)
class JobState:
    """State of a job in S3."""

    manifest: Manifest | None = None
    deliveries: tuple[DeliveryRecord, ...] = ()  # of one message
    parts: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return bool(self.deliveries) and self.deliveries[-1].outcome == "dead_lettered"

    def __str__(self) -> str:
        if not self.deliveries:
            return "waiting for a daemon"
        last = self.deliveries[-1]
        attempt = 1 + sum(each.consumes_attempt for each in self.deliveries[:-1])
        if last.outcome is None:
            since = time.strftime("%H:%M:%S", time.localtime(last.begun_at))
            done = f"; checkpoints: {', '.join(self.parts)}" if self.parts else ""
            return f"in progress since {since} on {last.worker_id}, attempt {attempt}{done}"
        said = f"{last.reason}: {last.message}" if last.message else f"{last.reason}"
        return f"waiting for the next delivery; attempt {attempt} was {last.outcome} ({said})"


def watch(arguments: Namespace) -> int:
    if not JOB_ID.fullmatch(arguments.job_id):
        raise UsageError(f"{arguments.job_id!r} is not a job ID")
    check_target(arguments)
    bucket = required(arguments.output_bucket, "output_bucket")
    prefix = contract_settings(output_prefix=arguments.output_prefix).output_prefix
    return follow(WatchedJob(arguments.job_id, bucket, f"{prefix}{arguments.job_id}/", arguments.message_id), arguments)


def check_target(arguments: Namespace) -> None:
    """Reject a directory that is not empty before the work, not after it."""
    if arguments.save is None:
        return
    target = Path(arguments.save)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--save {target}: the directory must be new or empty")


def follow(job: WatchedJob, arguments: Namespace) -> int:
    """Watch the job to its end, then print or save the result. Ctrl-C stops watching, never the job."""
    s3 = open_s3(contract_settings())
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    try:
        with Display(err, job.job_id) as display:
            while True:
                state = read_state(s3, job)
                if state.manifest or state.failed:
                    break
                display.show(str(state))
                if deadline is not None and time.monotonic() >= deadline:
                    raise ToolError(f"not finished within --timeout; {_watch_command(job)}", EXIT_UNFINISHED)
                left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
                time.sleep(min(POLL_SECONDS, max(0.0, left)))
    except KeyboardInterrupt:
        err.print(f"\nstopped watching; the job continues; {_watch_command(job)}")
        return EXIT_INTERRUPTED
    if state.manifest:
        _check_input(job, state.manifest)
        return _deliver(s3, job, state.manifest, arguments)
    return _report(job, state.deliveries[-1])


def read_state(s3: "S3Client", job: WatchedJob) -> JobState:
    """Read the delivery record, then the manifest: a job that finishes in between counts as finished."""
    record = _read(s3, job.bucket, job.prefix + DELIVERY_LOG_NAME)
    body = _read(s3, job.bucket, job.prefix + MANIFEST_NAME)
    if body is not None:
        try:
            return JobState(manifest=Manifest.model_validate_json(body))
        except ValidationError as error:
            raise ToolError(
                f"s3://{job.bucket}/{job.prefix}{MANIFEST_NAME} is not a valid manifest", EXIT_AWS
            ) from error
    try:
        deliveries = DeliveryLog.model_validate_json(record).deliveries if record else ()
    except ValidationError:
        deliveries = ()  # the daemon replaces an unreadable record
    message_id = job.message_id or (deliveries[-1].message_id if deliveries else None)
    deliveries = tuple(each for each in deliveries if each.message_id == message_id)
    return JobState(deliveries=deliveries, parts=_parts(s3, job) if deliveries else ())


def _parts(s3: "S3Client", job: WatchedJob) -> tuple[str, ...]:
    """Describe the checkpoints of an unfinished job."""
    prefix = job.prefix + CHECKPOINTS
    listed = s3.list_objects_v2(Bucket=job.bucket, Prefix=prefix).get("Contents", [])
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
                f"{where}: access denied; grant s3:GetObject and s3:ListBucket (without the latter S3 answers 403 if there is no object)",
                EXIT_AWS,
            ) from error
        raise
    if len(body) > MAX_READ_BYTES:
        raise ToolError(f"{where} is larger than {MAX_READ_BYTES} bytes", EXIT_AWS)
    return body


def _watch_command(job: WatchedJob) -> str:
    command = ["transcriptd", "watch", job.job_id, "--output-bucket", job.bucket]
    command += ["--output-prefix", job.prefix.removesuffix(f"{job.job_id}/")]
    if job.message_id:
        command += ["--message-id", job.message_id]
    return f"to watch again, run: {shlex.join(command)}"


# --- the end -------------------------------------------------------------------------------------------------------


def _check_input(job: WatchedJob, manifest: Manifest) -> None:
    """Raise ToolError if the result is of another recording: the daemon rejects such a job."""
    found, wanted = manifest.input, job.input
    if wanted and (found.bucket, found.key) != (wanted.bucket, wanted.key):
        raise ToolError(
            f"failed: {JobIdConflict.code}: job_id {job.job_id} finished earlier with another input "
            f"(s3://{found.bucket}/{found.key})\n{JobIdConflict.hint}"
        )


def _report(job: WatchedJob, failure: DeliveryRecord) -> int:
    code = failure.reason or "internal_error"
    err.print(printable(f"failed: {code}: {failure.message or 'see the dead-letter queue'}"))
    err.print(error_class(code).hint)
    err.print(printable(f"details: transcriptd dlq show {job.job_id}"))
    return EXIT_FAILED


def _deliver(s3: "S3Client", job: WatchedJob, manifest: Manifest, arguments: Namespace) -> int:
    """Print or save the result."""
    for warning in manifest.warnings:
        err.print(printable(f"warning: {warning.code}: {warning.message}"))
    err.print(
        printable(
            f"completed: {manifest.duration_seconds:.1f} s, {manifest.language}, {manifest.speakers} speakers; "
            f"s3://{job.bucket}/{job.prefix}"
        )
    )
    if arguments.save is not None:
        _save(s3, job, manifest, Path(arguments.save))
        return EXIT_OK
    wanted = arguments.format or DEFAULT_FORMAT
    output = next((each for each in manifest.outputs if each.format == wanted), None)
    if output is None:
        formats = ", ".join(each.format for each in manifest.outputs)
        err.print(printable(f"the job has no output {wanted}; available: {formats}"))
        return EXIT_OK if arguments.format is None else EXIT_FAILED
    text = _output(s3, job, output.key, output.sha256).decode()
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
    return EXIT_OK


def _save(s3: "S3Client", job: WatchedJob, manifest: Manifest, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for output in manifest.outputs:
        path = target / PurePosixPath(output.key).name  # a key in the manifest cannot choose the directory
        path.write_bytes(_output(s3, job, output.key, output.sha256))
        err.print(f"saved {path}")
    if manifest_body := _read(s3, job.bucket, job.prefix + MANIFEST_NAME):
        (target / MANIFEST_NAME).write_bytes(manifest_body)


def _output(s3: "S3Client", job: WatchedJob, key: str, sha256: str) -> bytes:
    body = _read(s3, job.bucket, key)
    if body is None or hashlib.sha256(body).hexdigest() != sha256:
        raise ToolError(f"s3://{job.bucket}/{key} does not match the manifest: it was removed or replaced")
    return body


class Display:
    """Shows the state of the job: one updated line on a terminal, a line for each change elsewhere."""

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
            self._task = self._bar.add_task(job_id, total=None)  # no total: the progress is unknown

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
