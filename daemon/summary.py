"""The one line that says all of a delivery when it has ended: `job finished`. Its fields are declared in log_schema.py."""

import logging
import time

from daemon.delivery import Delivery
from daemon.errors import TranscriptdError
from daemon.job import peek_job_id
from daemon.wording import words_of

log = logging.getLogger("transcriptd.summary")

# What is expected of a daemon is information; the rest was handled, or needs a person.
LEVELS = {
    "deleted": logging.INFO,
    "released": logging.INFO,
    "retried": logging.WARNING,
    "abandoned": logging.WARNING,
    "dead_lettered": logging.ERROR,
    "unsettled": logging.ERROR,
}


def log_finished(
    delivery: Delivery, outcome: str, reason: str, *, settled: bool, error: TranscriptdError | None = None
) -> None:
    """Write the line. To be called exactly once for a delivery, in its log_context."""
    job, manifest = delivery.job, delivery.manifest
    counts = delivery.checkpoints
    log.log(
        LEVELS[outcome],
        "job finished",
        extra={
            "job_id": job.job_id if job else peek_job_id(delivery.message.body),
            "outcome": outcome,
            "reason": reason,
            "settled": settled,
            "attempt": delivery.attempt,
            "failed_in": delivery.failed_in,
            "duration_seconds": round(delivery.elapsed_seconds, 3),
            "queue_wait_seconds": round(max(0.0, time.time() - delivery.elapsed_seconds - delivery.message.sent_at), 3),
            "stages_seconds": {stage: round(seconds, 3) for stage, seconds in delivery.timings_seconds.items()},
            "runner_seconds": None if delivery.runner_seconds is None else round(delivery.runner_seconds, 3),
            "audio_seconds": manifest.duration_seconds if manifest else delivery.course.audio_seconds,
            "real_time_factor": _real_time_factor(delivery) if reason == "published" else None,
            "input_bytes": manifest.input.size_bytes if manifest else delivery.input_bytes,
            "output_bytes": sum(output.size_bytes for output in manifest.outputs) if manifest else None,
            "model": job.options.model if job else None,
            "language": manifest.language if manifest else None,
            "speakers": manifest.speakers if manifest else None,
            "warnings": [warning.code for warning in manifest.warnings] if manifest else [],
            "checkpoints_restored": counts["restored"],
            "checkpoints_kept": counts["kept"],
            "checkpoints_failed": counts["failed"],
            "webhook": delivery.webhook,
            "error": words_of(error) if error else None,
        },
    )


def _real_time_factor(delivery: Delivery) -> float | None:
    audio_seconds = delivery.course.audio_seconds
    if not audio_seconds:
        return None
    return round(delivery.work_seconds / audio_seconds, 4)
