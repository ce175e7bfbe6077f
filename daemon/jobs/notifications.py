"""Build the webhook events of a delivery.

The ID of an event is a hash of its content, so a re-sent event keeps its ID and receivers can deduplicate.
"""

import hashlib

from daemon.config import Settings
from daemon.errors import JobIdConflict, TranscriptdError
from daemon.jobs.delivery import Accepted, LiveDelivery, Published
from daemon.jobs.progress import ProgressView
from daemon.jobs.validation import peek_job_id, peek_webhook_url
from daemon.schema.manifest import MANIFEST_NAME
from daemon.webhooks.events import EventError, EventOutput, EventProgress, WebhookEvent


def webhook_url(delivery: LiveDelivery, settings: Settings) -> str | None:
    job = delivery.reached.job
    return job.webhook_url if job else peek_webhook_url(delivery.message.body, settings)


def started_event(accepted: Accepted, delivery: LiveDelivery) -> WebhookEvent:
    message = accepted.claim.message
    return WebhookEvent.of(
        accepted.job,
        "started",
        id=_event_id(message.message_id, str(message.receive_count), "started", repr(None)),
        attempt=accepted.attempt,
        durations_seconds=delivery.timings_seconds,
        trace=delivery.span.context,
    )


def progress_event(accepted: Accepted, delivery: LiveDelivery, view: ProgressView) -> WebhookEvent:
    message = accepted.claim.message
    return WebhookEvent.of(
        accepted.job,
        "progress",
        id=_event_id(message.message_id, str(message.receive_count), "progress", repr(view)),
        attempt=accepted.attempt,
        durations_seconds=delivery.timings_seconds,
        progress=EventProgress(
            stage=view.stage,
            fraction=view.fraction,
            overall_fraction=round(view.overall_fraction, 4),
            remaining_seconds=None if view.remaining_seconds is None else round(view.remaining_seconds, 1),
        ),
        trace=delivery.span.context,
    )


def completed_event(published: Published, delivery: LiveDelivery) -> WebhookEvent:
    """Build the event of a published result. Its ID is the same for all deliveries of the job."""
    job, manifest = published.job, published.manifest
    return WebhookEvent.of(
        job,
        "completed",
        id=_event_id(job.output_bucket, job.output_prefix, "completed"),
        attempt=delivery.reached.attempt,
        durations_seconds=manifest.timings_seconds,
        warnings=tuple(manifest.warnings),
        output=EventOutput(
            bucket=job.output_bucket,
            prefix=job.output_prefix,
            manifest=job.output_key(MANIFEST_NAME),
            files={output.format: output.key for output in manifest.outputs},
        ),
        trace=delivery.span.context,
    )


def cancelled_event(error: TranscriptdError, delivery: LiveDelivery) -> WebhookEvent:
    """Build the event of a cancelled job. Its ID is the same for all deliveries of the message."""
    message, job = delivery.message, delivery.reached.job
    if job is None:
        raise TranscriptdError("a message without a job cannot be cancelled")
    return WebhookEvent.of(
        job,
        "cancelled",
        id=_event_id(message.message_id, "cancelled"),
        attempt=delivery.reached.attempt,
        durations_seconds=delivery.timings_seconds,
        error=EventError(code=error.code, message=error.message),
        trace=delivery.span.context,
    )


def failed_event(error: TranscriptdError, delivery: LiveDelivery) -> WebhookEvent:
    """Build the event of a failed job. Its ID is the same for all deliveries of the message."""
    message, job = delivery.message, delivery.reached.job
    output = None
    # After a conflict, the results there belong to another job, and so does the record of its final event.
    if job is not None and not isinstance(error, JobIdConflict):
        output = EventOutput(bucket=job.output_bucket, prefix=job.output_prefix)
    return WebhookEvent(
        id=_event_id(message.message_id, "failed"),
        job_id=job.job_id if job else peek_job_id(message.body),
        status="failed",
        attempt=delivery.reached.attempt,
        input=job.input if job else None,
        output=output,
        metadata=job.metadata if job else {},
        durations_seconds=delivery.timings_seconds,
        error=EventError(code=error.code, message=error.message, traceback=error.detail),
        trace=delivery.span.context,
    )


def _event_id(*fact: str) -> str:
    return "msg_" + hashlib.sha256("\n".join(fact).encode()).hexdigest()[:32]
