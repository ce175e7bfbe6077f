"""`transcriptd check`: select the checks, run them in parallel, print their findings."""

import asyncio
import difflib
import json
import os
import signal
import sys
from argparse import Namespace
from collections import Counter
from contextlib import aclosing
from importlib.metadata import version
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from daemon.cli.check.registry import CHECKS, Check, CheckAborted, CheckResult, CheckStatus, failed, skipped
from daemon.cli.command import EXIT_FAILED, EXIT_OK, UsageError, err, out, printable
from daemon.config import Settings, load_settings
from daemon.errors import EXIT_CONFIG, ConfigError
from daemon.telemetry.redaction import describe_with_type

SETTINGS = "settings"

COLOURS = {
    CheckStatus.PASS: "green",
    CheckStatus.WARN: "yellow",
    CheckStatus.FAIL: "bold red",
    CheckStatus.SKIPPED: "dim",
}
SECRETS = ("WEBHOOK_SECRET", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# Shorter values are not secrets, and masking them would damage the text.
MIN_SECRET_CHARACTERS = 12

CheckResults = dict[str, list[CheckResult]]


def check(arguments: Namespace) -> int:
    chosen = _choose(arguments.only, arguments.skip)
    try:
        settings = load_settings()
    except ConfigError as error:
        results = {name: [_not_run()] for name in chosen}
        results = {SETTINGS: [failed(error.message, "Correct the settings; docs/configuration.md lists them.")]} | {
            name: found for name, found in results.items() if name != SETTINGS
        }
        _show(results, arguments.json)
        return EXIT_CONFIG
    with err.status(f"checking: {', '.join(chosen)}"):
        results = asyncio.run(_run_all(settings, [CHECKS[name] for name in chosen]))
    _show(results, arguments.json)
    return EXIT_FAILED if _worst(results) is CheckStatus.FAIL else EXIT_OK


def _choose(only: list[str] | None, skip: list[str] | None) -> list[str]:
    """Return the names of the selected checks in registry order. Raises UsageError."""
    for name in (*(only or ()), *(skip or ())):
        if name not in CHECKS:
            nearest = difflib.get_close_matches(name, CHECKS, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"available: {', '.join(CHECKS)}"
            raise UsageError(f"unknown check {name}; {hint}")
    return [name for name in CHECKS if (not only or name in only) and name not in (skip or ())]


def _not_run() -> CheckResult:
    return skipped("the settings are invalid", "Correct the settings first.")


# --- running ------------------------------------------------------------------------------------------------------------


async def _run_all(settings: Settings, checks: list[Check]) -> CheckResults:
    """Run the checks in parallel. SIGTERM works like Ctrl-C: the checks clean up first."""
    running = asyncio.current_task()
    if running is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        found = await asyncio.gather(*(run_check(each, settings) for each in checks))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    return {each.name: findings for each, findings in zip(checks, found, strict=True)}


async def run_check(each: Check, settings: Settings) -> list[CheckResult]:
    """Run one check and return its findings. An exception or a timeout becomes a finding."""
    findings: list[CheckResult] = []
    try:
        async with asyncio.timeout(each.timeout_seconds), aclosing(each.call(settings)) as found:
            async for finding in found:
                findings.append(finding)
    except CheckAborted as end:
        findings.append(end.finding)
    except TimeoutError:
        fix = "Try again; if it persists, look at what the check waits for: the network, the disk or the driver."
        findings.append(failed(f"not finished after {each.timeout_seconds:g} s", fix))
    except Exception as error:  # noqa: BLE001  # a crashed check must not stop the others
        reason = f"the check itself failed: {describe_with_type(error)}"
        findings.append(failed(reason, "Report it with this line and the settings that it mentions."))
    return findings


# --- printing -----------------------------------------------------------------------------------------------------------


def _show(results: CheckResults, as_json: bool) -> None:
    secrets = known_secrets()
    rows = [
        (name, CheckResult(each.status, without(secrets, each.found), each.fix and without(secrets, each.fix)))
        for name, found in results.items()
        for each in found
    ]
    if as_json:
        _print_json(results, rows)
    else:
        render(out, rows)


def _print_json(results: CheckResults, rows: list[tuple[str, CheckResult]]) -> None:
    checks = [{"check": name, "status": each.status, "found": each.found, "fix": each.fix} for name, each in rows]
    report = {"status": _worst(results), "version": version("transcriptd"), "checks": checks}
    sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def render(console: Console, rows: list[tuple[str, CheckResult]]) -> None:
    """Print a table on a terminal; elsewhere one line for each finding and one for its fix."""
    counts = Counter(each.status for _, each in rows)
    summary = ", ".join(f"{counts[status]} {status}" for status in CheckStatus if counts[status])
    if not console.is_terminal:
        width = max(len(name) for name in CHECKS)
        for name, each in rows:
            console.print(printable(f"{each.status:<8}{name:<{width}}  {each.found}"), soft_wrap=True)
            if each.fix:
                console.print(printable(f"{'':<{8 + width}}  → {each.fix}"), soft_wrap=True)
        console.print(summary)
        return
    table = Table(box=None, pad_edge=False, show_edge=False)
    for column in ("CHECK", "RESULT", "FINDING AND FIX"):
        table.add_column(column, overflow="fold")
    before = ""
    for name, each in rows:
        text = Text(printable(each.found))
        if each.fix:
            text.append(f"\n→ {printable(each.fix)}", style="dim" if each.status is CheckStatus.SKIPPED else "bold")
        table.add_row("" if name == before else name, Text(each.status, style=COLOURS[each.status]), text)
        before = name
    console.print(table)
    console.print(summary)


def _worst(results: CheckResults) -> CheckStatus:
    found = {each.status for findings in results.values() for each in findings}
    return next(
        (status for status in (CheckStatus.FAIL, CheckStatus.WARN, CheckStatus.PASS) if status in found),
        CheckStatus.SKIPPED,
    )


# --- secrets ------------------------------------------------------------------------------------------------------------


def known_secrets() -> list[str]:
    """Return the secrets in the environment, which no output may contain, longest first."""
    found: set[str] = set()
    for name, value in os.environ.items():
        plain = name.upper().removeprefix("TRANSCRIPTD_")
        if plain in SECRETS:
            found |= {piece for secret in value.replace(",", " ").split() for piece in (secret, secret[6:])}
        elif plain == "WEBHOOK_URL":
            parts = urlsplit(value)
            found |= {value, parts.netloc.rpartition("@")[0], parts.path, parts.query}
            found |= set(parts.path.split("/")) | {pair.partition("=")[2] for pair in parts.query.split("&")}
    return sorted((each for each in found if len(each) >= MIN_SECRET_CHARACTERS), key=len, reverse=True)


def without(secrets: list[str], text: str) -> str:
    """Mask the secrets in a text. No check prints one, but a quoted library message may contain one."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
