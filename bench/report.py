"""The common header of all measurements, and their tables in the documentation."""

import datetime
import os
import platform
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

PACKAGES = ("torch", "ctranslate2", "faster-whisper", "whisperx", "pyannote.audio")
END = "<!-- end of measured -->"


def machine(threads: int, gpu: str = "no GPU used") -> str:
    """Return date, hardware, load and versions on two lines. Call during or right after the work, for the load."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{today}: {_cpu_name()}, {threads} cores, {gpu}, load {os.getloadavg()[0]:.1f}\n"
        f"Python {platform.python_version()}, {versions}"
    )


def spread(values: Sequence[float], decimals: int = 2) -> str:
    """Format the median, with minimum and maximum if they differ from it."""
    middle, least, most = (f"{value:.{decimals}f}" for value in (median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}–{most})"


def markdown(rows: Sequence[Sequence[str]], words: Collection[int] = (0, 1)) -> str:
    """Format a table whose first row is the header. `words` are the columns with text; the others are numbers."""
    columns = len(rows[0])
    widths = [max(len(row[index]) for row in rows) for index in range(columns)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = " | ".join("-" * (width - 1) + ("-" if index in words else ":") for index, width in enumerate(widths))
    return "".join(f"| {line} |\n" for line in [lines[0], rule, *lines[1:]])


def write_measured(page: Path, command: str, measured: str) -> None:
    """Replace the measurement between the page's markers, of which the first names the command. Raises ValueError if
    they are missing."""
    begin = f"<!-- measured: {command} -->\n"
    before, found, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{page.name} has no section for `{command}`")
    page.write_text(f"{before}{begin}\n{measured}\n{END}{after}")


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
