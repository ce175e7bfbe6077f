"""Times the stages of a job: for the manifest, the log, a metric and one span each."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from daemon.jobs.delivery import LiveDelivery
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Span

log = logging.getLogger("transcriptd.stages")


@contextmanager
def timed_stage(delivery: LiveDelivery, stage: str, above: Span, metrics: Metrics) -> Iterator[None]:
    """Enter the stage and record its duration at the end, unless it fails."""
    started_at = time.monotonic()
    delivery.progress.enter(stage)
    with above.child(stage):
        yield
    record_stage(delivery, stage, time.monotonic() - started_at, metrics)


def record_stage(delivery: LiveDelivery, stage: str, seconds: float, metrics: Metrics) -> None:
    delivery.timings_seconds[stage] = seconds
    metrics.stage_duration_seconds.labels(stage).observe(seconds, delivery.span.exemplar)
    log.debug("stage done", extra={"stage": stage, "seconds": round(seconds, 3)})
