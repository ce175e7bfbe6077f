"""`transcriptd render`: write a stored transcript in other formats. It needs neither a queue nor a device.

The files of a job are added to its result as the daemon adds them, or saved on this machine. A local transcript.json needs no
AWS at all.
"""

import asyncio
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

from daemon.aws.s3 import open_storage
from daemon.cli.command import (
    EXIT_AWS,
    EXIT_FAILED,
    EXIT_OK,
    ToolError,
    UsageError,
    check_message,
    contract_settings,
    err,
    printable,
    require_job_id,
    results_place,
)
from daemon.cli.edits import apply, setting
from daemon.cli.result import check_target, print_text, save_file
from daemon.config import Settings
from daemon.errors import InvalidJob, ObjectMissing, TranscriptdError
from daemon.jobs.late_outputs import LateOutputs, Wanted, read_transcript
from daemon.jobs.result_store import ResultStore
from daemon.jobs.validation import ANY
from daemon.outputs import Presentation
from daemon.outputs import render as render_files
from daemon.schema.job import Place
from daemon.schema.options import RENDERING_OPTIONS, Format, JobOptions
from daemon.schema.stored_transcript import MAX_TRANSCRIPT_BYTES, parse_transcript
from daemon.schema.wording import clip, nearest


def render(arguments: Namespace) -> int:
    """Render a job's or a file's transcript. Validates all arguments first."""
    options = _options(arguments.formats, arguments.options)
    formats, presentation = options.formats, Presentation.of(options)
    check_target(arguments.save)
    file = Path(arguments.source)
    if "/" in arguments.source or file.is_file():
        return _render_file(file, formats, presentation, arguments.save)
    require_job_id(arguments.source)
    bucket, prefix = results_place(arguments)
    place = Place(arguments.source, bucket, f"{prefix}{arguments.source}/")
    try:
        return asyncio.run(_render_job(place, formats, presentation, arguments.save))
    except TranscriptdError as error:
        hint = "" if isinstance(error, InvalidJob) else f"\n{error.hint}"
        status = EXIT_FAILED if isinstance(error, InvalidJob | ObjectMissing) else EXIT_AWS
        raise ToolError(f"{error.message} ({error.code}){hint}", status) from error


def _options(formats: list[str], texts: list[str]) -> JobOptions:
    """Return a job's options with these formats and rendering options. Raises UsageError by the daemon's rules."""
    given: dict[str, Any] = {}
    try:
        apply([setting(text) for text in texts], given)
    except ValueError as error:
        raise UsageError(f"--option {error}") from error
    allowed = sorted(RENDERING_OPTIONS - {"formats"})
    for name in given:
        if name not in allowed:
            problem = f"--option {clip(name)} does not change how a transcript is written"
            raise UsageError(f"{problem}; {nearest(name, allowed)}")
    message = {**ANY, "options": {**given, "formats": formats}}
    try:
        return check_message(message, contract_settings(input_buckets=("*",))).options
    except InvalidJob as error:
        raise UsageError(f"{error.message} ({error.code})") from error


# --- a file ----------------------------------------------------------------------------------------------------------


def _render_file(file: Path, formats: list[Format], presentation: Presentation, save: str | None) -> int:
    if save is None and len(formats) > 1:
        raise UsageError("several formats cannot be printed; pass --save DIR")
    try:
        with file.open("rb") as stream:
            body = stream.read(MAX_TRANSCRIPT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a transcript.json, or the ID of a job") from error
    try:
        transcript = parse_transcript(body, str(file))
    except InvalidJob as error:
        raise ToolError(error.message) from error
    files = render_files(transcript, formats, presentation)
    if save is not None:
        for each in files:
            save_file(Path(save) / each.name, each.body)
        return EXIT_OK
    print_text(files[0].body.decode())
    return EXIT_OK


# --- a job -----------------------------------------------------------------------------------------------------------


async def _render_job(place: Place, formats: list[Format], presentation: Presentation, save: str | None) -> int:
    settings: Settings = contract_settings()
    async with open_storage(settings) as storage:
        results = ResultStore(storage)
        found = await results.find_result(place)
        if found is None:
            raise ToolError(
                f"job {place.job_id} is not finished: s3://{place.bucket}/{place.prefix} has no manifest.json"
            )
        manifest, _ = found
        if save is not None:
            transcript = await read_transcript(storage, place, manifest)
            for each in render_files(transcript, formats, presentation):
                save_file(Path(save) / each.name, each.body)
            return EXIT_OK
        wanted = Wanted(f"cli-{uuid.uuid4().hex}", formats, presentation).missing_in(manifest)
        if wanted is not None:
            manifest = await LateOutputs(storage, results).add(place, wanted, proceed=lambda: None)
    added = set(wanted.formats) if wanted else set()
    for name in formats:
        output = manifest.output(name)
        if output is not None:
            print(printable(f"s3://{place.bucket}/{output.key}"))
    err.print(f"{len(added)} added, {len(formats) - len(added)} there already")
    return EXIT_OK
