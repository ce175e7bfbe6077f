"""Process one message end to end: claim → accept → transcribe → publish → settle.

Only this module turns an error into a disposition and notifies the observers of the result.
"""

import asyncio
import logging
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

from daemon.aws.queues import Queues
from daemon.aws.sqs import ReceivedMessage
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import CrashSuspect, JobTimeout, OnFailure, TranscriptdError
from daemon.jobs.brake import BrakeObserver
from daemon.jobs.cancellation import Cancellation, cancelled
from daemon.jobs.conflict import require_same_work
from daemon.jobs.delivery import Accepted, Claim, DeliveryResult, LiveDelivery, Published, Valid
from daemon.jobs.delivery_log import DeliveryLog
from daemon.jobs.disposition import Delete, Disposition, Ignore, choose_disposition, is_last_delivery
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.late_outcomes import LateOutcomes
from daemon.jobs.late_outputs import LateOutputs, Wanted
from daemon.jobs.lease import Lease
from daemon.jobs.notifications import completion_id, progress_event, started_event
from daemon.jobs.observers import count_end, count_receive, count_start, mark_span
from daemon.jobs.publisher import Publisher
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.jobs.result_store import ResultStore
from daemon.jobs.settlement import Settlement
from daemon.jobs.stages import timed_stage
from daemon.jobs.summary import log_finished
from daemon.jobs.tracker import JobTracker
from daemon.jobs.transcriber import ProgressHandler, Transcriber
from daemon.jobs.validation import parse_job
from daemon.schema.job import Job
from daemon.schema.notifications import Ignored, NotAJob
from daemon.telemetry.logs import bind, log_context
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import describe_with_type, safe_message
from daemon.telemetry.spans import Span, SpanAttributes, Tracer
from daemon.telemetry.tracecontext import from_attributes
from daemon.webhooks.sender import EventSender

log = logging.getLogger("transcriptd.processor")

Observer = Callable[[DeliveryResult], None]


class Processor:
    """Runs the steps of a delivery in order."""

    def __init__(
        self,
        settings: Settings,
        *,
        queues: Queues,
        results: ResultStore,
        transcriber: Transcriber,
        publisher: Publisher,
        late_outputs: LateOutputs,
        status: StatusWriter,
        cancellation: Cancellation,
        events: EventSender,
        metrics: Metrics,
        tracker: JobTracker,
        tracer: Tracer,
        brake: BrakeObserver,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._queues = queues
        self._results = results
        self._transcriber = transcriber
        self._publisher = publisher
        self._late_outputs = late_outputs
        self._status = status
        self._cancellation = cancellation
        self._events = events
        self._metrics = metrics
        self._tracker = tracker
        self._tracer = tracer
        self._settlement = Settlement(
            settings, queues=queues, results=results, status=status, cancellation=cancellation, events=events
        )
        # The log line comes last, so that everything it reports has already happened.
        self._observers: tuple[Observer, ...] = (
            partial(count_end, metrics=metrics),
            mark_span,
            tracker.ended,
            status.ended,
            brake.observe,
            log_finished,
        )
        self._stopping = False
        self._live: dict[int, LiveDelivery] = {}
        # A lock is removed when no task holds or awaits it.
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
        """Bring one delivery to exactly one outcome. Never raises for a failing job or dependency."""
        known = {"tenant": message.tenant} if message.tenant else {}
        with (
            self._span(message) as span,
            log_context(
                message_id=message.message_id,
                queue=message.queue,
                receive_count=message.receive_count,
                **known,
                **span.log_fields,
            ),
        ):
            claim = self._claim(message, span)
            delivery = LiveDelivery(claim, estimate)
            self._live[id(delivery)] = delivery
            try:
                with self._tracker.track(delivery):
                    ended = await self._process_to_outcome(delivery, interrupt)
                    self._notify_observers(ended)
            finally:
                del self._live[id(delivery)]

    @property
    def late_outcomes(self) -> LateOutcomes:
        return self._settlement.late_outcomes

    async def record_interruptions(self) -> None:
        """Record an interruption of every delivery in progress, and of those that start from now on.

        Call when the daemon begins to stop: if it is killed before its jobs end, the jobs are not blamed for a crash.
        """
        self._stopping = True
        await asyncio.gather(*(self._settlement.record_interruption(each) for each in self._live.values()))

    async def _process_to_outcome(self, delivery: LiveDelivery, interrupt: asyncio.Event) -> DeliveryResult:
        try:
            async with delivery.claim.lease:
                disposition = await self._decide(delivery, interrupt)
                return await self._settlement.settle_message(disposition, delivery)
        except Exception as error:  # SQS delivers the message again; a bug must not end the other jobs
            log.exception("delivery not settled")
            return DeliveryResult(delivery, "unsettled", TranscriptdError.code, settled=False, error=_fault(error))

    async def _decide(self, delivery: LiveDelivery, interrupt: asyncio.Event) -> Disposition:
        """Process the job under the lease. Return the disposition of the message."""
        try:
            return Delete(await delivery.claim.lease.hold(self._work(delivery), interrupt))
        except NotAJob as ignored:
            own = (
                ignored.reason is Ignored.OWN_OBJECT
            )  # several for each job, if results are in the bucket of recordings
            level = logging.DEBUG if own else logging.INFO
            log.log(level, "notification ignored", extra={"reason": ignored.reason.value, "key": ignored.key})
            return Ignore(ignored.reason)
        except TranscriptdError as error:
            failure = error
        except Exception as error:  # a bug in the daemon: retried until the attempts are used up
            log.exception("job failed unexpectedly")
            failure = _fault(error)
        # The other process's traceback comes last: truncation keeps the end.
        failure.detail = "".join(traceback.format_exception(failure)) + (failure.detail or "")
        attempt, message = delivery.reached.attempt, delivery.message
        last = failure.on_failure is OnFailure.RETRY and await self._is_last(message)
        return choose_disposition(failure, attempt, message.receive_count, self._settings, last=last)

    async def _is_last(self, message: ReceivedMessage) -> bool:
        limits = await self._queues.limits(message)
        return is_last_delivery(message, limits, self._clock.unix(), self._settings)

    async def _work(self, delivery: LiveDelivery) -> Published:
        """Run all steps. `delivery.reached` records the last one, which determines how a failure is handled."""
        valid = self._validate(delivery.claim)
        delivery.reached = valid
        # One delivery per job at a time in this daemon: a second one waits and finds the result of the first.
        async with self._turns.setdefault(valid.job.job_id, asyncio.Lock()):
            accepted = await self._accept(valid, delivery)
            if isinstance(accepted, Accepted):
                async with self._time_limit(), self._status.updating(accepted, delivery):
                    async with self._cancellation.watching(accepted.job, delivery.message):
                        transcribed = await self._transcriber.transcribe(
                            accepted, delivery, self._on_progress(accepted, delivery)
                        )
                    # From here on a request comes too late: outputs are written only with their manifest.
                    published = await self._publisher.publish(transcribed, delivery)
            else:
                published = accepted
            if not published.ours:
                published = await self._add_outputs(published, valid, delivery)
            await self._remove_checkpoints(published.job, delivery)
            return published

    def _notify_observers(self, ended: DeliveryResult) -> None:
        for observe in self._observers:
            try:
                observe(ended)
            except Exception:  # the delivery has ended, and the other observers must still run
                log.exception("observer failed")

    # --- the steps ------------------------------------------------------------------------------------------------

    def _claim(self, message: ReceivedMessage, span: Span) -> Claim:
        claim = Claim(message, Lease(self._queues, message, self._settings, self._metrics, self._clock), span)
        count_receive(claim, self._metrics)
        return claim

    def _validate(self, claim: Claim) -> Valid:
        job = parse_job(claim.message.body, self._settings)
        bind(job_id=job.job_id)
        claim.span.set({"transcriptd.job_id": job.job_id})
        return Valid(claim, job)

    async def _accept(self, valid: Valid, delivery: LiveDelivery) -> Accepted | Published:
        """Record the start of the delivery, unless an earlier one has published the job's result, or it is cancelled."""
        job, message = valid.job, valid.claim.message
        # At the same time, because each answer takes a while.
        manifest, is_cancelled = await asyncio.gather(
            self._results.find_manifest(job), self._cancellation.requested(job, message)
        )
        if manifest:
            require_same_work(job, message.message_id, manifest)
            return Published(job, manifest, ours=False)
        if is_cancelled:
            raise cancelled(job)
        accepted = await self._record_start(valid, delivery)
        count_start(accepted, self._metrics)
        log.info("job started", extra={"attempt": accepted.attempt})
        self._events.send(job.webhook_url, started_event(accepted, delivery))
        return accepted

    async def _record_start(self, valid: Valid, delivery: LiveDelivery, *, finished: bool = False) -> Accepted:
        """Record the start of the delivery. Raises CrashSuspect if too many earlier ones have crashed."""
        claim, job, message = valid.claim, valid.job, valid.claim.message
        # Set first: the call may be interrupted after it took effect.
        delivery.reached = Accepted(claim, job, DeliveryLog(), finished)
        await self.late_outcomes.record(job.job_id)  # the log must be complete before it is judged
        earlier = await self._results.begin(job, message.message_id, message.receive_count, self._settings.worker_id)
        accepted = delivery.reached = Accepted(claim, job, earlier, finished)
        if self._stopping:  # record_interruptions() may have found no record yet
            await self._settlement.record_interruption(delivery)
        if (died := earlier.crashed_deliveries(message.message_id)) >= self._settings.max_crashed_deliveries:
            raise CrashSuspect(
                f"{died} deliveries of this job started but recorded no outcome; the job was not attempted again"
            )
        return accepted

    async def _add_outputs(self, published: Published, valid: Valid, delivery: LiveDelivery) -> Published:
        """Add the outputs that the message wants and the result of an earlier delivery lacks. No runner is needed."""
        job, manifest, message_id = published.job, published.manifest, delivery.message.message_id
        wanted = Wanted.by(message_id, job.options).missing_in(manifest)
        if wanted is None:
            known = await self._results.webhook_delivered(
                job, completion_id(manifest, job.output_bucket, job.output_prefix)
            )
            return replace(published, receiver_knows=known)
        if isinstance(delivery.reached, Accepted):  # another delivery has just published the result
            delivery.reached = replace(delivery.reached, finished=True)
        else:
            await self._record_start(valid, delivery, finished=True)
        delivery.estimate.update(0.0)  # it uses no device
        async with self._time_limit():
            with timed_stage(delivery, "publish", delivery.span, self._metrics):
                manifest = await self._late_outputs.add(job.place, wanted, delivery.claim.lease.require)
        for name in wanted.formats:
            self._metrics.late_outputs.labels(name).inc()
        return replace(published, manifest=manifest, rendered=True)

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        limit_seconds = self._settings.job_timeout_seconds
        try:
            async with asyncio.timeout(limit_seconds) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise JobTimeout(
                f"the job took longer than {limit_seconds:g} s; split the recording or raise the limit"
            ) from error

    def _on_progress(self, accepted: Accepted, delivery: LiveDelivery) -> ProgressHandler:
        url, job_id = accepted.job.webhook_url, accepted.job.job_id

        def send() -> None:
            if self._events.is_progress_due(url, job_id):
                self._events.send(url, progress_event(accepted, delivery, self._tracker.progress_of(delivery)))

        return send

    async def _remove_checkpoints(self, job: Job, delivery: LiveDelivery) -> None:
        try:
            await self._results.remove_checkpoints(job, delivery.known_parts)
        except TranscriptdError as error:  # the job is finished anyway
            log.warning("checkpoints not removed", extra={"error": safe_message(error)})

    def _span(self, message: ReceivedMessage) -> AbstractContextManager[Span]:
        # https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
        queue = self._settings.queue(message.queue)
        about: SpanAttributes = {
            "messaging.system": "aws_sqs",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue.aws_name,
            "messaging.message.id": message.message_id,
            "transcriptd.receive_count": message.receive_count,
            "transcriptd.tenant": message.tenant,
        }
        return self._tracer.span(f"process {queue.aws_name}", from_attributes(message.attributes), "consumer", about)


def _fault(error: Exception) -> TranscriptdError:
    """Wrap an unexpected exception. Its message may go wherever the message body may go, but not into the log."""
    fault = TranscriptdError(describe_with_type(error))
    fault.__cause__ = error
    return fault
