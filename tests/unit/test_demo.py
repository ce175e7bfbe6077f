"""What the demo makes of the daemon's metrics. The demo itself runs in tests/acceptance/test_main_job.py."""

from typing import Any

import pytest
from rich.console import Console

from daemon.embedded import demo

DELETED = 'transcriptd_jobs_total{outcome="deleted",reason="published"}'
DEAD_LETTERED = 'transcriptd_jobs_total{outcome="dead_lettered",reason="no_audio_stream"}'


class Daemon:
    """Answers each GET of /metrics with the next page, and with the last one again and again."""

    def __init__(self, *pages: str) -> None:
        self.pages = list(pages)

    def get(self, path: str) -> str:
        assert path == "/metrics"
        return "# TYPE transcriptd_jobs_total counter\n" + (self.pages.pop(0) if self.pages[1:] else self.pages[0])


def problems(*pages: str) -> list[str]:
    daemon: Any = Daemon(*pages)
    return demo._show_metrics(Console(quiet=True), daemon)


def test_a_job_whose_webhook_was_faster_than_its_count_is_waited_for() -> None:
    """CI met it: the last `job.completed` came 33 ms before its job was counted, and the demo said that it had failed."""
    early = f"{DEAD_LETTERED} 1.0\n{DELETED} 1.0\n"
    assert problems("", early, early, f"{DEAD_LETTERED} 1.0\n{DELETED} 2.0\n") == []


def test_a_job_that_is_never_counted_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COUNT_TIMEOUT_SECONDS", 0.3)
    (problem,) = problems(f"{DEAD_LETTERED} 1.0\n{DELETED} 1.0\n")
    assert "expected the job counts" in problem


def test_what_was_counted_too_often_is_a_problem_at_once() -> None:
    (problem,) = problems(f"{DEAD_LETTERED} 1.0\n{DELETED} 3.0\n")
    assert "('deleted', 'published'): 3.0" in problem
