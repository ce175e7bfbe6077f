"""Writes a job's status.json in the background: a write never delays a job and never makes it fail."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from daemon.aws.s3 import Storage
from daemon.config import Settings
from daemon.errors import JobIdConflict, TranscriptdError
from daemon.jobs.delivery import Accepted, DeliveryResult, LiveDelivery
from daemon.jobs.result_store import DELIVERY_LOG_NAME, WRITE_ROUNDS, contended, occupied
from daemon.jobs.tracker import JobTracker
from daemon.jobs.validation import peek_place
from daemon.schema.job import Place
from daemon.schema.job_status import STATUS_NAME, JobStatus, State, StatusError, may_replace
from daemon.schema.manifest import MANIFEST_NAME, Manifest
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.status")

# A job that ends earlier costs one write, that of its end.
FIRST_WRITE_SECONDS = 1.0
CLOSE_TIMEOUT_SECONDS = 5.0
MAX_MESSAGE_CHARS = 1000

# How a delivery ended → the state of its job. After the other outcomes another daemon may hold the job.
_STATES: dict[str, State] = {"retried": "waiting_for_retry", "released": "interrupted", "dead_lettered": "failed"}


class StatusWriter:
    """`async with updating(…)` during the work; `ended(…)` is an observer of the processor. Both write in the background."""

    def __init__(self, settings: Settings, storage: Storage, metrics: Metrics, tracker: JobTracker) -> None:
        self._period_seconds = settings.status_seconds
        self._settings = settings
        self._storage = storage
        self._metrics = metrics
        self._tracker = tracker
        self._outage = Outage(log, "job status not written", "job status written again")
        self._writing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def updating(self, accepted: Accepted, delivery: LiveDelivery) -> AsyncIterator[None]:
        """Keep the status up to date during the block."""
        updates = self._start(self._update(accepted, delivery))
        try:
            yield
        finally:
            updates.cancel()

    def ended(self, ended: DeliveryResult) -> None:
        """Write how the delivery left the job, unless that is unknown or another daemon's business."""
        delivery, reached = ended.delivery, ended.delivery.reached
        if ended.manifest is not None:
            self._start(self._write_completed(ended.manifest, delivery))
        elif not ended.settled or ended.outcome not in _STATES or ended.error is None:
            return
        elif isinstance(reached, Accepted) and reached.finished:
            return  # the job stays completed
        elif isinstance(reached, Accepted) and not isinstance(ended.error, JobIdConflict):
            state = _STATES[ended.outcome]
            error = None if state == "interrupted" else ended.error
            self._start(self._write(delivery, self._status(reached, delivery, state, error=error)))
        elif ended.outcome == "dead_lettered" and not isinstance(ended.error, JobIdConflict):
            self._start(self._write_refused(ended.error, delivery))

    async def write_cancelled(self, delivery: LiveDelivery, error: TranscriptdError) -> None:
        """Record the cancellation and wait until it is stored. Raises a TranscriptdError if S3 does not store it."""
        reached = delivery.reached
        if reached.job is None:
            raise TranscriptdError("a message without a job cannot be cancelled")
        await self._write(delivery, self._status(reached, delivery, "cancelled", error=error))

    async def read(self, place: Place) -> JobStatus | None:
        """Return the status of a job, or None if there is none or the object is something else."""
        found = await self._storage.read(place.bucket, place.prefix + STATUS_NAME)
        try:
            return JobStatus.model_validate_json(found.body) if found else None
        except ValidationError:
            return None

    async def close(self) -> None:
        """Wait a moment for the last writes."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=CLOSE_TIMEOUT_SECONDS)

    # --- in the background ----------------------------------------------------------------------------------------

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._log_failure(work), name="job status")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def _log_failure(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except TranscriptdError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  # a bug in the daemon must not concern the job
            self._outage.failed(error, unexpected=True)

    def _failed(self, error: TranscriptdError) -> None:
        self._metrics.status_writes.labels("failed").inc()
        self._outage.failed(error)

    async def _update(self, accepted: Accepted, delivery: LiveDelivery) -> None:
        if delivery.resumed:
            await self._continue_from_earlier(accepted, delivery)
        await asyncio.sleep(FIRST_WRITE_SECONDS)
        while True:
            try:
                await self._write(delivery, self._status(accepted, delivery, "running"))
                if delivery.status_etag is None:
                    return  # a later status is there
            except TranscriptdError as error:
                self._failed(error)
            await asyncio.sleep(self._period_seconds)

    async def _continue_from_earlier(self, accepted: Accepted, delivery: LiveDelivery) -> None:
        """Continue the overall fraction of an attempt that another delivery began: the work is done, in checkpoints."""
        try:
            earlier = await self.read(accepted.job.place)
        except TranscriptdError as error:
            log.debug("job status unknown", extra={"error": safe_message(error)})
            return
        same = earlier and (earlier.message_id, earlier.attempt) == (delivery.message.message_id, accepted.attempt)
        if earlier and same:
            delivery.progress.overall_fraction = max(delivery.progress.overall_fraction, earlier.overall_fraction)

    async def _write(self, delivery: LiveDelivery, status: JobStatus) -> None:
        reached: Any = delivery.reached  # with a job: only such deliveries have a status of their own
        delivery.status_etag = await self._put(reached.job.place, status, delivery.status_etag)

    async def _write_completed(self, manifest: Manifest, delivery: LiveDelivery) -> None:
        status = self._status(delivery.reached, delivery, "completed")
        names = ("message_id", "queue", "tenant", "attempt", "worker_id")
        known = {name: getattr(manifest, name) for name in names}
        await self._write(delivery, status.model_copy(update=known))

    async def _write_refused(self, error: TranscriptdError, delivery: LiveDelivery) -> None:
        """Write that a message was refused, where it may write and no other message's job is.

        The delivery log shows a job whose status was never written.
        """
        reached = delivery.reached
        place = reached.job.place if reached.job else peek_place(delivery.message.body, self._settings)
        if place is None:
            return
        for name in (MANIFEST_NAME, DELIVERY_LOG_NAME):
            if await self._storage.read(place.bucket, place.prefix + name) is not None:
                return
        status = self._status(reached, delivery, "failed", error=error, job_id=place.job_id)
        await self._put(place, status.model_copy(update={"attempt": 0}))

    # --- one write ------------------------------------------------------------------------------------------------

    async def _put(self, place: Place, status: JobStatus, etag: str | None = None) -> str | None:
        """Write the status over the one with this ETag, or over an earlier one. Return its ETag; None if a later one is there.

        Raises OutputOccupied if the object there is no status.
        """
        key = place.prefix + STATUS_NAME
        body = status.model_dump_json(indent=2).encode()
        condition: dict[str, Any] = {"only_if_etag": etag} if etag else {"only_if_absent": True}
        for _ in range(WRITE_ROUNDS):
            written = await self._storage.write(place.bucket, key, body, **condition)
            if written is not None:
                return self._counted("written", written)
            found = await self._storage.read(place.bucket, key)
            if found is None:
                condition = {"only_if_absent": True}
                continue
            if found.body == body:  # this write: the client repeated it after losing the response
                return self._counted("written", found.etag)
            try:
                current = JobStatus.model_validate_json(found.body)
            except ValidationError:
                raise occupied(place.bucket, key) from None
            if not may_replace(current, status) and not await self._is_outdated(place, current):
                self._counted("superseded", None)
                return None
            condition = {"only_if_etag": found.etag}
        raise contended(place.bucket, key)

    async def _is_outdated(self, place: Place, current: JobStatus) -> bool:
        """Return whether a job is no longer completed: someone removed its manifest, so that it runs again."""
        if current.state != "completed":
            return False
        return await self._storage.read(place.bucket, place.prefix + MANIFEST_NAME) is None

    def _counted(self, result: str, etag: str | None) -> str | None:
        self._metrics.status_writes.labels(result).inc()
        self._outage.worked()
        return etag

    def _status(
        self,
        reached: Any,
        delivery: LiveDelivery,
        state: State,
        *,
        error: TranscriptdError | None = None,
        job_id: str | None = None,
    ) -> JobStatus:
        view = self._tracker.progress_of(delivery)
        running, seconds = state == "running", view.remaining_seconds
        return JobStatus(
            job_id=job_id or reached.job.job_id,
            state=state,
            attempt=reached.attempt,
            stage=view.stage if running else None,
            stage_fraction=view.fraction if running else None,
            overall_fraction=1.0 if state == "completed" else round(view.overall_fraction, 4),
            remaining_seconds=None if seconds is None or not running else round(seconds, 1),
            error=error and StatusError(code=error.code, message=error.message[:MAX_MESSAGE_CHARS]),
            message_id=delivery.message.message_id,
            tenant=delivery.message.tenant,
            queue=delivery.message.queue,
            receive_count=delivery.message.receive_count,
            worker_id=self._settings.worker_id,
            started_at=_utc(delivery.received_at),
            updated_at=_utc(time.time()),
        )


def _utc(at: float) -> str:
    """Format a Unix time."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
