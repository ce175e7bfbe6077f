"""Metrics and trace attributes of a delivery. The other observers are tracker.py and summary.py."""

import time

from daemon.jobs.delivery import Accepted, Claim, DeliveryResult
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import error_code


def count_receive(claim: Claim, metrics: Metrics) -> None:
    """Count a received message."""
    message, span = claim.message, claim.span
    metrics.message_receive_count.observe(message.receive_count)
    if message.receive_count == 1:
        wait_seconds = max(0.0, time.time() - message.sent_at)
        metrics.queue_wait_seconds.labels(message.queue).observe(wait_seconds, span.exemplar)
        metrics.last_queue_wait_seconds.labels(message.queue).set(wait_seconds)
        span.ended("queue wait", wait_seconds)


def count_start(accepted: Accepted, metrics: Metrics) -> None:
    """Count the start of a job, unless an earlier delivery started it."""
    message = accepted.claim.message
    if not accepted.earlier.deliveries:
        wait_seconds = max(0.0, time.time() - message.sent_at)
        metrics.tenants.queue_wait_seconds.labels(metrics.tenants.label(message.tenant)).observe(wait_seconds)


def count_end(ended: DeliveryResult, metrics: Metrics) -> None:
    # A published result exists even if its message remains. Any other outcome that was not carried out did not happen.
    outcome = ended.outcome if ended.settled or ended.outcome == "published" else "unsettled"
    metrics.deliveries.labels(outcome, ended.reason).inc()
    if outcome != "ignored":  # a notification without a recording is no job
        metrics.tenants.deliveries.labels(metrics.tenants.label(ended.delivery.message.tenant), outcome).inc()
    metrics.job_duration_seconds.labels(outcome).observe(ended.duration_seconds, ended.delivery.span.exemplar)
    if not ended.settled and ended.outcome != "unsettled":
        metrics.outcome_call_failures.labels(ended.outcome).inc()


def mark_span(ended: DeliveryResult) -> None:
    span = ended.delivery.span
    span.set(
        {
            "transcriptd.outcome": ended.outcome,
            "transcriptd.reason": ended.reason,
            "transcriptd.attempt": ended.delivery.reached.attempt,
            "transcriptd.settled": ended.settled,
        }
    )
    if ended.error and (code := error_code(ended.error)):
        span.fail(code)
