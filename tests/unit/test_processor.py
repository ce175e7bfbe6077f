"""What the end of a job must not wait for. Delivery as a whole: test_delivery_model.py."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from daemon.config import Settings
from daemon.errors import StorageUnavailable
from daemon.intake import Load
from daemon.manifest import InputObject, Manifest
from daemon.metrics import Metrics
from daemon.processor import Processor
from daemon.spans import Tracer
from daemon.status import Record
from daemon.transcript import Models
from tests.fakes import FakeQueue, received

BODY = json.dumps({"job_id": "job-1", "input": {"bucket": "media", "key": "a.wav"}})


class FinishedJob:
    """A job's place in S3 where its result is and its receiver knows; taking its checkpoints away goes wrong."""

    def __init__(self, remove: Callable[[], Any]) -> None:
        self._remove = remove

    async def find_manifest(self, job: Any) -> Manifest:
        return Manifest(
            job_id=job.job_id,
            completed_at="now",
            worker_id="w",
            attempt=1,
            input=InputObject(bucket="media", key="a.wav", version_id=None, etag="e", size_bytes=1),
            options=job.options.model_dump(mode="json"),
            options_digest=job.options.digest(),
            outputs=[],
            duration_seconds=1,
            language="en",
            speakers=1,
            models=Models(asr="a", vad="v", alignment=None, diarization=None, device="cpu", compute_type="int8"),
            timings_seconds={},
            warnings=[],
            redactions={},
            metadata={},
        )

    async def webhook_delivered(self, _: Any) -> bool:
        return True

    async def remove_checkpoints(self, *_: Any) -> None:
        await self._remove()


async def refuse() -> None:
    raise StorageUnavailable("S3 failed: switched off")


async def hang() -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("remove", [refuse, hang])
async def test_checkpoints_that_cannot_be_removed_do_not_keep_a_finished_job_in_the_queue(
    make_settings: Callable[..., Settings], remove: Callable[[], Any]
) -> None:
    queue = FakeQueue()
    nobody: Any = None  # the job is finished: nobody else is met
    processor = Processor(
        make_settings(visibility_timeout_seconds=3, heartbeat_seconds=1, receive_wait_seconds=0),
        queue=queue,  # type: ignore[arg-type]  # what Processor calls of a Queue
        results=FinishedJob(remove),  # type: ignore[arg-type]  # and of Results
        transcriber=nobody,
        webhooks=nobody,
        tracer=Tracer(),
        metrics=Metrics(),
        record=Record(),
    )
    await processor.process(received(BODY), asyncio.Event(), Load())
    assert queue.names()[-1] == "delete"
