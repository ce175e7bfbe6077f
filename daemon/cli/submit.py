"""`transcriptd submit`: publish a job for a local file or an S3 object, and follow it on request."""

import json
import os
import shlex
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from daemon.cli.command import (
    EXIT_OK,
    ToolError,
    UsageError,
    check_message,
    contract_settings,
    err,
    from_environment,
    open_s3,
    open_sqs,
    printable,
    queue_url,
    require_tenant,
    required,
    send,
)
from daemon.cli.edits import apply, setting
from daemon.cli.result import check_target
from daemon.cli.watch import WatchedJob, follow
from daemon.config import Settings
from daemon.errors import InvalidJob
from daemon.schema.job import Job, plain_name
from daemon.telemetry.redaction import describe
from daemon.telemetry.tracecontext import parse

UPLOADS = "uploads/"
MAX_NAME_CHARS = 60


def submit(arguments: Namespace) -> int:
    """Validate all arguments and the message before the upload, so that a mistake uploads and sends nothing."""
    url = queue_url(arguments, "queue_url")
    require_tenant(arguments.tenant)
    file = None if arguments.source.startswith("s3://") else Path(arguments.source)
    name = _plain((file or Path(arguments.source)).name)
    job_id = arguments.job_id or f"{Path(name).stem[:MAX_NAME_CHARS]}-{uuid.uuid4().hex[:12]}"
    bucket, key = _split(arguments.source) if file is None else (_upload_bucket(arguments), _unique_key(name))
    if file is not None and arguments.words_of is not None:
        raise UsageError(
            "--words-of needs the recording of that job, s3://BUCKET/KEY; a file would be another recording"
        )
    watching = arguments.watch or arguments.save is not None or arguments.format is not None
    if watching:  # otherwise only the daemon needs it
        required(arguments.output_bucket, "output_bucket")
    check_target(arguments.save)
    settings = contract_settings()
    message = _message(arguments, job_id, bucket, key)
    job = _check(message, settings)
    body = json.dumps(message, ensure_ascii=False)
    if file is not None:
        _check_file(file, settings)
        _upload(file, bucket, key, settings)
    message_id = _send(arguments, url, body, None if file is None else f"s3://{bucket}/{key}", job_id)
    err.print(f"job {job_id} sent as message {message_id}")
    if not watching:
        print(job_id)
        return EXIT_OK
    return follow(WatchedJob(job_id, job.output_bucket, job.output_prefix, message_id, job.input), arguments)


def _message(arguments: Namespace, job_id: str, bucket: str, key: str) -> dict[str, Any]:
    times = {"start_seconds": arguments.start, "end_seconds": arguments.end}
    source: dict[str, Any] = {"bucket": bucket, "key": key} | {
        name: value for name, value in times.items() if value is not None
    }
    if arguments.words_of is not None:
        source["words_of"] = arguments.words_of
    message: dict[str, Any] = {"job_id": job_id, "input": source}
    if arguments.format is not None:
        message["options"] = {"formats": list(dict.fromkeys(("json", arguments.format)))}
    try:
        apply([setting(text, "options") for text in arguments.options], message)
    except ValueError as error:
        raise UsageError(f"--option {error}") from error
    output = {"bucket": arguments.output_bucket, "prefix": arguments.output_prefix}
    if given := {name: value for name, value in output.items() if value is not None}:
        message["output"] = given
    if arguments.profile is not None:
        message["profile"] = arguments.profile
    return message


def _check(message: dict[str, Any], settings: Settings) -> Job:
    """Validate the message by the daemon's rules. Raises UsageError with the daemon's error message."""
    try:
        return check_message(message, settings)
    except InvalidJob as error:
        raise UsageError(f"{error.message} ({error.code}); nothing was sent") from error


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise UsageError(f"{uri} is not s3://BUCKET/KEY")
    return bucket, key


def _plain(name: str) -> str:
    """Reduce a file name to the characters of job IDs; a long one loses its beginning and keeps its suffix."""
    return plain_name(plain_name(name)[-MAX_NAME_CHARS:])


def _unique_key(name: str) -> str:
    return f"{UPLOADS}{uuid.uuid4().hex}/{name}"


def _upload_bucket(arguments: Namespace) -> str:
    listed = (from_environment("input_buckets") or "").replace(",", " ").split()
    bucket = arguments.bucket or next((name for name in listed if name != "*"), None)
    if bucket is None:
        raise UsageError("no bucket for the upload: pass --bucket or set TRANSCRIPTD_INPUT_BUCKETS")
    return str(bucket)


def _check_file(file: Path, settings: Settings) -> None:
    if not file.is_file():
        raise UsageError(f"{file} is neither a file nor s3://BUCKET/KEY")
    size_bytes = file.stat().st_size
    if size_bytes == 0:
        raise UsageError(f"{file} is empty (0 bytes)")
    if size_bytes > settings.max_input_bytes:
        raise UsageError(f"{file} has {size_bytes} bytes; the limit is {settings.max_input_bytes}")


def _upload(file: Path, bucket: str, key: str, settings: Settings) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(printable(f"uploading {file.name}"), total=file.stat().st_size)
        try:
            open_s3(settings).upload_file(
                str(file),
                bucket,
                key,
                ExtraArgs=settings.write_parameters,
                Callback=lambda count: progress.advance(task, count),
            )
        except OSError as error:
            raise ToolError(f"{file}: {error.strerror or describe(error)}; nothing was sent") from error
    err.print(f"uploaded to s3://{bucket}/{key}")


def _trace_attributes() -> dict[str, Any]:
    """Return message attributes with the trace context of the calling process (TRACEPARENT, TRACESTATE)."""
    trace = parse(os.environ.get("TRACEPARENT", ""), os.environ.get("TRACESTATE", ""))
    return trace.attributes() if trace else {}


def _send(arguments: Namespace, url: str, body: str, uploaded: str | None, job_id: str) -> str:
    sent = False
    try:
        message_id = send(open_sqs(url), url, body, _trace_attributes(), arguments.tenant)
        sent = True
        return message_id
    finally:
        if uploaded and not sent:
            queue = ["--queue", arguments.queue] if arguments.queue else []
            tenant = ["--tenant", arguments.tenant] if arguments.tenant else []
            command = shlex.join(["transcriptd", "submit", uploaded, "--job-id", job_id, *queue, *tenant])
            err.print(f"the file was uploaded, but the message may not have been sent; to send it, run: {command}")
