"""Settles a delivery: records the outcome, sends the final event, and makes one outcome call on the message."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from daemon.aws.queues import Queues
from daemon.config import Settings
from daemon.errors import MessageGone, QueueRefused, QueueUnavailable, TranscriptdError
from daemon.jobs.cancellation import Cancellation
from daemon.jobs.delivery import Accepted, DeliveryResult, LiveDelivery, Obstacle, Published, Resource
from daemon.jobs.disposition import Abandon, Cancel, DeadLetter, Delete, Disposition, Ignore, Release, Retry
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.late_outcomes import LateOutcomes
from daemon.jobs.lease import Lease
from daemon.jobs.notifications import cancelled_event, completed_event, failed_event, webhook_url
from daemon.jobs.result_store import ResultStore
from daemon.schema.job import Job
from daemon.telemetry.redaction import safe_message
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.lanes import EventStatus
from daemon.webhooks.sender import EventSender

log = logging.getLogger("transcriptd.settlement")

SETTLE_BACKOFF_MAX_SECONDS = 5.0


class Settlement:
    """Carries out the dispositions."""

    def __init__(
        self,
        settings: Settings,
        *,
        queues: Queues,
        results: ResultStore,
        status: StatusWriter,
        cancellation: Cancellation,
        events: EventSender,
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._results = results
        self._status = status
        self._cancellation = cancellation
        self._events = events
        self.late_outcomes = LateOutcomes()

    async def settle_message(self, disposition: Disposition, delivery: LiveDelivery) -> DeliveryResult:
        """Record the outcome, stop the heartbeat, then carry out the disposition within the rest of the lease."""
        if delivery.claim.lease.gone:
            disposition = _end_without_message(disposition)
        stage = delivery.progress.stage
        delivery.progress.enter("settle")
        began_at = time.monotonic()
        with delivery.span.child("settle"):
            await self._record_outcome(disposition, delivery)
            await delivery.claim.lease.close()
            obstacle, status = await self._carry_out(disposition, delivery)
            if obstacle is not None and obstacle.gone:
                delivery.claim.lease.end_without_message()
                disposition = _end_without_message(disposition)
                await self._record_outcome(disposition, delivery)
                obstacle, status = await self._carry_out(disposition, delivery)
        delivery.timings_seconds["settle"] = time.monotonic() - began_at
        end = partial(
            DeliveryResult,
            delivery,
            disposition.outcome,
            settled=obstacle is None,
            obstacle=obstacle,
            event_status=status,
        )
        match disposition:
            case Delete(published):
                return end(published.reason, manifest=published.manifest)
            case Ignore(reason):
                return end(reason.value)
            case Retry(error) | Release(error) | DeadLetter(error) | Abandon(error) | Cancel(error):
                return end(error.code, error=error, failed_in=stage)

    async def _record_outcome(self, disposition: Disposition, delivery: LiveDelivery) -> None:
        """Add the outcome to the delivery log before it is carried out, so that the delivery does not look crashed.

        If S3 does not store it now, the outcome is recorded later.
        """
        accepted, message = delivery.reached, delivery.message
        if not isinstance(accepted, Accepted) or isinstance(disposition, Delete | Ignore | Cancel):
            return  # there is no log, or it is removed
        consumes_attempt = isinstance(disposition, Retry | DeadLetter) and disposition.error.consumes_attempt
        record = partial(
            self._results.end,
            accepted.job,
            message.message_id,
            message.receive_count,
            disposition.outcome,
            disposition.error.code,
            message=disposition.error.message,
            consumes_attempt=consumes_attempt,
        )
        try:
            await record()
        except TranscriptdError as error:
            self.late_outcomes.add(accepted.job.job_id, record)
            log.warning("outcome not recorded", extra={"outcome": disposition.outcome, "error": safe_message(error)})

    async def record_interruption(self, delivery: LiveDelivery) -> None:
        """Record that the daemon stops, while the job may still finish: a kill from now on is not the job's crash."""
        accepted, message = delivery.reached, delivery.message
        if not isinstance(accepted, Accepted):
            return
        try:
            await self._results.interrupt(accepted.job, message.message_id, message.receive_count)
        except TranscriptdError as error:
            log.warning("interruption not recorded", extra={"error": safe_message(error)})

    async def _carry_out(self, disposition: Disposition, delivery: LiveDelivery) -> tuple[Obstacle | None, EventStatus]:
        """Carry out the disposition. Return the obstacle, if any, and the status of the final event."""
        message, lease, queues = delivery.message, delivery.claim.lease, self._queues
        obstacle, status = None, EventStatus()
        match disposition:
            case Abandon():
                pass
            case Delete(published):
                obstacle, status = await self._notify_completed(published, delivery)
                # If the event is not secured, keep the message: its next delivery finds the manifest and sends it again.
                obstacle = obstacle or await self._delete(delivery)
            case Ignore():
                obstacle = await self._delete(delivery)
            case Retry(_, delay_seconds):
                obstacle = await self._retry_until_lease_ends(
                    lease,
                    Resource.QUEUE,
                    lambda: queues.retry(message, delay_seconds),
                    gone_after_seconds=delay_seconds,
                )
            case Release():
                obstacle = await self._retry_until_lease_ends(
                    lease, Resource.QUEUE, lambda: queues.release(message), gone_after_seconds=0
                )
            case DeadLetter(error):
                # Send, then delete: a crash between the two causes a duplicate, never a loss.
                attempt = delivery.reached.attempt
                obstacle = await self._retry_until_lease_ends(
                    lease, Resource.DEAD_LETTER_QUEUE, lambda: queues.dead_letter(message, error, attempt)
                )
                if obstacle is None:
                    obstacle, status = await self._notify(failed_event(error, delivery, self._settings), delivery)
                    obstacle = obstacle or await self._delete(delivery)
                    if isinstance(accepted := delivery.reached, Accepted) and accepted.finished:
                        await self._remove_unfinished(accepted.job, delivery)  # only its result remains
            case Cancel(error):
                obstacle, status = await self._cancel(error, delivery)
        return obstacle, status

    async def _cancel(self, error: TranscriptdError, delivery: LiveDelivery) -> tuple[Obstacle | None, EventStatus]:
        """Record the cancellation, delete the message, then remove the request: in this order a crash cannot revive the job."""
        job = delivery.reached.job
        if job is None:
            raise TranscriptdError("a message without a job cannot be cancelled")
        try:
            await self._status.write_cancelled(delivery, error)
        except TranscriptdError as failure:  # the request remains, and the next delivery is cancelled
            log.warning("cancellation not recorded", extra={"error": safe_message(failure)})
            return Obstacle(Resource.STORAGE, safe_message(failure)), EventStatus()
        obstacle, status = await self._notify(cancelled_event(error, delivery), delivery)
        obstacle = obstacle or await self._delete(delivery)
        if obstacle is None:
            await self._remove_unfinished(job, delivery)
            await self._cancellation.clear(job)
        return obstacle, status

    async def _remove_unfinished(self, job: Job, delivery: LiveDelivery) -> None:
        try:
            await self._results.remove_checkpoints(job, delivery.known_parts)
        except TranscriptdError as error:
            log.warning("checkpoints not removed", extra={"error": safe_message(error)})

    async def _delete(self, delivery: LiveDelivery) -> Obstacle | None:
        message = delivery.message
        if delivery.claim.lease.gone:
            return None
        return await self._retry_until_lease_ends(
            delivery.claim.lease, Resource.QUEUE, lambda: self._queues.delete(message)
        )

    async def _notify_completed(
        self, published: Published, delivery: LiveDelivery
    ) -> tuple[Obstacle | None, EventStatus]:
        """Send the event of a result. The event bus gets it in each delivery: nothing records that it has it."""
        event = completed_event(published, delivery)
        if not published.receiver_knows:
            return await self._notify(event, delivery)
        obstacle, status = await self._send(None, event, delivery)
        return obstacle, replace(status, webhook="known")

    async def _notify(self, event: WebhookEvent, delivery: LiveDelivery) -> tuple[Obstacle | None, EventStatus]:
        return await self._send(webhook_url(delivery, self._settings), event, delivery)

    async def _send(
        self, url: str | None, event: WebhookEvent, delivery: LiveDelivery
    ) -> tuple[Obstacle | None, EventStatus]:
        """Send a final event. Return an obstacle if it was neither delivered nor stored, and the event's status."""
        sent = self._events.send(url, event)
        lease = delivery.claim.lease
        # The rest of the lease is for the outcome call.
        secured = await self._events.secure(sent, lease.remaining_seconds / 2)
        obstacle = Obstacle(None if lease.lost else Resource.OUTBOX, "a final event was neither delivered nor stored")
        return None if secured else obstacle, sent.status if sent else EventStatus()

    async def _retry_until_lease_ends(
        self,
        lease: Lease,
        resource: Resource,
        call: Callable[[], Awaitable[None]],
        *,
        gone_after_seconds: float = math.inf,
    ) -> Obstacle | None:
        """Make an outcome call, with retries until the lease ends. Return the last obstacle, or None on success.

        A call without a response may have taken effect. Another daemon may then hold the message `gone_after_seconds` after
        the call was sent, so there are no retries after that time.
        """
        pause_seconds, level = 0.1, logging.WARNING
        obstacle = Obstacle(None, "the lease ended first")
        ours_until = math.inf
        while (remaining := min(lease.remaining_seconds, ours_until - time.monotonic())) > 0:
            sent_at = time.monotonic()
            try:
                # A hanging call must leave time for another.
                async with asyncio.timeout(min(remaining, self._settings.queue_timeout_seconds)):
                    await call()
            except MessageGone as error:
                # The handle never becomes valid again. If the message still exists, its next delivery is settled instead.
                log.warning("outcome call failed", extra={"error": safe_message(error)})
                # After a call that may have worked, or a suspension, another delivery may have ended the message.
                certain = ours_until == math.inf and lease.remaining_seconds > 0
                return Obstacle(None, safe_message(error), gone=certain and gone_after_seconds < math.inf)
            except QueueRefused as error:
                log.warning("outcome call failed", extra={"error": safe_message(error)})
                return Obstacle(resource, safe_message(error), permanent=True)
            except (QueueUnavailable, TimeoutError) as error:
                obstacle = Obstacle(resource, safe_message(error))
                log.log(level, "outcome call failed", extra={"error": obstacle.problem})
                level = logging.DEBUG  # one warning, not one per attempt
                if not isinstance(error, QueueUnavailable) or error.may_have_worked:
                    ours_until = min(ours_until, sent_at + gone_after_seconds)
                await asyncio.sleep(min(pause_seconds, max(0.0, lease.remaining_seconds)))
                pause_seconds = min(pause_seconds * 2, SETTLE_BACKOFF_MAX_SECONDS)
            else:
                return None
        return obstacle


def _end_without_message(disposition: Disposition) -> Disposition:
    """Return the disposition of a job whose message SQS cannot deliver again: a retry would never come."""
    match disposition:
        case Retry(error):
            return DeadLetter(error)
        case Release():
            problem = "the message expired or was purged while its job ran, and the daemon stopped before the job ended"
            return DeadLetter(MessageGone(f"{problem}; send it again"))
        case _:
            return disposition
