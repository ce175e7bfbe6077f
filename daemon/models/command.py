"""`transcriptd models fetch`, `mirror` and `verify`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from dotenv import dotenv_values

from daemon.config import Settings, load_settings
from daemon.errors import EXIT_CONFIG, ConfigError, TranscriptdError
from daemon.models.cache import Cache, readable
from daemon.models.fetch import Report, fetch, verify
from daemon.models.needs import Need, resolve
from daemon.models.transfer import Interruption

EXIT_FAULT = 1
EXIT_INTERRUPTED = 130


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command; the exit status."""
    # Read once, when huggingface_hub is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    commands: dict[str, Callable[[argparse.Namespace, Settings, list[Need], Cache], int]] = {
        "fetch": _fetch,
        "mirror": _mirror,
        "verify": _verify,
    }
    try:
        if arguments.env_file is not None:
            _read_environment(arguments.env_file)
        # No queue is touched: an image is built where there is none.
        settings = load_settings(queue_url="unused:jobs", dlq_url="unused:dead-letters")
        needs = resolve(
            settings, tuple(arguments.model), tuple(arguments.language), diarization=not arguments.no_diarization
        )
        return commands[arguments.action](arguments, settings, needs, Cache.from_environment())
    except (TranscriptdError, Interruption, OSError) as error:
        print(f"transcriptd: {error}", file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAULT
    except KeyboardInterrupt:
        # Transfers in the middle of a file are not waited for: the next run continues them.
        print("transcriptd: interrupted; what was fetched is kept", file=sys.stderr)
        os._exit(EXIT_INTERRUPTED)


def _read_environment(file: Path) -> None:
    """Let the file's settings be as if they were the environment's, whose own come first. Nothing in it is expanded."""
    if not file.is_file():
        raise ConfigError(f"--env-file {file}: there is no such file")
    for name, value in dotenv_values(file, interpolate=False).items():
        if value is None:
            raise ConfigError(f"--env-file {file}: {name} has no value")
        os.environ.setdefault(name, value)


def _fetch(arguments: argparse.Namespace, settings: Settings, needs: list[Need], cache: Cache) -> int:
    revisions = _revisions(arguments)
    if arguments.source is not None:
        from daemon.models.mirror import Mirror

        fetch(needs, Mirror(arguments.source, revisions), cache, _say)
    else:
        _fetch_from_hub(revisions, settings, needs, cache)
    return 0


def _fetch_from_hub(revisions: dict[str, str], settings: Settings, needs: list[Need], cache: Cache) -> None:
    from daemon.models.hub import Hub

    fetch(needs, Hub(settings.hf_token.get_secret_value() if settings.hf_token else None, revisions), cache, _say)


def _mirror(arguments: argparse.Namespace, settings: Settings, needs: list[Need], cache: Cache) -> int:
    from daemon.models.mirror import Mirror

    revisions = _revisions(arguments)
    mirror = Mirror(arguments.target, {})
    report = verify(needs, cache)
    present = {model.name: model.revision for model in report.models.models}
    if report.faults or any(present.get(name) != revision for name, revision in revisions.items()):
        _fetch_from_hub(revisions, settings, needs, cache)
        report = verify(needs, cache)
    if report.faults:
        return _complain(report, arguments)
    mirror.publish(report.models, cache, _say)
    return 0


def _verify(arguments: argparse.Namespace, settings: Settings, needs: list[Need], cache: Cache) -> int:  # noqa: ARG001
    report = verify(needs, cache)
    table = [(row.name, row.path, readable(row.size) if row.path else "", row.fault or "ok") for row in report.rows]
    widths = [max((len(line[column]) for line in table), default=0) for column in range(3)]
    for name, path, size, state in table:
        print(f"{name:<{widths[0]}}  {path:<{widths[1]}}  {size:>{widths[2]}}  {state}")
    return _complain(report, arguments) if report.faults else 0


def _complain(report: Report, arguments: argparse.Namespace) -> int:
    for row in report.faults:
        print(f"transcriptd: {row.what}: {row.name} {row.path}".rstrip() + f": {row.fault}", file=sys.stderr)
    options = [*(f"--model={name}" for name in arguments.model), *(f"--language={code}" for code in arguments.language)]
    options += ["--no-diarization"] if arguments.no_diarization else []
    mend = shlex.join(["transcriptd", "models", "fetch", *options])
    print(f"transcriptd: mend it with: {mend} (and --from s3://… where there is a mirror)", file=sys.stderr)
    return EXIT_FAULT


def _revisions(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = [item.partition("=") for item in arguments.revision]
    for name, separator, revision in pairs:
        if not separator or "/" not in name or not revision:
            raise ConfigError(f"--revision {name}{separator}{revision} is not of the form owner/repository=revision")
    return {name: revision for name, _, revision in pairs}


def _say(line: str) -> None:
    print(line, flush=True)
