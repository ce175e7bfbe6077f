"""Cancellation of a job: it is requested, by anyone who can write to the job's results, with the object `<prefix><job_id>/cancel`.

The request is looked for when a message is received, and at intervals while its job runs. Once the cancellation is recorded
in status.json and the message is deleted, the daemon removes the request, so that a message sent later runs again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.aws.s3 import Storage
from daemon.aws.sqs import ReceivedMessage
from daemon.config import Settings
from daemon.errors import JobCancelled, TranscriptdError
from daemon.jobs.job_status import StatusWriter
from daemon.schema.job import Job
from daemon.schema.job_status import CANCEL_NAME
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.cancellation")


class Cancellation:
    """Looks for requests and removes them."""

    def __init__(self, settings: Settings, storage: Storage, status: StatusWriter) -> None:
        self._period_seconds = settings.cancel_poll_seconds
        self._storage = storage
        self._status = status

    async def requested(self, job: Job, message: ReceivedMessage) -> bool:
        """Return whether a cancellation of the job is requested. A request that cannot be read is not one: it must not fail the job.

        A message that is received again after its cancellation stays cancelled, although the request is gone.
        """
        try:
            if await self._storage.read(job.output_bucket, job.output_key(CANCEL_NAME)) is not None:
                return True
            if message.receive_count == 1:
                return False
            status = await self._status.read(job.place)
        except TranscriptdError as error:
            log.debug("cancellation unknown", extra={"error": safe_message(error)})
            return False
        return status is not None and (status.state, status.message_id) == ("cancelled", message.message_id)

    @asynccontextmanager
    async def watching(self, job: Job, message: ReceivedMessage) -> AsyncIterator[None]:
        """Cancel the block when the cancellation of the job is requested. Raises JobCancelled."""
        try:
            async with asyncio.timeout(None) as limit:
                looking = asyncio.create_task(self._look(job, message, limit), name=f"cancellation of {job.job_id}")
                try:
                    yield
                finally:
                    looking.cancel()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise cancelled(job) from error

    async def _look(self, job: Job, message: ReceivedMessage, limit: asyncio.Timeout) -> None:
        while True:
            await asyncio.sleep(self._period_seconds)
            try:
                found = await self.requested(job, message)
            except Exception:  # a bug in the daemon must not end the job
                log.exception("cancellation unknown")
                return
            if found:
                limit.reschedule(asyncio.get_running_loop().time())
                return

    async def clear(self, job: Job) -> None:
        """Remove the request. If that fails, it also cancels the next message of the job."""
        try:
            await self._storage.delete(job.output_bucket, [job.output_key(CANCEL_NAME)])
        except TranscriptdError as error:
            log.warning("cancellation request not removed", extra={"error": safe_message(error)})


def cancelled(job: Job) -> JobCancelled:
    return JobCancelled(f"job {job.job_id} was cancelled on request; send it again to run it")
