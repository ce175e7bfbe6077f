"""Every query of every dashboard, asked of a real Prometheus that watched a real fleet: it is taken, and finds data.

The fleet did real jobs, one of them with real models, and failed in every way that can be forced.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from daemon.embedded.models import whisper_base
from deploy.monitoring.dashboards.generate import dashboards
from tests.acceptance.world import PATIENCE_SECONDS
from tests.grafana import DashboardQuery, Look, queries_of
from tests.media import sample_call
from tests.observed import KEPT, PRODUCTION, SPOT, Fleet, open_fleet
from tests.programs import require_program
from tests.prometheus import Series

STAGING, REAL = "staging", "i-0real"
STEP_SECONDS = 2.0

# Panels that cannot have data here, with the reason. None.
WITHOUT_DATA: dict[str, str] = {}

QUERIES = {query.title: query for dashboard in dashboards() for query in queries_of(dashboard)}


@dataclass
class Seen:
    fleet: Fleet
    began_at: float
    ended_at: float

    def look(self, **values: Any) -> Look:
        chosen = {"environment": PRODUCTION, "model": ["scripted"], "instance": [KEPT, SPOT], **values}
        return Look(chosen, self.ended_at - self.began_at, STEP_SECONDS, self.fleet.prometheus.scrape_seconds)

    def asked(self, query: DashboardQuery, look: Look) -> list[Series]:
        filled, prometheus = look.filled(query.expression), self.fleet.prometheus
        if query.instant:
            return prometheus.query(filled)
        return prometheus.query_range(filled, self.began_at, self.ended_at, STEP_SECONDS)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with open_fleet(require_program("prometheus")) as fleet:
        began_at = time.time()
        start_staging(fleet)
        fleet.start(KEPT, environment={"FAKE_NVML_XIDS": "79", "TRANSCRIPTD_HOST": "none"})
        fleet.wait_until_ready()
        fleet.wait_until_scraped()
        fleet.publish_troubles()
        fleet.world.wait_until_empty()
        fleet.lose_and_leave()
        fleet.world.wait_until_empty()
        fleet.world.wait_for("real", "job.completed")
        yield Seen(fleet, began_at, time.time())


def start_staging(fleet: Fleet) -> None:
    """Another environment, with a queue of its own, and real models."""
    aws = fleet.world.aws
    queue_url = aws.sqs.create_queue(QueueName="staging")["QueueUrl"]
    real = {
        "TRANSCRIPTD_QUEUE_URL": queue_url,
        "TRANSCRIPTD_PIPELINE": "daemon.pipeline.whisperx_pipeline:WhisperXPipeline",
        "TRANSCRIPTD_MODEL": str(whisper_base()),
        "TRANSCRIPTD_MODELS": "base",
        "TRANSCRIPTD_DIARIZATION_MODEL": "embedded",
    }
    fleet.start(REAL, STAGING, real)
    body = f'{{"job_id": "real", "input": {{"bucket": "{aws.input_bucket}", "key": "call.wav"}}}}'
    aws.sqs.send_message(QueueUrl=queue_url, MessageBody=body)


def has_data(found: list[Series]) -> bool:
    return any(not math.isnan(value) for series in found for _, value in series.points)


def test_x(seen: Seen) -> None:
    bad = []
    for query in QUERIES.values():
        if query.kind == "variable": continue
        f = seen.asked(query, seen.look())
        if not has_data(f): bad.append(query.title)
    print("BAD", bad)
    import pdb
    assert not bad
