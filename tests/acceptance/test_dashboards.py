"""Every query of every dashboard against a real Prometheus that scraped a real fleet: it is valid and returns data.

The fleet ran real jobs, one of them with real models, and failed in every way that can be provoked.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest

from daemon.weights.packaged import whisper_base
from deploy.monitoring.dashboards.generate import dashboards
from tests.support.media.files import make_wav, speech
from tests.support.monitoring.fleet import KEPT, PRODUCTION, SPOT, Fleet, open_fleet
from tests.support.monitoring.grafana import DashboardQuery, Look, queries_of
from tests.support.monitoring.prometheus import QueryRefused, Series
from tests.support.programs import require_program

STAGING, REAL = "staging", "i-0real"
STEP_SECONDS = 2.0
ALERTS = {"TranscriptdRunnerCrashLoop", "TranscriptdGpuErrors", "TranscriptdLeasesLost"}  # among the alerts that fire

# Queries that cannot return data here, by title, each with its reason. There are none.
WITHOUT_DATA: dict[str, str] = {}

DASHBOARDS = {each["uid"]: each for each in dashboards()}


@dataclass
class Seen:
    fleet: Fleet
    began_at: float
    ended_at: float

    def look(self, **values: Any) -> Look:
        chosen = {"environment": PRODUCTION, "model": ["scripted"], "instance": [KEPT, SPOT]}
        chosen |= {"tenant": ["acme", "other", "none"], **values}
        return Look(chosen, self.ended_at - self.began_at, STEP_SECONDS, self.fleet.prometheus.scrape_seconds)

    def asked(self, query: DashboardQuery, look: Look) -> list[Series]:
        filled, prometheus = look.filled(query.expression), self.fleet.prometheus
        if query.instant:
            return prometheus.query(filled, self.ended_at)
        return prometheus.query_range(filled, self.began_at, self.ended_at, STEP_SECONDS)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with open_fleet(require_program("prometheus")) as fleet:
        began_at = time.time()
        start_staging(fleet)
        fleet.start(KEPT, environment={"FAKE_NVML_XIDS": "79"})
        fleet.wait_until_watched(KEPT)
        fleet.publish_troubles()
        fleet.world.wait_until_empty()
        fleet.lose_and_leave()
        fleet.world.wait_until_empty()
        fleet.world.wait_for("real", "job.completed")
        # A busy machine may miss scrapes: the test needs samples of the events it looks for.
        for seen in (
            f'transcriptd_deliveries_total{{instance="{REAL}", reason="published"}} > 0',
            f'transcriptd_deliveries_total{{instance="{KEPT}", outcome="abandoned"}} > 0',
            *(f'ALERTS{{alertname="{alert}", alertstate="firing"}}' for alert in ALERTS),
        ):
            fleet.prometheus.wait_until(seen)
        fleet.prometheus.wait_until("min(up) == 1")
        yield Seen(fleet, began_at, time.time() + STEP_SECONDS)  # the last step may be that much before the end


def start_staging(fleet: Fleet) -> None:
    """Start a second environment with its own queue and real models."""
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
    fleet.world.upload("short.wav", make_wav(fleet.world.folder / "short.wav", speech()))
    body = f'{{"job_id": "real", "input": {{"bucket": "{aws.input_bucket}", "key": "short.wav"}}}}'
    aws.sqs.send_message(QueueUrl=queue_url, MessageBody=body)


def has_data(found: list[Series]) -> bool:
    return any(not math.isnan(value) for series in found for _, value in series.points)


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_every_query_is_valid_and_returns_data(seen: Seen, uid: str) -> None:
    look = seen.look()
    asked = [query for query in queries_of(DASHBOARDS[uid]) if query.kind != "variable"]
    assert len(asked) > 10
    answers = {query.title: seen.asked(query, look) for query in asked}
    assert {title for title, found in answers.items() if not has_data(found)} == WITHOUT_DATA.keys() & answers.keys()
    instances = {series.labels.get("instance") for found in answers.values() for series in found}
    assert instances <= {KEPT, SPOT, None}, "series of another environment"


def test_query_without_data_and_invalid_query_are_reported(seen: Seen) -> None:
    nothing = DashboardQuery(
        "no such metric", "panel", 'rate(transcriptd_nonsense_total{deployment="$environment"}[1m])'
    )
    assert not has_data(seen.asked(nothing, seen.look()))
    undefined = DashboardQuery("0 / 0", "panel", "0 * up / 0", instant=True)
    assert not has_data(seen.asked(undefined, seen.look()))
    for wrong in ("rate(up)", "sum by (up", "histogram_quantile(up, up)"):
        with pytest.raises(QueryRefused):
            seen.asked(DashboardQuery("wrong", "panel", wrong), seen.look())
    with pytest.raises(ValueError, match="instnace"):
        seen.look().filled('up{instance="$instnace"}')


def test_variables_offer_existing_values(seen: Seen) -> None:
    queries = {query.title: query.expression for query in queries_of(DASHBOARDS["transcriptd-instance"])}

    def offered(variable: str, **chosen: Any) -> set[str]:
        look = seen.look(**chosen)
        return set(seen.fleet.prometheus.label_values(*look.label_values(queries[f"variable {variable}"])))

    assert offered("environment") == {PRODUCTION, STAGING}
    assert {"scripted"} <= offered("model") <= {"scripted", "none yet"}
    assert "base" in " ".join(offered("model", environment=STAGING))
    assert offered("instance") == {KEPT, SPOT}
    assert offered("instance", environment=STAGING, model=["scripted"]) == set()
    assert offered("instance", environment=STAGING, model=sorted(offered("model", environment=STAGING))) == {REAL}


def test_tenants_are_those_that_the_setting_lists(seen: Seen) -> None:
    queries = {query.title: query.expression for query in queries_of(DASHBOARDS["transcriptd-tenants"])}
    series, label = seen.look().label_values(queries["variable tenant"])
    assert set(seen.fleet.prometheus.label_values(series, label)) == {"acme", "other", "none"}
    published = {
        each.labels["tenant"]
        for each in panel(seen, "transcriptd-tenants", "Published, per minute")
        if each.points[-1][1] >= 0
    }
    assert published == {"acme", "other", "none"}
    only = panel(seen, "transcriptd-tenants", "Jobs in progress", tenant=["acme"])
    assert {each.labels["tenant"] for each in only} == {"acme"}


def panel(seen: Seen, uid: str, title: str, **chosen: Any) -> list[Series]:
    """Return the result of the panel's first query."""
    (query,) = (each for each in queries_of(DASHBOARDS[uid]) if each.title == f"{uid}: {title} A")
    return seen.asked(query, seen.look(**chosen))


def test_what_was_done_to_the_fleet_is_seen(seen: Seen) -> None:
    """Data may exist and still be wrong, so compare some of it with known values."""
    firing = {series.labels["alertname"] for series in panel(seen, "transcriptd-fleet", "Alerts, and what to do")}
    assert firing >= ALERTS
    (count,) = panel(seen, "transcriptd-fleet", "Alerts firing")
    assert count.points[0][1] >= 3
    (failed,) = panel(seen, "transcriptd-fleet", "Failed, 15 min")
    assert 0.3 < failed.points[0][1] < 1
    (dead,) = panel(seen, "transcriptd-fleet", "Dead letters")
    assert dead.points[0][1] >= 1

    failures = panel(seen, "transcriptd-pipeline", "Failures by reason")
    reasons = {(series.labels["outcome"], series.labels["reason"]) for series in failures}
    assert {
        ("dead_lettered", "invalid_json"),
        ("dead_lettered", "object_missing"),
        ("dead_lettered", "media_unreadable"),
        ("dead_lettered", "internal_error"),
        ("retried", "device_fault"),
        ("dead_lettered", "runner_crashed"),
    } <= reasons
    assert all(series.labels["hint"] == series.labels["owner"] == series.labels["reason"] for series in failures)

    (lost,) = panel(seen, "transcriptd-delivery", "Leases lost, 1 h")
    assert lost.points[0][1] >= 1
    xids = panel(seen, "transcriptd-instance", "GPU errors")
    assert {(series.labels["instance"], series.labels["xid"]) for series in xids} == {(KEPT, "79")}
    taken = panel(seen, "transcriptd-instance", "Interruptions announced")
    assert {(series.labels["instance"], series.labels["kind"]) for series in taken} == {(SPOT, "spot")}


def test_annotations_mark_the_time_of_the_event(seen: Seen) -> None:
    queries = {query.title: query for query in queries_of(DASHBOARDS["transcriptd-fleet"])}
    starts = seen.asked(queries["annotation Daemon starts"], seen.look())
    moments = {series.labels["instance"]: series.points[0][1] / 1000 for series in starts}
    assert moments.keys() == {KEPT, SPOT}
    assert seen.began_at - 1 < moments[KEPT] < moments[SPOT] < seen.ended_at
    deploys = seen.asked(queries["annotation Deploys"], seen.look())
    assert [series.labels["version"] for series in deploys] == [version("transcriptd")]
    taken = seen.asked(queries["annotation Interruptions"], seen.look())
    assert {series.labels["instance"] for series in taken} == {SPOT}
    assert moments[SPOT] < taken[0].points[0][0]


def test_real_models_are_measured_in_their_own_environment(seen: Seen) -> None:
    models = panel(seen, "transcriptd-instance", "Time to load the models", environment=STAGING, instance=[REAL])
    assert {series.labels["instance"] for series in models} == {REAL}
    stages = panel(seen, "transcriptd-pipeline", "Mean time by stage", environment=STAGING, instance=[REAL])
    slowest = {series.labels["stage"]: max(value for _, value in series.points) for series in stages}
    assert {"download", "decode", "vad", "asr", "align", "diarize", "publish"} <= slowest.keys()
    assert slowest["asr"] > slowest["publish"]
