"""The request to cancel a job: who has one, and how it ends the work. tests/unit/test_delivery_model.py has the whole path."""

import asyncio
import logging
from typing import Any

import pytest

from daemon.config import Settings
from daemon.errors import AccessDenied, JobCancelled, StorageUnavailable
from daemon.jobs.cancellation import Cancellation
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.tracker import JobTracker
from daemon.schema.job_status import CANCEL_NAME
from daemon.telemetry.metrics import Metrics
from tests.support.aws.fakes import MemoryStorage, received
from tests.support.builders import a_job, some_settings
from tests.support.time.virtual import in_virtual_time

REQUEST = f"transcripts/job-1/{CANCEL_NAME}"


class Requests(MemoryStorage):
    """S3, which can fail or be wrong."""

    error: Exception | None = None

    async def read(self, *arguments: Any, **more: Any) -> Any:
        if self.error:
            raise self.error
        return await super().read(*arguments, **more)

    async def delete(self, *arguments: Any) -> None:
        if self.error:
            raise self.error


def a_cancellation(settings: Settings | None = None) -> tuple[Cancellation, Requests]:
    bucket, settings = Requests(), settings or some_settings(cancel_poll_seconds=10)
    return Cancellation(settings, bucket, StatusWriter(settings, bucket, Metrics(), JobTracker())), bucket


@pytest.mark.parametrize("error", [StorageUnavailable("down"), AccessDenied("no")])
async def test_request_that_cannot_be_read_is_none(error: Exception) -> None:
    cancellation, bucket = a_cancellation()
    bucket.put(REQUEST, b"")
    assert await cancellation.requested(a_job(), received())
    bucket.error = error
    assert not await cancellation.requested(a_job(), received())


@in_virtual_time
async def test_work_ends_at_the_first_look_after_the_request() -> None:
    cancellation, bucket = a_cancellation()
    loop, ended = asyncio.get_running_loop(), []
    loop.call_later(15, bucket.put, REQUEST, b"any content")

    async def work() -> None:
        async with cancellation.watching(a_job(), received()):
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(round(loop.time()))

    with pytest.raises(JobCancelled, match="job-1 was cancelled on request"):
        await work()
    assert ended == [20]


@in_virtual_time
async def test_work_goes_on_while_requests_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    cancellation, bucket = a_cancellation()
    bucket.error = ZeroDivisionError("a bug")
    async with cancellation.watching(a_job(), received()):
        await asyncio.sleep(60)
    assert len(caplog.records) == 1
    assert caplog.records[0].levelno == logging.ERROR


@in_virtual_time
async def test_timeout_of_the_work_itself_is_no_cancellation() -> None:
    cancellation, _ = a_cancellation()
    with pytest.raises(TimeoutError):
        async with cancellation.watching(a_job(), received()), asyncio.timeout(15):
            await asyncio.sleep(60)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(3600), cancellation.watching(a_job(), received()):
            raise asyncio.CancelledError


@in_virtual_time
async def test_request_that_cannot_be_removed_fails_nothing(caplog: pytest.LogCaptureFixture) -> None:
    cancellation, bucket = a_cancellation()
    bucket.error = AccessDenied("no s3:DeleteObject")
    await cancellation.clear(a_job())
    assert [line.message for line in caplog.records] == ["cancellation request not removed"]
