"""One message end to end. The only place where an error becomes a disposition, and where a disposition is carried out."""

import asyncio
import logging
import math
import time
import traceback
import weakref
from collections.abc import Awaitable, Callable

from daemon.config import Settings
from daemon.crashpoints import crash_point
from daemon.delivery import Delivery
from daemon.disposition import Abandon, DeadLetter, Delete, Disposition, Release, Retry, disposition_of
from daemon.errors import (
    CrashSuspect,
    JobIdConflict,
    JobTimeout,
    QueueUnavailable,
    TranscriptdError,
)
from daemon.events import Event
from daemon.intake import Load
from daemon.job import Job, parse_job
from daemon.lease import Lease
from daemon.logs import bind, log_context
from daemon.manifest import Manifest
from daemon.metrics import Metrics
from daemon.results import Results
from daemon.spans import Attributes, Tracer, code_of
from daemon.sqs import Queue, Received
from daemon.status import Record
from daemon.summary import log_finished
from daemon.tracecontext import from_attributes
from daemon.transcription import Transcriber
from daemon.webhook import WebhookSender
from daemon.wording import words_of

log = logging.getLogger("transcriptd.processor")

SETTLE_BACKOFF_MAX_SECONDS = 5.0


class Processor:
    """Knows in which order a message meets the parts, and what each outcome takes."""

    def __init__(
        self,
        settings: Settings,
        *,
        queue: Queue,
        results: Results,
        transcriber: Transcriber,
        webhooks: WebhookSender,
        metrics: Metrics,
        record: Record,
        tracer: Tracer,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._results = results
        self._transcriber = transcriber
        self._webhooks = webhooks
        self._metrics = metrics
        self._record = record
        self._tracer = tracer
        self._queue_name = settings.queue_url.rpartition("/")[2]
        # Forgotten when nobody holds or awaits them.
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def process(self, message: Received, leave: asyncio.Event, load: Load) -> None:
        """Bring one delivery to exactly one outcome. Never raises for what is wrong with a job or a dependency."""
        # https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
        about: Attributes = {
            "messaging.system": "aws_sqs",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": self._queue_name,
            "messaging.message.id": message.message_id,
            "transcriptd.receive_count": message.receive_count,
        }
        with self._tracer.span(
            f"process {self._queue_name}", from_attributes(message.attributes), "consumer", about
        ) as span:
            await self._process(Delivery(message, span, load=load), leave)

    async def _process(self, delivery: Delivery, leave: asyncio.Event) -> None:
        message, span = delivery.message, delivery.span
        with (
            log_context(message_id=message.message_id, receive_count=message.receive_count, **span.log_fields),
            self._record.holding(delivery),
        ):
            self._metrics.message_receives.observe(message.receive_count)
            if message.receive_count == 1:
                wait_seconds = max(0.0, time.time() - message.sent_at)
                self._metrics.queue_wait_seconds.observe(wait_seconds, span.exemplar)
                self._metrics.queue_last_wait_seconds.set(wait_seconds)
                span.ended("queue wait", wait_seconds)
            try:
                async with Lease(self._queue, message, self._settings, self._metrics) as lease:
                    delivery.lease = lease
                    disposition = await self._decide(delivery, lease, leave)
                    delivery.course.enter("settle")
                    decided_at = time.monotonic()
                    with span.child("settle"):
                        await self._note(delivery, disposition)
                        await lease.close()
                        settled = await self._settle(disposition, delivery, lease)
                    delivery.timings_seconds["settle"] = time.monotonic() - decided_at
                self._account(disposition, delivery, settled)
            except Exception as error:  # the message comes back by itself; a fault of ours must not end the other jobs
                log.exception("delivery not settled")
                span.fail(TranscriptdError.code)
                self._metrics.jobs.labels("unsettled", TranscriptdError.code).inc()
                self._record.ended(delivery, "unsettled", TranscriptdError.code, settled=False)
                log_finished(delivery, "unsettled", TranscriptdError.code, settled=False, error=_fault(error))

    # --- what becomes of it ---------------------------------------------------------------------------------------

    async def _decide(self, delivery: Delivery, lease: Lease, leave: asyncio.Event) -> Disposition:
        try:
            return await lease.hold(self._work(delivery), leave)
        except TranscriptdError as error:
            failure = error
        except Exception as error:  # a fault of ours: transient until the attempts are spent
            log.exception("job failed unexpectedly")
            failure = _fault(error)
        delivery.failed_in = delivery.course.stage
        # What another process said comes last: where a traceback is cut, its end is kept.
        failure.detail = "".join(traceback.format_exception(failure)) + (failure.detail or "")
        return disposition_of(failure, delivery.attempt, delivery.message.receive_count, self._settings)

    async def _work(self, delivery: Delivery) -> Disposition:
        job = delivery.job = parse_job(delivery.message.body, self._settings)
        bind(job_id=job.job_id)
        delivery.span.set({"transcriptd.job_id": job.job_id})
        # One delivery of a job at a time in this daemon: a second one waits, and finds the first one's result.
        async with self._turns.setdefault(job.job_id, asyncio.Lock()):
            return await self._take(job, delivery)

    async def _take(self, job: Job, delivery: Delivery) -> Disposition:
        message = delivery.message
        if earlier := await self._results.find_manifest(job):
            _check_same_input(job, earlier)
            delivery.manifest = earlier
            delivery.told = await self._results.webhook_delivered(job)
            await self._remove_checkpoints(job, delivery)
            return Delete("duplicate")
        crash_point("received", job.job_id, message.receive_count)
        delivery.noted = True  # even if we are interrupted before the answer
        delivery.history = await self._results.begin(
            job, message.message_id, message.receive_count, self._settings.worker_id
        )
        crash_point("begun", job.job_id, message.receive_count)
        if (died := delivery.history.unexplained(message.message_id)) >= self._settings.quarantine_deliveries:
            raise CrashSuspect(
                f"{died} deliveries of this job were begun and ended without an outcome; it was not tried again"
            )
        log.info("job started", extra={"attempt": delivery.attempt})
        self._webhooks.send(job.webhook_url, delivery.event("started"))
        limit_seconds = self._settings.job_timeout_seconds

        def on_progress(stage: str, fraction: float) -> None:
            self._webhooks.send(job.webhook_url, delivery.event("progress", progress=(stage, fraction)))

        try:
            async with asyncio.timeout(limit_seconds) as limit:
                ours = await self._transcriber.transcribe(job, delivery, on_progress)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise JobTimeout(
                f"the job took longer than {limit_seconds:g} s; split the recording or raise the limit"
            ) from error
        await self._remove_checkpoints(job, delivery)
        return Delete("published" if ours else "duplicate")

    async def _remove_checkpoints(self, job: Job, delivery: Delivery) -> None:
        try:
            await self._results.remove_checkpoints(job, delivery.known_parts)
        except TranscriptdError as error:  # the job is finished all the same
            log.warning("checkpoints not removed", extra={"error": words_of(error)})

    async def _note(self, delivery: Delivery, disposition: Disposition) -> None:
        """Note the outcome beside the job before it is carried out, so that no delivery looks like a crash."""
        if delivery.job is None or not delivery.noted or isinstance(disposition, Delete):
            return
        counts = isinstance(disposition, Retry | DeadLetter) and disposition.error.counts
        try:
            await self._results.end(
                delivery.job,
                delivery.message.message_id,
                delivery.message.receive_count,
                disposition.outcome,
                disposition.error.code,
                message=disposition.error.message,
                counts=counts,
            )
        except TranscriptdError as error:
            log.warning("outcome not noted", extra={"outcome": disposition.outcome, "error": words_of(error)})

    # --- carrying it out ------------------------------------------------------------------------------------------

    async def _settle(self, disposition: Disposition, delivery: Delivery, lease: Lease) -> bool:
        """Carry the disposition out within what is left of the lease; False if that failed (the message comes back)."""
        message = delivery.message
        job_id = delivery.job.job_id if delivery.job else None
        crash_point("decided", job_id, message.receive_count)
        match disposition:
            case Abandon():
                return True
            case Delete():
                delivery.webhook = "known" if delivery.told else "none"
                told = delivery.told or await self._tell(delivery, lease, delivery.event("completed"))
                crash_point("told", job_id, message.receive_count)
                # Untold it is not deleted: the redelivery finds the manifest and tells it again.
                settled = told and await self._insist(lease, lambda: self._queue.delete(message))
            case Retry(_, delay_seconds):
                settled = await self._insist(
                    lease, lambda: self._queue.retry(message, delay_seconds), gone_after_seconds=delay_seconds
                )
            case Release():
                settled = await self._insist(lease, lambda: self._queue.release(message), gone_after_seconds=0)
            case DeadLetter(error):
                # Send, then delete: a crash between the two leaves a duplicate, never a loss.
                settled = await self._insist(lease, lambda: self._queue.dead_letter(message, error, delivery.attempt))
                if settled:
                    crash_point("dead-lettered", job_id, message.receive_count)
                    told = await self._tell(delivery, lease, delivery.event("failed", error=error))
                    settled = told and await self._insist(lease, lambda: self._queue.delete(message))
        crash_point("settled", job_id, message.receive_count)
        if not settled:
            self._metrics.settle_failures.labels(disposition.outcome).inc()
        return settled

    async def _tell(self, delivery: Delivery, lease: Lease, event: Event) -> bool:
        """Send a final event; whether it is delivered or stored, so that the message may go."""
        sent = self._webhooks.send(delivery.webhook_url(self._settings), event)
        secured = await self._webhooks.secure(sent, lease.remaining_seconds / 2)  # the rest is for the outcome call
        delivery.webhook = sent.standing if sent else "none"
        return secured

    async def _insist(
        self, lease: Lease, call: Callable[[], Awaitable[None]], *, gone_after_seconds: float = math.inf
    ) -> bool:
        """Make an outcome call, again and again while the lease lasts. False when that ran out.

        A call whose answer was lost may have been carried out: the message may then be another's `gone_after_seconds`
        after it was sent, and is not touched from then on.
        """
        pause_seconds, level = 0.1, logging.WARNING
        ours_until = math.inf
        while (remaining := min(lease.remaining_seconds, ours_until - time.monotonic())) > 0:
            sent_at = time.monotonic()
            try:
                # A call that hangs must leave time for another.
                async with asyncio.timeout(min(remaining, self._settings.queue_timeout_seconds)):
                    await call()
            except (QueueUnavailable, TimeoutError) as error:
                log.log(level, "outcome call failed", extra={"error": words_of(error)})
                level = logging.DEBUG  # told once, not once a try
                if not isinstance(error, QueueUnavailable) or error.may_have_worked:
                    ours_until = min(ours_until, sent_at + gone_after_seconds)
                await asyncio.sleep(min(pause_seconds, max(0.0, lease.remaining_seconds)))
                pause_seconds = min(pause_seconds * 2, SETTLE_BACKOFF_MAX_SECONDS)
            else:
                return True
        return False

    def _account(self, disposition: Disposition, delivery: Delivery, settled: bool) -> None:
        """Metrics, the record, and at last the one summary line of the delivery."""
        error = None if isinstance(disposition, Delete) else disposition.error
        reason = disposition.reason if isinstance(disposition, Delete) else disposition.error.code
        self._metrics.jobs.labels(disposition.outcome, reason).inc()
        self._metrics.job_duration_seconds.labels(disposition.outcome).observe(
            delivery.elapsed_seconds, delivery.span.exemplar
        )
        delivery.span.set(
            {
                "transcriptd.outcome": disposition.outcome,
                "transcriptd.reason": reason,
                "transcriptd.attempt": delivery.attempt,
                "transcriptd.settled": settled,
            }
        )
        if error and (code := code_of(error)):
            delivery.span.fail(code)
        self._record.ended(
            delivery, disposition.outcome, reason, message=error.message if error else None, settled=settled
        )
        log_finished(delivery, disposition.outcome, reason, settled=settled, error=error)


def _fault(error: Exception) -> TranscriptdError:
    """A fault of ours as one of our errors. Its words go where the message's body may go, and not into the log."""
    fault = TranscriptdError(f"{type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault


def _check_same_input(job: Job, earlier: Manifest) -> None:
    """A manifest for another recording is not ours: two jobs were given one id, and only one result can exist."""
    same = (earlier.input.bucket, earlier.input.key) == (job.input.bucket, job.input.key)
    if not same or job.input.version_id not in (None, earlier.input.version_id):
        raise JobIdConflict(
            f"job_id {job.job_id} finished earlier with another input (s3://{earlier.input.bucket}/{earlier.input.key}); "
            "give every recording a job_id of its own"
        )
