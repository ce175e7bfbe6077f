"""How commands show a job and hand over its result: progress, the text on standard output, files in a directory."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from daemon.cli.command import ToolError, UsageError, err, printable

DEFAULT_FORMAT = "md"


def check_target(save: str | None) -> None:
    """Reject a directory that is not empty before the work, not after it."""
    if save is None:
        return
    target = Path(save)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--save {target}: the directory must be new or empty")


def print_text(text: str) -> None:
    """Print a result to standard output. On a terminal, control characters in it are escaped."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def save_file(path: Path, body: bytes) -> None:
    """Write a file of a result, and say so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    except OSError as error:
        raise ToolError(f"{path} cannot be written: {error.strerror}; free space, and run the command again") from error
    err.print(printable(f"saved {path}"))


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
                BarColumn(20),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(job_id, total=None)  # no total while the progress is unknown

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, text: str, fraction: float | None = None) -> None:
        """Show the state, and how much of the job is done if that is known."""
        line = printable(f"{self._job_id}: {text}")
        if self._bar:
            self._bar.update(
                self._task, description=line, completed=fraction or 0.0, total=None if fraction is None else 1.0
            )
        elif line != self._last:
            self._console.print(line)
        self._last = line
