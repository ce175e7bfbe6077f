"""Valid objects for tests; each test overrides the fields it is about."""

import json
from typing import Any

from daemon.config import Settings
from daemon.jobs.validation import parse_job
from daemon.schema.job import Job

SCRIPTED = "bench.scripted_pipeline:ScriptedPipeline"


def some_settings(**changes: Any) -> Settings:
    """Build settings with the given overrides."""
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


def a_message(**fields: Any) -> str:
    """Build the body of a job message with the given fields changed or added."""
    return json.dumps({"job_id": "job-1", "input": {"bucket": "media", "key": "a.wav"}, **fields})


def a_job(settings: Settings | None = None, **fields: Any) -> Job:
    """Build the job for such a message, with the defaults of a deployment."""
    return parse_job(a_message(**fields), settings or some_settings())
