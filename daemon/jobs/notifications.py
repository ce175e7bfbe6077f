"""Build the webhook events of a delivery.

The ID of an event is a hash of its content, so a re-sent event keeps its ID and receivers can deduplicate.
"""

import hashlib

from daemon.config import Settings
from daemon.errors import JobIdConflict, TranscriptdError
from daemon.jobs.delivery import Accepted, LiveDelivery, Published
from daemon.jobs.progress import ProgressView
from daemon.jobs.validation import parts_of, peek_job_id, peek_parts, peek_webhook_url
from daemon.schema.job import Input
from daemon.schema.job_status import JobStatus
from daemon.schema.manifest import MANIFEST_NAME, Manifest
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
        tenant=message.tenant,
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
        tenant=message.tenant,
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
    """Build the event of a published result. Its ID is the same for all deliveries of the job, until outputs are added."""
    job, manifest = published.job, published.manifest
    return WebhookEvent.of(
        job,
        "completed",
        id=completion_id(manifest, job.output_bucket, job.output_prefix),
        tenant=delivery.message.tenant,
        attempt=delivery.reached.attempt,
        durations_seconds=manifest.timings_seconds,
        warnings=tuple(manifest.warnings),
        usage=manifest.usage,
        output=_results(manifest, job.output_bucket, job.output_prefix),
        trace=delivery.span.context,
    )


def past_completion(manifest: Manifest, bucket: str, prefix: str) -> WebhookEvent:
    """Build the event of a result published earlier at `prefix` (`<prefix><job_id>/`). It has the ID of the first one."""
    source = manifest.input
    return WebhookEvent(
        id=completion_id(manifest, bucket, prefix),
        job_id=manifest.job_id,
        tenant=manifest.tenant,
        status="completed",
        attempt=manifest.attempt,
        input=Input(
            bucket=source.bucket,
            key=source.key,
            version_id=source.version_id,
            start_seconds=source.start_seconds,
            end_seconds=source.end_seconds,
            words_of=source.words_of,
        ),
        output=_results(manifest, bucket, prefix),
        metadata=manifest.metadata,
        durations_seconds=manifest.timings_seconds,
        warnings=tuple(manifest.warnings),
        usage=manifest.usage,
    )


def past_end(status: JobStatus, bucket: str, prefix: str) -> WebhookEvent | None:
    """Build the event of a job that failed or was cancelled earlier, with the ID of the first one; None for other states.

    The status has neither the input nor the metadata, so the event has none.
    """
    if status.state not in ("failed", "cancelled") or status.error is None:
        return None
    return WebhookEvent(
        id=_event_id(status.message_id, status.state),
        job_id=status.job_id,
        tenant=status.tenant,
        status=status.state,
        attempt=status.attempt,
        output=EventOutput(bucket=bucket, prefix=prefix),
        error=EventError(code=status.error.code, message=status.error.message),
    )


def _results(manifest: Manifest, bucket: str, prefix: str) -> EventOutput:
    files = {output.format: output.key for output in manifest.outputs}
    return EventOutput(bucket=bucket, prefix=prefix, manifest=prefix + MANIFEST_NAME, files=files)


def cancelled_event(error: TranscriptdError, delivery: LiveDelivery) -> WebhookEvent:
    """Build the event of a cancelled job. Its ID is the same for all deliveries of the message."""
    message, job = delivery.message, delivery.reached.job
    if job is None:
        raise TranscriptdError("a message without a job cannot be cancelled")
    return WebhookEvent.of(
        job,
        "cancelled",
        id=_event_id(message.message_id, "cancelled"),
        tenant=message.tenant,
        attempt=delivery.reached.attempt,
        durations_seconds=delivery.timings_seconds,
        error=EventError(code=error.code, message=error.message),
        trace=delivery.span.context,
    )


def failed_event(error: TranscriptdError, delivery: LiveDelivery, settings: Settings) -> WebhookEvent:
    """Build the event of a failed job. Its ID is the same for all deliveries of the message.

    If the message was refused, the event has what could be read of it.
    """
    message, job, reached = delivery.message, delivery.reached.job, delivery.reached
    known = peek_parts(message.body, settings) if job is None else parts_of(job)
    # After a conflict, the results there belong to another job, and so does the record of its final event.
    place = None if isinstance(error, JobIdConflict) else known.place
    return WebhookEvent(
        id=_event_id(message.message_id, "failed"),
        # The record next to a result is that of its completion.
        refused=job is None or (isinstance(reached, Accepted) and reached.finished),
        job_id=job.job_id if job else peek_job_id(message.body),
        tenant=message.tenant,
        status="failed",
        attempt=delivery.reached.attempt,
        input=known.input,
        output=place and EventOutput(bucket=place.bucket, prefix=place.prefix),
        metadata=known.metadata,
        durations_seconds=delivery.timings_seconds,
        error=EventError(code=error.code, message=error.message, traceback=error.detail),
        trace=delivery.span.context,
    )


def completion_id(manifest: Manifest, bucket: str, prefix: str) -> str:
    """Return the ID of the event that the result is complete. Added outputs are news, so they make another ID."""
    return _event_id(bucket, prefix, "completed", *(each.message_id for each in manifest.renderings[-1:]))


def _event_id(*fact: str) -> str:
    return "msg_" + hashlib.sha256("\n".join(fact).encode()).hexdigest()[:32]
