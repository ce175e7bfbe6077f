"""`transcriptd watch`: follow a job to its end by reading S3, and fetch its transcript.

The job ends with its manifest, or with a failure or a cancellation in its status. The delivery record tells the same where
the status could not be written.
"""

import hashlib
import shlex
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import ClientError
from pydantic import BaseModel, ValidationError

from daemon.aws.session import WRONG_CREDENTIALS
from daemon.cli.command import (
    EXIT_AWS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNFINISHED,
    ToolError,
    age,
    contract_settings,
    err,
    open_s3,
    printable,
    read_object,
    require_job_id,
    results_place,
)
from daemon.cli.result import DEFAULT_FORMAT, Display, check_target, print_text, save_file
from daemon.errors import JobCancelled, JobIdConflict, error_class
from daemon.jobs.delivery_log import DeliveryLog, DeliveryRecord
from daemon.jobs.result_store import DELIVERY_LOG_NAME
from daemon.schema.job import Input
from daemon.schema.job_status import STAGE_NAMES, STATUS_NAME, JobStatus, StatusError
from daemon.schema.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

M = TypeVar("M", bound=BaseModel)

POLL_SECONDS = 2.0


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
    status: JobStatus | None = None
    deliveries: tuple[DeliveryRecord, ...] = ()  # of one message; known even if the status could not be written

    @property
    def failure(self) -> StatusError | None:
        """Why the job will not finish, or None if it may."""
        if self.status and self.status.state in ("failed", "cancelled"):
            return self.status.error or StatusError(code=self.status.state, message="")
        last = self.deliveries[-1] if self.deliveries else None
        if last and last.outcome == "dead_lettered":
            return StatusError(
                code=last.reason or "internal_error", message=last.message or "see the dead-letter queue"
            )
        return None

    def __str__(self) -> str:
        if self.status and self.status.state == "running":
            return _progress(self.status)
        if not self.deliveries:
            return "waiting for a daemon"
        last = self.deliveries[-1]
        attempt = 1 + sum(each.consumes_attempt for each in self.deliveries[:-1])
        if last.outcome is None:
            since = time.strftime("%H:%M:%S", time.localtime(last.begun_at))
            return f"in progress since {since} on {last.worker_id}, attempt {attempt}"
        said = f"{last.reason}: {last.message}" if last.message else f"{last.reason}"
        return f"waiting for the next delivery; attempt {attempt} was {last.outcome} ({said})"


def _progress(status: JobStatus) -> str:
    stage = STAGE_NAMES.get(status.stage or "", status.stage or "working")
    part = "" if status.stage_fraction is None else f" ({status.stage_fraction:.0%})"
    left = "" if status.remaining_seconds is None else f", about {age(status.remaining_seconds)} left"
    return f"{status.overall_fraction:.0%}: {stage}{part}{left}; on {status.worker_id}, attempt {status.attempt}"


def watch(arguments: Namespace) -> int:
    bucket, prefix = job_place(arguments)
    check_target(arguments.save)
    return follow(WatchedJob(arguments.job_id, bucket, prefix, arguments.message_id), arguments)


def job_place(arguments: Namespace) -> tuple[str, str]:
    """Return the bucket of a job's results and their prefix, `<prefix><job_id>/`."""
    require_job_id(arguments.job_id)
    bucket, prefix = results_place(arguments)
    return bucket, f"{prefix}{arguments.job_id}/"


def follow(job: WatchedJob, arguments: Namespace) -> int:
    """Watch the job to its end, then print or save the result. Ctrl-C stops watching, never the job."""
    s3 = open_s3(contract_settings())
    deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
    try:
        with Display(err, job.job_id) as display:
            while True:
                try:
                    state = read_state(s3, job)
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") not in WRONG_CREDENTIALS:
                        raise
                    s3 = open_s3(contract_settings())  # they may have been rotated since
                    state = read_state(s3, job)
                if state.manifest or state.failure:
                    break
                running = state.status if state.status and state.status.state == "running" else None
                display.show(str(state), running.overall_fraction if running else None)
                if deadline is not None and time.monotonic() >= deadline:
                    raise ToolError(
                        f"not finished within --timeout; to watch again, run: {watch_command(job)}", EXIT_UNFINISHED
                    )
                left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
                time.sleep(min(POLL_SECONDS, max(0.0, left)))
    except KeyboardInterrupt:
        err.print(f"\nstopped watching; the job continues; to watch again, run: {watch_command(job)}")
        return EXIT_INTERRUPTED
    if state.manifest:
        _check_input(job, state.manifest)
        return _deliver(s3, job, state.manifest, arguments)
    return _report(job, state.failure or StatusError(code="internal_error", message=""))


def read_state(s3: "S3Client", job: WatchedJob) -> JobState:
    """Read the status and the delivery record, then the manifest: a job that finishes in between counts as finished."""
    status = read_status(s3, job.bucket, job.prefix)
    log = _parsed(DeliveryLog, read_object(s3, job.bucket, job.prefix + DELIVERY_LOG_NAME))
    body = read_object(s3, job.bucket, job.prefix + MANIFEST_NAME)
    if body is not None:
        if manifest := _parsed(Manifest, body):
            return JobState(manifest=manifest)
        raise ToolError(f"s3://{job.bucket}/{job.prefix}{MANIFEST_NAME} is not a valid manifest", EXIT_AWS)
    deliveries = log.deliveries if log else ()
    message_id = job.message_id or (deliveries[-1].message_id if deliveries else status and status.message_id)
    return JobState(
        status=status if status and status.message_id == message_id else None,
        deliveries=tuple(each for each in deliveries if each.message_id == message_id),
    )


def read_status(s3: "S3Client", bucket: str, prefix: str) -> JobStatus | None:
    """Return the status of the job whose results are at this prefix, `<prefix><job_id>/`."""
    return _parsed(JobStatus, read_object(s3, bucket, prefix + STATUS_NAME))


def _parsed(model: type[M], body: bytes | None) -> M | None:
    """Parse an object; None if there is none, or it is something else."""
    try:
        return None if body is None else model.model_validate_json(body)
    except ValidationError:
        return None


def watch_command(job: WatchedJob) -> str:
    command = ["transcriptd", "watch", job.job_id, "--output-bucket", job.bucket]
    command += ["--output-prefix", job.prefix.removesuffix(f"{job.job_id}/")]
    if job.message_id:
        command += ["--message-id", job.message_id]
    return shlex.join(command)


# --- the end -------------------------------------------------------------------------------------------------------


def _check_input(job: WatchedJob, manifest: Manifest) -> None:
    """Raise ToolError if the result is of another recording: the daemon rejects such a job."""
    found, wanted = manifest.input, job.input
    if wanted and (found.bucket, found.key) != (wanted.bucket, wanted.key):
        raise ToolError(
            f"failed: {JobIdConflict.code}: job_id {job.job_id} finished earlier with another input "
            f"(s3://{found.bucket}/{found.key})\n{JobIdConflict.hint}"
        )


def _report(job: WatchedJob, failure: StatusError) -> int:
    word = "cancelled" if failure.code == JobCancelled.code else f"failed: {failure.code}"
    err.print(printable(f"{word}: {failure.message}"))
    err.print(error_class(failure.code).hint)
    if failure.code != JobCancelled.code:
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
    print_text(text)
    return EXIT_OK


def _save(s3: "S3Client", job: WatchedJob, manifest: Manifest, target: Path) -> None:
    for output in manifest.outputs:
        name = PurePosixPath(output.key).name  # a key in the manifest cannot choose the directory
        save_file(target / name, _output(s3, job, output.key, output.sha256))
    if manifest_body := read_object(s3, job.bucket, job.prefix + MANIFEST_NAME):
        (target / MANIFEST_NAME).write_bytes(manifest_body)


def _output(s3: "S3Client", job: WatchedJob, key: str, sha256: str) -> bytes:
    body = read_object(s3, job.bucket, key)
    if body is None or hashlib.sha256(body).hexdigest() != sha256:
        raise ToolError(f"s3://{job.bucket}/{key} does not match the manifest: it was removed or replaced")
    return body
