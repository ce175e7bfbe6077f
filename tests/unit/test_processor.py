"""How deliveries without any work end: observers, and notifications that announce no recording."""

import asyncio
import json
import logging
from typing import Any

import pytest

from daemon.jobs.brake import Brake
from daemon.jobs.cancellation import Cancellation
from daemon.jobs.delivery import DeliveryResult
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.processor import Processor
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.jobs.tracker import JobTracker
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Tracer
from tests.support.aws.fakes import FakeQueue, received
from tests.support.builders import some_settings
from tests.support.notifications import from_s3


class BrokenBrake(Brake):
    def observe(self, ended: DeliveryResult) -> None:
        raise ZeroDivisionError


def a_processor(queue: FakeQueue, metrics: Metrics, record: JobTracker, brake: type[Brake] = Brake) -> Processor:
    """Return a processor for messages that end before any work."""
    nobody: Any = None
    queues: Any = queue
    settings = some_settings()
    status = StatusWriter(settings, nobody, metrics, record)
    return Processor(
        settings,
        queues=queues,
        results=nobody,
        transcriber=nobody,
        publisher=nobody,
        late_outputs=nobody,
        status=status,
        cancellation=Cancellation(settings, nobody, status),
        events=nobody,
        tracer=Tracer(),
        metrics=metrics,
        tracker=record,
        brake=brake(3, {}, metrics),
    )


@pytest.mark.parametrize("brake", [Brake, BrokenBrake])
async def test_each_observer_is_notified_once(brake: type[Brake], caplog: pytest.LogCaptureFixture) -> None:
    metrics, record = Metrics(), JobTracker()
    processor = a_processor(FakeQueue(), metrics, record, brake)
    interrupt = asyncio.Event()
    interrupt.set()
    with caplog.at_level(logging.INFO):
        await processor.process(received(), interrupt, WorkEstimate())
    labels = {"outcome": "released", "reason": "interrupted"}
    assert metrics.registry.get_sample_value("transcriptd_deliveries_total", labels) == 1
    assert [(each.outcome, each.reason, each.settled) for each in record.outcomes] == [
        ("released", "interrupted", True)
    ]
    assert [line.message for line in caplog.records].count("job finished") == 1
    assert [line.message for line in caplog.records].count("observer failed") == (brake is BrokenBrake)


async def test_a_notification_without_a_recording_is_deleted_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue, metrics, record = FakeQueue(), Metrics(), JobTracker()
    body = json.dumps(from_s3("results", "transcripts/job-1/manifest.json"))
    labels = {"outcome": "ignored", "reason": "own_object"}
    assert metrics.registry.get_sample_value("transcriptd_deliveries_total", labels) == 0
    with caplog.at_level(logging.INFO):
        await a_processor(queue, metrics, record).process(received(body), asyncio.Event(), WorkEstimate())
    assert queue.names() == ["delete"]
    assert metrics.registry.get_sample_value("transcriptd_deliveries_total", labels) == 1
    (line,) = [line for line in caplog.records if line.message == "job finished"]
    assert (line.levelname, line.__dict__["reason"], line.__dict__["job_id"]) == ("INFO", "own_object", None)
    assert record.outcomes == []  # the status page is about jobs
