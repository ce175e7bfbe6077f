"""The measurements as one table, and as JSON."""

import datetime
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.accuracy import Accuracy
from bench.daemon_jobs import PIPELINE_STAGES, BatchRun, JobRun
from bench.peers import BATCH_SIZE, BEAM_SIZE, ApiRun, CliRun

PACKAGES = ("torch", "ctranslate2", "faster-whisper", "whisperx", "pyannote.audio")


@dataclass(frozen=True, slots=True)
class Measured:
    header: str
    jobs: list[JobRun]  # one at a time
    api: list[ApiRun]
    batch: BatchRun  # all at once
    cli: list[CliRun]

    def as_json(self) -> dict[str, Any]:
        return {
            "header": self.header,
            "one_job": {
                "daemon": [_job_json(run) for run in self.jobs],
                "whisperx_api": [
                    {
                        "seconds": run.seconds,
                        "stages": run.stages,
                        **asdict(run.accuracy),
                        "der_of_turns": run.turns_der,
                    }
                    for run in self.api
                ],
            },
            "many_jobs": {
                "daemon": {"seconds": self.batch.seconds, "jobs": [_job_json(run) for run in self.batch.jobs]},
                "whisperx_command": [{"seconds": run.seconds, **asdict(run.accuracy)} for run in self.cli],
            },
        }


def header(threads: int) -> str:
    """What the figures depend on. To be called while the work is fresh, for the load."""
    return (
        f"{machine(threads)}\n"
        f"30 s call of two speakers; Whisper base, int8, beam {BEAM_SIZE}, batch {BATCH_SIZE}, {threads} threads"
    )


def machine(threads: int) -> str:
    """Date, hardware, load and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{today}: {_cpu_name()}, {threads} cores, no GPU used, load {os.getloadavg()[0]:.1f}\n"
        f"Python {platform.python_version()}, {versions}"
    )


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def table(measured: Measured) -> Table:
    result = Table(box=SIMPLE_HEAD)
    result.add_column("one warm job at a time", no_wrap=True)
    for name in ("ms", "min–max", "ratio", "WER", "DER"):
        result.add_column(name, justify="right", no_wrap=True)
    _add_one_job(result, measured.jobs, measured.api)
    result.add_section()
    result.add_row("many files, each", style="bold")
    _add_many_jobs(result, measured.batch, measured.cli)
    return result


def _add_one_job(result: Table, jobs: list[JobRun], api: list[ApiRun]) -> None:
    api_seconds = [run.seconds for run in api]
    job_seconds = [run.seconds for run in jobs]
    told_seconds = [run.customer_seconds for run in jobs]

    def share(seconds: list[float]) -> str:
        return f"{median(part / whole for part, whole in zip(seconds, job_seconds, strict=True)):.1%} of job"

    def against_api(seconds: list[float]) -> str:
        return f"{median(seconds) / median(api_seconds):.2f} × API"

    _add(result, "whisperx API, warm", api_seconds, "1", *_accuracy(run.accuracy for run in api))
    for stage in api[0].stages:
        turns_der = _range(run.turns_der for run in api) if stage == "diarize" else ""
        _add(result, f"  {stage}", [run.stages[stage] for run in api], "", "", turns_der, style="dim")
    _add(
        result,
        "daemon, receive → outcome",
        job_seconds,
        against_api(job_seconds),
        *_accuracy(run.accuracy for run in jobs),
        style="bold",
    )
    pipeline = [run.pipeline_seconds for run in jobs]
    _add(result, "  pipeline", pipeline, share(pipeline))
    for stage in PIPELINE_STAGES:
        _add(result, f"    {stage}", [run.stages[stage] for run in jobs], "", style="dim")
    overhead = [run.overhead_seconds for run in jobs]
    _add(result, "  overhead, aim ≤ 10 %", overhead, share(overhead), style="bold")
    for part in jobs[0].overhead:
        seconds = [run.overhead[part] for run in jobs]
        _add(result, f"    {part}", seconds, share(seconds), style="dim")
    _add(result, "SendMessage → result told", told_seconds, against_api(told_seconds))


def _add_many_jobs(result: Table, batch: BatchRun, cli: list[CliRun]) -> None:
    cli_seconds = [run.seconds for run in cli]
    ratio = f"{median(cli_seconds) / batch.seconds_per_file:.1f} × command"
    _add(result, "whisperx command", cli_seconds, "1", *_accuracy(run.accuracy for run in cli))
    _add(
        result,
        f"{len(batch.jobs)} jobs at once, aim ≥ 10 ×",
        [batch.seconds_per_file],
        ratio,
        *_accuracy(run.accuracy for run in batch.jobs),
        style="bold",
    )
    pipeline = [run.pipeline_seconds for run in batch.jobs]
    _add(result, "  pipeline", pipeline, f"{sum(pipeline) / batch.seconds:.1%} of time", style="dim")


def _add(
    result: Table, name: str, seconds: list[float], ratio: str, wer: str = "", der: str = "", style: str | None = None
) -> None:
    """A row with the median, and the spread if there is one."""
    spread = f"{min(seconds) * 1000:.0f}–{max(seconds) * 1000:.0f}" if len(seconds) > 1 else ""
    result.add_row(name, f"{median(seconds) * 1000:.0f}", spread, ratio, wer, der, style=style)


def _accuracy(each: Iterable[Accuracy]) -> tuple[str, str]:
    found = list(each)
    return _range(one.wer for one in found), _range(one.der for one in found)


def _range(values: Iterable[float | None]) -> str:
    """One figure where all runs agree, as they do unless Whisper had to sample."""
    texts = sorted({f"{value:.3f}" for value in values if value is not None})
    return " – ".join([texts[0], texts[-1]] if len(texts) > 1 else texts) or "none"


def _job_json(run: JobRun) -> dict[str, Any]:
    return {
        "seconds": run.seconds,
        "customer_seconds": run.customer_seconds,
        "overhead_seconds": run.overhead_seconds,
        "stages": run.stages,
        **asdict(run.accuracy),
    }
