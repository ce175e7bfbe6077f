"""`transcriptd transcribe`: one recording on this machine, without SQS, S3, webhooks or credentials.

The transcript goes to standard output and everything else to standard error.
"""

import logging
import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemon.cli.command import (
    EXIT_FAILED,
    EXIT_OK,
    ToolError,
    UsageError,
    age,
    check_message,
    err,
    from_environment,
    printable,
)
from daemon.cli.edits import apply, setting
from daemon.cli.local_job import LOADING, run_job, run_until_signal
from daemon.cli.result import DEFAULT_FORMAT, Display, check_target, print_text, save_file
from daemon.config import Settings, read_settings
from daemon.environment import unsupported_system
from daemon.errors import ConfigError, DiskFull, InvalidJob, ModelUnavailable, OnFailure, SetupFailed, TranscriptdError
from daemon.jobs.progress import ProgressView
from daemon.media.sandbox_probe import require_sandbox
from daemon.outputs import Presentation, render
from daemon.schema.catalog import EMBEDDED_DIARIZATION, EMBEDDED_WHISPER
from daemon.schema.job import Job, plain_name
from daemon.schema.job_status import STAGE_NAMES
from daemon.schema.transcript import Transcript
from daemon.telemetry.logs import configure
from daemon.weights.needs import packaged_weights, resolve

EXIT_MEDIA = 5
EXIT_WEIGHTS = 6

STDOUT, STDERR = 1, 2  # descriptors, which the children inherit
STANDARD_INPUT = "-"
MAX_NAME_CHARS = 60

# A job message needs these, and this command does not use them. None of them may come from the user's shell.
UNUSED_SETTINGS: dict[str, Any] = {
    "queue_url": "unused:jobs",
    "dlq_url": "unused:dead-letters",
    "outbox_url": None,
    "input_buckets": ("*",),
    "output_bucket": "unused",
    "profiles": (),
    "webhook_url": None,
    "webhook_hosts": (),
    "webhook_secret": (),
}
EMBEDDED_LIMITS = (
    "model: embedded (Whisper base): quick, but less accurate than large models, most of all outside English; "
    "--model large-v3 is the daemon's default, a download of 3 GB"
)


def transcribe(arguments: Namespace) -> int:
    """Check the arguments, the file and the weights before any work, then transcribe and deliver the result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until run_until_signal has its own handlers
    if problem := unsupported_system():
        raise ToolError(problem)
    check_target(arguments.save)
    settings, job = _read(arguments)
    _check_save(arguments.save, job)
    _check_file(arguments.file, settings)
    _check_weights(settings)
    with _log(settings, verbose=arguments.verbose), _scratch(settings) as scratch, Display(err, job.job_id) as display:
        source = _source(arguments.file, scratch, settings)
        try:
            transcript = run_until_signal(_transcript(job, settings, source, scratch, display))
        except ConfigError:
            raise
        except TranscriptdError as error:
            raise _failure(error, arguments.file, scratch) from error
    return _deliver(transcript, job, arguments.save)


# --- the arguments -------------------------------------------------------------------------------------------------


def _read(arguments: Namespace) -> tuple[Settings, Job]:
    """Return the settings, and the job as a daemon with these settings would accept it. Raises UsageError."""
    message = _message(arguments)
    option = message["options"].pop("model", None)
    if option is not None and not isinstance(option, str):
        raise UsageError("--option model: the value must be a text")
    settings = _settings(arguments.model or option or from_environment("model") or EMBEDDED_WHISPER)
    try:
        return settings, check_message(message, settings)
    except InvalidJob as error:
        raise UsageError(f"{error.message} ({error.code})") from error


def _message(arguments: Namespace) -> dict[str, Any]:
    """Return a job message with the options, as `submit` would send it."""
    name = "stdin" if arguments.file == STANDARD_INPUT else Path(arguments.file).stem
    times = {"start_seconds": arguments.start, "end_seconds": arguments.end}
    formats = [name for text in arguments.formats for name in text.replace(",", " ").split()]
    options = {"language": arguments.language, "num_speakers": arguments.speakers, "formats": formats or None}
    message: dict[str, Any] = {
        "job_id": plain_name(name)[:MAX_NAME_CHARS],
        "input": {"bucket": "unused", "key": "unused"} | _given(times),
        "options": _given(options),
    }
    try:
        apply([setting(text, "options") for text in arguments.options], message)
    except ValueError as error:
        raise UsageError(f"--option {error}") from error
    if arguments.save is None:
        message["options"].setdefault("formats", [DEFAULT_FORMAT])
    return message


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _settings(model: str) -> Settings:
    """Return the user's settings for the pipeline. What the packaged model needs is packaged too, unless they say otherwise."""
    given: dict[str, Any] = {**UNUSED_SETTINGS, "model": model, "runner_start_attempts": 1}
    if model == EMBEDDED_WHISPER and from_environment("diarization_model") is None:
        given["diarization_model"] = EMBEDDED_DIARIZATION
    if from_environment("allow_weak_sandbox") is None:
        given["allow_weak_sandbox"] = True  # the user chose the recording; a warning says what the kernel lacks
    return read_settings(**given)


def _check_save(save: str | None, job: Job) -> None:
    if save is None:
        if len(job.options.formats) > 1:
            raise UsageError(f"{len(job.options.formats)} formats need --save DIR: standard output takes one")
        return
    parent = next(path for path in (Path(save).absolute(), *Path(save).absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"--save {save}: {parent} is not a directory that you may write to")


def _check_file(name: str, settings: Settings) -> None:
    """Raise UsageError for what is no file, and ToolError for one that cannot be a recording."""
    if name == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise UsageError("standard input is a terminal: name a file, or pipe a recording to this command")
        return
    file = Path(name)
    if name.startswith("s3://"):
        raise UsageError(f"{name}: this command reads files; `transcriptd submit` sends an S3 object to a daemon")
    if not file.exists():
        raise UsageError(f"{name}: no such file")
    if file.is_dir():
        raise UsageError(f"{name} is a directory: name one recording in it")
    if not os.access(file, os.R_OK):
        raise UsageError(f"{name}: you may not read this file; change its permissions or its owner")
    if file.is_fifo():
        return
    if not file.is_file():
        raise UsageError(f"{name} is neither a file nor a pipe")
    _check_size(name, file.stat().st_size, settings)


def _check_size(name: str, size_bytes: int, settings: Settings) -> None:
    if size_bytes == 0:
        raise ToolError(f"{name} is empty (0 bytes)", EXIT_MEDIA)
    if size_bytes > settings.max_input_bytes:
        limit = f"{settings.max_input_bytes} bytes; split it, or raise TRANSCRIPTD_MAX_INPUT_BYTES"
        raise ToolError(f"{name} is larger than {limit}", EXIT_MEDIA)


def _check_weights(settings: Settings) -> None:
    """Find the packaged weights, and keep this process tree off the network unless a model is from the hub."""
    try:
        for _, find in packaged_weights(settings, (settings.model,)):
            find()
    except ModelUnavailable as error:
        raise ToolError(error.message, EXIT_WEIGHTS) from error
    if not resolve(settings, (settings.model,)):
        os.environ["HF_HUB_OFFLINE"] = "1"  # the runner inherits it, and then cannot open a connection


# --- the work ------------------------------------------------------------------------------------------------------


async def _transcript(job: Job, settings: Settings, source: Path, scratch: Path, display: Display) -> Transcript:
    """Say what the kernel lacks to confine the work, then do it. Raises ConfigError if the settings forbid that."""
    report = await require_sandbox(allow_weak=settings.allow_weak_sandbox)
    if report.weakness:
        err.print(printable(f"warning: {report.weakness}"))
    return await run_job(job, settings, source, scratch, lambda progress: _show(display, settings, progress))


@contextmanager
def _log(settings: Settings, *, verbose: bool) -> Iterator[None]:
    """Keep log lines away from the result. The runner inherits standard output and may write some there."""
    if verbose:
        configure(settings.logging_level, "poller", hidden=settings.secrets, stream=sys.stderr)
        target = os.dup(STDERR)
    else:
        logging.getLogger().addHandler(logging.NullHandler())
        target = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    result = os.dup(STDOUT)
    os.dup2(target, STDOUT)
    try:
        yield
    finally:
        os.dup2(result, STDOUT)
        os.close(result)
        os.close(target)


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    """Create a directory for all temporary files, including what the runner's libraries write, and remove it at the end."""
    root = settings.scratch_dir if "scratch_dir" in settings.model_fields_set else Path(tempfile.gettempdir())
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="transcriptd-", dir=root)
    except OSError as error:
        raise ToolError(f"{root}: {error.strerror}; set TMPDIR to a directory that you may write to") from error
    with folder as name:
        os.environ["TMPDIR"] = name  # inherited by the runner
        yield Path(name)


def _source(name: str, scratch: Path, settings: Settings) -> Path:
    """Return the file to decode. Standard input and a pipe are copied first: the decoder has to seek."""
    if name != STANDARD_INPUT and Path(name).is_file():
        return Path(name)
    copy = scratch / "input"
    try:
        with copy.open("wb") as target, sys.stdin.buffer if name == STANDARD_INPUT else Path(name).open("rb") as source:
            while chunk := source.read(1024 * 1024):
                target.write(chunk)
                if target.tell() > settings.max_input_bytes:
                    break
    except OSError as error:
        raise ToolError(f"{name} cannot be copied to {scratch.parent}: {error.strerror}") from error
    _check_size("standard input" if name == STANDARD_INPUT else name, copy.stat().st_size, settings)
    return copy


def _show(display: Display, settings: Settings, progress: ProgressView) -> None:
    if progress.stage == LOADING:
        if settings.model == EMBEDDED_WHISPER:
            err.print(EMBEDDED_LIMITS)
        from_hub = "" if os.environ.get("HF_HUB_OFFLINE") else "; the first use downloads them"
        display.show(f"loading the models ({settings.model}{from_hub})", progress.overall_fraction)
        return
    if progress.stage == "publish":
        return  # nothing is published
    text = STAGE_NAMES.get(progress.stage, progress.stage)
    if err.is_terminal:  # elsewhere each change is a line
        left = "" if progress.remaining_seconds is None else f", about {age(progress.remaining_seconds)} left"
        text = f"{progress.overall_fraction:.0%}: {text}{left}"
    display.show(text, progress.overall_fraction)


def _failure(error: TranscriptdError, file: str, scratch: Path) -> ToolError:
    """Return the error for the user: what was wrong, what to do, and an exit status."""
    cause = error.__cause__ if isinstance(error, SetupFailed) else error
    match cause:
        case ModelUnavailable():
            return ToolError(cause.message, EXIT_WEIGHTS)
        case DiskFull():
            needs = "a recording needs 230 MB for each hour and channel"
            return ToolError(f"the disk of {scratch.parent} is full: {needs}; free some, or set TMPDIR to another disk")
        case TranscriptdError(on_failure=OnFailure.DEAD_LETTER):
            return ToolError(f"{file}: {cause.message} ({cause.code})", EXIT_MEDIA)
    return ToolError(f"{error.message} ({error.code})\n{error.hint}\nthe log has more: --verbose", EXIT_FAILED)


# --- the result ----------------------------------------------------------------------------------------------------


def _deliver(transcript: Transcript, job: Job, save: str | None) -> int:
    files = render(transcript, job.options.formats, Presentation.of(job.options))
    for warning in transcript.warnings:
        err.print(printable(f"warning: {warning.code}: {warning.message}"))
    seconds, speakers = transcript.duration_seconds, len(transcript.speakers)
    err.print(f"completed: {seconds:.1f} s, {transcript.language}, {speakers} speakers")
    if save is None:
        print_text(files[0].body.decode())
        return EXIT_OK
    for file in files:
        save_file(Path(save) / file.name, file.body)
    return EXIT_OK
