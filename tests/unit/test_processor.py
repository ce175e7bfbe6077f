"""Every observer is notified once of how a delivery ended, even if others fail."""

import asyncio
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


class BrokenBrake(Brake):
    def observe(self, ended: DeliveryResult) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("brake", [Brake, BrokenBrake])
async def test_each_observer_is_notified_once(brake: type[Brake], caplog: pytest.LogCaptureFixture) -> None:
    nobody: Any = None  # a message that is released at once uses none of them
    queue: Any = FakeQueue()
    metrics, record, settings = Metrics(), JobTracker(), some_settings()
    status = StatusWriter(settings, nobody, metrics, record)
    processor = Processor(
        settings,
        queue=queue,
        results=nobody,
        transcriber=nobody,
        publisher=nobody,
        status=status,
        cancellation=Cancellation(settings, nobody, status),
        webhooks=nobody,
        tracer=Tracer(),
        metrics=metrics,
        tracker=record,
        brake=brake(3, {}, metrics),
    )
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
