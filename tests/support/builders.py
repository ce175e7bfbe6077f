"""Valid objects for tests; each test overrides the fields it is about."""

import json
from typing import Any

from daemon.config import Settings
from daemon.jobs.validation import parse_job
from daemon.schema.job import Job
from daemon.schema.manifest import InputObject, Manifest
from daemon.schema.transcript import Models

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


def a_manifest(job: Job, **changes: Any) -> Manifest:
    """Build the manifest of the finished job."""
    fields: dict[str, Any] = {
        "job_id": job.job_id,
        "completed_at": "now",
        "message_id": "m-1",
        "worker_id": "worker",
        "attempt": 1,
        "input": InputObject(bucket="media", key="a.wav", version_id=None, etag="e", size_bytes=1),
        "options": job.options.model_dump(mode="json"),
        "options_digest": job.options.digest(),
        "outputs": [],
        "duration_seconds": 1,
        "language": None,
        "speakers": 0,
        "models": Models(asr="a", vad="v", alignment=None, diarization=None, device="cpu", compute_type="int8"),
        "timings_seconds": {},
        "warnings": [],
        "metadata": {},
    }
    return Manifest(**{**fields, **changes})
