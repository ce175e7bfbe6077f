"""Progress of the demo's jobs, taken from webhook events: bars on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class ProgressView:
    """Shows the progress of `jobs` (job ID → description). Use as a context manager."""

    def __init__(self, console: Console, jobs: dict[str, str]) -> None:
        self._console = console
        self._jobs = jobs
        self._stage: dict[str, str] = {}
        self._started_at = time.monotonic()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if console.is_terminal:
            columns = (
                TextColumn("{task.description:<28}"),
                BarColumn(),
                TextColumn("{task.fields[stage]:<12}"),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns, console=console)
            self._tasks = {
                job_id: self._bars.add_task(what, total=1.0, stage="queued") for job_id, what in jobs.items()
            }

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Update the display from a webhook event."""
        data = event["data"]
        job_id, done = data["job_id"], 0.0
        stage = event["type"].removeprefix("job.")
        if data["progress"] is not None:
            stage, done = data["progress"]["stage"], data["progress"]["overall_fraction"]
        elif stage == "completed":
            done = 1.0
        if self._bars is not None:
            self._bars.update(self._tasks[job_id], completed=done, stage=stage)
            if stage in ("completed", "failed"):
                self._bars.stop_task(self._tasks[job_id])
        elif self._stage.get(job_id) != stage:
            self._console.print(
                f"{time.monotonic() - self._started_at:6.1f} s  {self._jobs[job_id]}: {stage} {done:.0%}"
            )
        self._stage[job_id] = stage
