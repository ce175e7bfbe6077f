"""Fixtures that every ring of tests uses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from daemon.config import Settings

# The gate tries the same examples each time, so that a change is judged by what it changed. `make search` looks further.
hypothesis.settings.register_profile("gate", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", max_examples=1000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("gate")

SCRIPTED = "tests.pipelines.scripted:ScriptedPipeline"


def settings_with(**changes: Any) -> Settings:
    """Settings with the given ones changed."""
    defaults: dict[str, Any] = {
        "queue_url": "http://localhost/queue",
        "dlq_url": "http://localhost/dlq",
        "output_bucket": "results",
        "pipeline": SCRIPTED,
        "runner_restart_base_seconds": 0.05,
        "model": "base",
        "models": ("base", "tiny.en", "large-v3", "large-v3-turbo"),
    }
    return Settings(**{**defaults, **changes})


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings whose scratch directory is the test's own."""

    def make(**changes: Any) -> Settings:
        return settings_with(**{"scratch_dir": tmp_path / "scratch", **changes})

    return make
