"""`transcriptd models fetch`, `mirror`, `verify` and `pin`."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dotenv import dotenv_values

from daemon.config import Settings, load_settings
from daemon.errors import EXIT_CONFIG, ConfigError, ModelUnavailable, TranscriptdError
from daemon.telemetry.redaction import describe
from daemon.weights.cache import Cache, readable, write_atomically
from daemon.weights.fetch import FileCheck, VerificationReport, fetch, verify
from daemon.weights.needs import ModelRequirement, packaged_weights, resolve
from daemon.weights.pins import NO_PINS, OWN_PINS, Pins, load_pins, read_pins
from daemon.weights.source import TransferInterrupted

EXIT_FAULT = 1
PACKAGED = "in a Python package"
EXIT_INTERRUPTED = 130
STANDARD_INPUT = Path("-")
# These commands use no queue and no webhook: an image is built without one, and the fetch does not get the webhook secret.
UNUSED_SETTINGS = {
    "queue_url": "unused:jobs",
    "dlq_url": "unused:dead-letters",
    "webhook_url": None,
    "webhook_hosts": (),
    "event_bus": None,
}


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    # huggingface_hub reads these variables once, on import.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    commands: dict[str, Callable[[argparse.Namespace, Settings, list[ModelRequirement], Cache], int]] = {
        "fetch": _fetch,
        "mirror": _mirror,
        "verify": _verify,
        "pin": _pin,
    }
    try:
        if arguments.env_file is not None:
            _read_environment(arguments.env_file)
        settings = load_settings(**UNUSED_SETTINGS)
        needs = resolve(
            settings, tuple(arguments.model), tuple(arguments.language), diarization=not arguments.no_diarization
        )
        return commands[arguments.action](arguments, settings, needs, Cache.from_environment())
    except TransferInterrupted as error:
        print(f"transcriptd: {error}. Fetched data is kept: run the command again to continue", file=sys.stderr)
        return EXIT_FAULT
    except (TranscriptdError, OSError) as error:
        print(f"transcriptd: {describe(error)}", file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAULT
    except KeyboardInterrupt:
        # Do not wait for transfers in progress: the next run continues them.
        print("transcriptd: interrupted; fetched data is kept", file=sys.stderr)
        os._exit(EXIT_INTERRUPTED)


def _read_environment(file: Path) -> None:
    """Load settings from a file; variables of the environment take precedence. Values are not expanded."""
    if file == STANDARD_INPUT:
        values = dotenv_values(stream=sys.stdin, interpolate=False)
    elif file.is_file():
        values = dotenv_values(file, interpolate=False)
    else:
        raise ConfigError(f"--env-file {file}: no such file")
    for name, value in values.items():
        if value is None:
            raise ConfigError(f"--env-file {file}: {name} has no value")
        os.environ.setdefault(name, value)


def _fetch(arguments: argparse.Namespace, settings: Settings, needs: list[ModelRequirement], cache: Cache) -> int:
    revisions = _revisions(arguments)
    if arguments.source is not None:
        from daemon.weights.mirror import Mirror

        pins = _pins(settings, revisions)
        fetch(needs, Mirror(arguments.source, pins.revisions | revisions, settings), cache, _say, pins)
    else:
        _fetch_from_hub(revisions, settings, needs, cache)
    return 0


def _fetch_from_hub(revisions: dict[str, str], settings: Settings, needs: list[ModelRequirement], cache: Cache) -> None:
    from daemon.weights.hub import Hub

    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    pins = _pins(settings, revisions)
    fetch(needs, Hub(token, pins.revisions | revisions), cache, _say, pins)


def _pins(settings: Settings, revisions: dict[str, str]) -> Pins:
    """Return the pins that apply. A revision that the user names takes precedence over a pin."""
    pins = load_pins(settings.weights_manifest)
    return pins.without({name for name, revision in revisions.items() if revision != pins.revisions.get(name)})


def _mirror(arguments: argparse.Namespace, settings: Settings, needs: list[ModelRequirement], cache: Cache) -> int:
    from daemon.weights.mirror import Mirror

    revisions = _revisions(arguments)
    mirror = Mirror(arguments.target, {}, settings)
    pins = _pins(settings, revisions)
    report = verify(needs, cache, pins)
    present = {model.name: model.revision for model in report.models.models}
    if report.faults or any(present.get(name) != revision for name, revision in revisions.items()):
        _fetch_from_hub(revisions, settings, needs, cache)
        report = verify(needs, cache, pins)
    if report.faults:
        return _report_faults(report, arguments)
    mirror.publish(report.models, cache, _say)
    return 0


def _verify(arguments: argparse.Namespace, settings: Settings, needs: list[ModelRequirement], cache: Cache) -> int:
    pins = load_pins(settings.weights_manifest)
    report = verify(needs, cache, pins)
    pinned = {PACKAGED, *(model.name for model in pins.models)}
    report.rows.extend(_packaged_rows(arguments, settings))
    table = [
        (
            row.name,
            row.path,
            readable(row.size) if row.path else "",
            row.fault or ("ok" if row.name in pinned else "ok, not pinned"),
        )
        for row in report.rows
    ]
    widths = [max((len(line[column]) for line in table), default=0) for column in range(3)]
    for name, path, size, state in table:
        print(f"{name:<{widths[0]}}  {path:<{widths[1]}}  {size:>{widths[2]}}  {state}")
    return _report_faults(report, arguments) if report.faults else 0


def _pin(arguments: argparse.Namespace, settings: Settings, needs: list[ModelRequirement], cache: Cache) -> int:
    """Pin what the cache has, as the index of fetched models lists it, and in the packaged pins also the packages' weights."""
    report = verify(needs, cache)
    if report.faults:
        return _report_faults(report, arguments)
    target = arguments.manifest or settings.weights_manifest or OWN_PINS
    known = read_pins(target) if target.is_file() else NO_PINS
    pins = known.replaced_by(report.models)
    if target == OWN_PINS:
        pins = pins.with_installed_packages()
    changed = [model.name for model in pins.models if model != known.find(model.source, model.name)]
    changed += [file.package for file in pins.packages if file not in known.packages]
    for name in changed:
        print(f"pinned {name}")
    if changed:
        write_atomically(target, pins.to_bytes())
    print(f"{target}: {'updated' if changed else 'up to date'}")
    return 0


def _packaged_rows(arguments: argparse.Namespace, settings: Settings) -> Iterator[FileCheck]:
    for what, find in packaged_weights(settings, tuple(arguments.model), diarization=not arguments.no_diarization):
        try:
            path = find()
        except ModelUnavailable as error:
            yield FileCheck(what, PACKAGED, "", 0, error.message)
        else:
            yield FileCheck(what, PACKAGED, path.name, path.stat().st_size, "")


def _report_faults(report: VerificationReport, arguments: argparse.Namespace) -> int:
    for row in report.faults:
        print(f"transcriptd: {row.what}: {row.name} {row.path}".rstrip() + f": {row.fault}", file=sys.stderr)
    if not any(row.name != PACKAGED for row in report.faults):
        return EXIT_FAULT  # fetching models does not install packages
    options = [*(f"--model={name}" for name in arguments.model), *(f"--language={code}" for code in arguments.language)]
    options += ["--no-diarization"] if arguments.no_diarization else []
    command = shlex.join(["transcriptd", "models", "fetch", *options])
    print(f"transcriptd: to fix it, run: {command} (with --from s3://… to use a mirror)", file=sys.stderr)
    return EXIT_FAULT


def _revisions(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = [item.partition("=") for item in arguments.revision]
    for name, separator, revision in pairs:
        if not separator or "/" not in name or not revision:
            raise ConfigError(f"--revision {name}{separator}{revision} must have the form owner/repository=revision")
    return {name: revision for name, _, revision in pairs}


def _say(line: str) -> None:
    print(line, flush=True)
