"""The log line `job finished`, which summarizes a delivery. Its fields are declared in log_schema.py."""

import logging
import time

from daemon.jobs.delivery import DeliveryResult, LiveDelivery
from daemon.jobs.validation import peek_job_id
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.summary")

# INFO: expected. WARNING: handled. ERROR: needs attention.
LEVELS = {
    "published": logging.INFO,
    "ignored": logging.INFO,
    "released": logging.INFO,
    "cancelled": logging.INFO,
    "retried": logging.WARNING,
    "abandoned": logging.WARNING,
    "dead_lettered": logging.ERROR,
    "unsettled": logging.ERROR,
}


def log_finished(ended: DeliveryResult) -> None:
    """Write the line. Call exactly once for each delivery, within its log_context."""
    delivery, manifest = ended.delivery, ended.manifest
    job = delivery.reached.job
    counts = delivery.checkpoints
    usage = manifest.usage if manifest else None
    log.log(
        LEVELS[ended.outcome],
        "job finished",
        extra={
            "job_id": job.job_id if job else None if ended.outcome == "ignored" else peek_job_id(delivery.message.body),
            "outcome": ended.outcome,
            "reason": ended.reason,
            "settled": ended.settled,
            "attempt": delivery.reached.attempt,
            "failed_in": ended.failed_in,
            "duration_seconds": round(ended.duration_seconds, 3),
            "queue_wait_seconds": round(max(0.0, time.time() - ended.duration_seconds - delivery.message.sent_at), 3),
            "stages_seconds": {stage: round(seconds, 3) for stage, seconds in delivery.timings_seconds.items()},
            "runner_seconds": None if delivery.runner_seconds is None else round(delivery.runner_seconds, 3),
            "audio_seconds": manifest.duration_seconds if manifest else delivery.progress.audio_seconds,
            "real_time_factor": _real_time_factor(delivery) if ended.reason == "published" else None,
            "input_bytes": manifest.input.size_bytes if manifest else delivery.input_bytes,
            "output_bytes": sum(output.size_bytes for output in manifest.outputs) if manifest else None,
            "device_seconds": round(sum(usage.device_seconds.values()), 3) if usage else None,
            "price": usage.price if usage else None,
            "model": job.options.model if job else None,
            "language": manifest.language if manifest else None,
            "speakers": manifest.speakers if manifest else None,
            "warnings": [warning.code for warning in manifest.warnings] if manifest else [],
            "checkpoints_restored": counts["restored"],
            "checkpoints_kept": counts["kept"],
            "checkpoints_failed": counts["failed"],
            "webhook": ended.event_status.webhook,
            "event_bus": ended.event_status.event_bus,
            "error": safe_message(ended.error) if ended.error else None,
        },
    )


def _real_time_factor(delivery: LiveDelivery) -> float | None:
    audio_seconds = delivery.progress.audio_seconds
    if not audio_seconds:
        return None
    return round(delivery.work_seconds / audio_seconds, 4)
