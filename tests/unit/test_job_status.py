"""status.json: what it says, when it is written, and that no late or foreign writer turns it back."""

import asyncio
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from daemon.config import Settings
from daemon.errors import (
    InvalidJob,
    JobIdConflict,
    LeaseLost,
    RunnerCrashed,
    TranscriptdError,
    UnknownField,
)
from daemon.jobs.delivery import Accepted, Claim, DeliveryResult, LiveDelivery
from daemon.jobs.delivery_log import DeliveryLog, DeliveryRecord
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.lease import Lease
from daemon.jobs.tracker import JobTracker
from daemon.schema.job_status import STATUS_NAME, JobStatus, may_replace
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Span
from tests.support.aws.fakes import FakeQueue, MemoryStorage, received
from tests.support.builders import a_job, a_manifest, a_message, some_settings
from tests.support.monitoring.samples import samples_of
from tests.support.time.virtual import in_virtual_time

PLACE = "transcripts/job-1/"
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())


class Bucket(MemoryStorage):
    """The place of one job."""

    @property
    def writes(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.written]

    def put_here(self, name: str, body: bytes) -> None:
        self.put(PLACE + name, body)

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.objects[PLACE + STATUS_NAME].body)
        jsonschema.validate(status, SCHEMA)
        return status


class Site:
    """The writer of one daemon, and deliveries that it holds."""

    def __init__(self, bucket: Bucket, settings: Settings) -> None:
        self.bucket, self.settings = bucket, settings
        self.metrics = Metrics()
        self.times = itertools.count(1_790_000_000)  # no two deliveries begin at the same time
        self.writer = StatusWriter(settings, bucket, self.metrics, JobTracker())

    def delivery(
        self, message_id: str = "m-1", receive_count: int = 1, *, body: str = "", earlier: DeliveryLog | None = None
    ) -> LiveDelivery:
        message = replace(received(body or a_message(), receive_count=receive_count), message_id=message_id)
        delivery = LiveDelivery(Claim(message, Lease(FakeQueue(), message, self.settings, Metrics()), Span()))
        delivery.received_at = next(self.times)
        if not body:
            delivery.reached = Accepted(delivery.claim, a_job(self.settings), earlier or DeliveryLog())
        return delivery

    async def ends(self, delivery: LiveDelivery, outcome: str, error: TranscriptdError | None, **more: Any) -> None:
        reason = error.code if error else outcome
        self.writer.ended(DeliveryResult(delivery, outcome, reason, error=error, **{"settled": True, **more}))
        await self.writer.close()

    async def runs(self, delivery: LiveDelivery, seconds: float) -> None:
        assert isinstance(delivery.reached, Accepted)
        async with self.writer.updating(delivery.reached, delivery):
            await asyncio.sleep(seconds)


@pytest.fixture
def site() -> Site:
    return Site(Bucket(), some_settings(status_seconds=10))


# --- when -----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_running_job_is_written_after_a_second_and_then_seldom() -> None:
    site = Site(Bucket(), some_settings(status_seconds=10))
    delivery = site.delivery()
    delivery.progress.enter("decode")
    await site.runs(delivery, 25)
    assert [each["state"] for each in site.bucket.writes] == ["running"] * 3
    assert site.bucket.status["stage"] == "decode"
    assert site.bucket.status["overall_fraction"] > 0
    await site.ends(delivery, "published", None, manifest=a_manifest(a_job()))
    assert len(site.bucket.writes) == 4
    assert site.bucket.status["state"] == "completed"
    assert site.bucket.status["overall_fraction"] == 1


@in_virtual_time
async def test_short_job_costs_one_write() -> None:
    site = Site(Bucket(), some_settings())
    delivery = site.delivery()
    await site.runs(delivery, 0.9)
    await site.ends(delivery, "published", None, manifest=a_manifest(a_job()))
    assert [each["state"] for each in site.bucket.writes] == ["completed"]


@in_virtual_time
async def test_failing_writes_are_warned_of_once_and_delay_nothing(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(Bucket(), some_settings(status_seconds=10))
    site.bucket.down = True
    delivery = site.delivery()
    await site.runs(delivery, 35)
    site.bucket.down = False
    await site.ends(delivery, "dead_lettered", RunnerCrashed("it died"))
    assert [line.message for line in caplog.records] == ["job status not written", "job status written again"]
    assert samples_of(site.metrics)['transcriptd_status_writes_total{result="failed"}'] == 4
    assert site.bucket.status["state"] == "failed"


# --- what -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state"), [("retried", "waiting_for_retry"), ("dead_lettered", "failed"), ("released", "interrupted")]
)
async def test_status_says_how_the_delivery_left_the_job(site: Site, outcome: str, state: str) -> None:
    await site.ends(site.delivery(), outcome, RunnerCrashed("it died"))
    status = site.bucket.status
    assert (status["state"], status["stage"], status["remaining_seconds"]) == (state, None, None)
    wanted = None if state == "interrupted" else {"code": "runner_crashed", "message": "it died"}
    assert status["error"] == wanted
    assert (status["job_id"], status["attempt"], status["message_id"]) == ("job-1", 1, "m-1")


@pytest.mark.parametrize(
    ("outcome", "error", "settled"),
    [
        ("abandoned", LeaseLost("another daemon may hold it"), True),
        ("retried", RunnerCrashed("and SQS did not accept the call"), False),
        ("unsettled", TranscriptdError("a bug"), False),
        ("dead_lettered", JobIdConflict("the place is another job's"), True),
    ],
)
async def test_no_status_is_written_where_it_is_unknown_or_anothers(
    site: Site, outcome: str, error: TranscriptdError, settled: bool
) -> None:
    await site.ends(site.delivery(), outcome, error, settled=settled)
    assert site.bucket.writes == []


async def test_duplicate_completes_the_status_of_a_daemon_that_crashed(site: Site) -> None:
    first = site.delivery()
    assert isinstance(first.reached, Accepted)
    site.bucket.put_here(STATUS_NAME, site.writer._status(first.reached, first, "running").model_dump_json().encode())
    await site.ends(site.delivery("m-2"), "published", None, manifest=a_manifest(a_job(), message_id="m-1"))
    assert (site.bucket.status["state"], site.bucket.status["message_id"]) == ("completed", "m-1")


@in_virtual_time
async def test_attempt_that_another_daemon_continues_does_not_lose_progress() -> None:
    site = Site(Bucket(), some_settings())
    record = DeliveryRecord(message_id="m-1", receive_count=1, worker_id="w", outcome="released")
    first, again = site.delivery(), site.delivery(receive_count=2, earlier=DeliveryLog(deliveries=(record,)))
    first.progress.overall_fraction = 0.7
    await site.ends(first, "released", RunnerCrashed("x"))
    await site.runs(again, 2)
    assert (site.bucket.status["state"], site.bucket.status["overall_fraction"]) == ("running", 0.7)
    failed = record.model_copy(update={"consumes_attempt": True})
    third = site.delivery(receive_count=3, earlier=DeliveryLog(deliveries=(failed,)))
    await site.runs(third, 2)
    assert (site.bucket.status["attempt"], site.bucket.status["overall_fraction"]) == (2, 0), "a new attempt"


# --- order ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_late_writer_gives_up() -> None:
    site = Site(Bucket(), some_settings(status_seconds=10))
    late, now = site.delivery(), site.delivery(receive_count=2)
    running = asyncio.create_task(site.runs(late, 35))
    await asyncio.sleep(5)
    await site.runs(now, 2)
    await site.ends(now, "dead_lettered", RunnerCrashed("x"))
    await running
    await site.ends(late, "retried", RunnerCrashed("late"))
    assert [each["state"] for each in site.bucket.writes] == ["running", "running", "failed"]
    assert site.bucket.status["receive_count"] == 2


def a_status(state: Any, message_id: str = "m-1", receive_count: int = 1, at: str = "a", attempt: int = 1) -> JobStatus:
    return JobStatus(
        job_id="job-1",
        state=state,
        attempt=attempt,
        stage=None,
        stage_fraction=None,
        overall_fraction=0,
        remaining_seconds=None,
        error=None,
        message_id=message_id,
        receive_count=receive_count,
        worker_id="w",
        started_at=at,
        updated_at="",
    )


@pytest.mark.parametrize(
    ("current", "new", "replaces"),
    [
        (a_status("running"), a_status("running"), True),
        (a_status("running"), a_status("failed"), True),
        (a_status("failed"), a_status("running"), False),
        (a_status("waiting_for_retry"), a_status("running"), False),
        (a_status("waiting_for_retry"), a_status("running", receive_count=2), True),
        (a_status("waiting_for_retry"), a_status("running", at="b"), True),  # SQS's count is approximate
        (a_status("running", receive_count=2), a_status("failed"), False),
        (a_status("failed"), a_status("running", "m-2", at="b"), True),  # a redriven job
        (a_status("running", at="b"), a_status("failed", "m-2", at="a"), False),
        (a_status("running", "m-2", receive_count=9), a_status("completed"), True),
        (a_status("completed"), a_status("failed", "m-2", receive_count=9, at="z"), False),
        (a_status("completed"), a_status("completed"), False),
        (a_status("running"), a_status("failed", "m-2", at="z", attempt=0), False),  # a refused message
        (a_status("failed", attempt=0), a_status("failed", at="z", attempt=0), True),
        (a_status("failed", attempt=0), a_status("failed", "m-2", at="z", attempt=0), False),
        (a_status("failed", "m-2", at="z", attempt=0), a_status("running"), True),
    ],
)
def test_order_of_statuses(current: JobStatus, new: JobStatus, replaces: bool) -> None:
    assert may_replace(current, new) is replaces


async def test_job_whose_manifest_was_removed_runs_again(site: Site) -> None:
    site.bucket.put_here("manifest.json", b"{}")
    await site.ends(site.delivery(), "published", None, manifest=a_manifest(a_job()))
    again = site.delivery("m-2")
    await site.ends(again, "dead_lettered", RunnerCrashed("x"))
    assert site.bucket.status["state"] == "completed"
    del site.bucket.objects[PLACE + "manifest.json"]
    await site.ends(again, "dead_lettered", RunnerCrashed("x"))
    assert site.bucket.status["state"] == "failed"


async def test_object_of_another_application_stays(site: Site) -> None:
    site.bucket.put_here(STATUS_NAME, b"theirs")
    await site.ends(site.delivery(), "dead_lettered", RunnerCrashed("x"))
    assert site.bucket.objects[PLACE + STATUS_NAME].body == b"theirs"
    assert samples_of(site.metrics)['transcriptd_status_writes_total{result="failed"}'] == 1


# --- refused messages -----------------------------------------------------------------------------------------------


async def refuse(site: Site, body: str, message_id: str = "m-1") -> None:
    await site.ends(site.delivery(message_id, body=body), "dead_lettered", UnknownField("unknown option"))


async def test_refused_message_has_a_status(site: Site) -> None:
    await refuse(site, a_message(options={"diarise": True}))
    status = site.bucket.status
    assert (status["state"], status["attempt"], status["error"]["code"]) == ("failed", 0, "unknown_field")
    await refuse(site, a_message(surprise=1))
    assert len(site.bucket.writes) == 2, "its own status"
    await refuse(site, a_message(), "m-2")
    assert len(site.bucket.writes) == 2, "another message's"
    await site.ends(site.delivery("m-3"), "retried", RunnerCrashed("x"))
    assert (site.bucket.status["state"], site.bucket.status["message_id"]) == ("waiting_for_retry", "m-3")


@pytest.mark.parametrize("name", ["manifest.json", "checkpoints/deliveries.json"])
async def test_refused_message_does_not_touch_the_job_of_another(site: Site, name: str) -> None:
    site.bucket.put_here(name, b"{}")
    await refuse(site, a_message(surprise=1))
    assert site.bucket.writes == []


@pytest.mark.parametrize(
    "body",
    [
        "not JSON",
        json.dumps({"job_id": "../x"}),
        json.dumps({"input": {}}),
        json.dumps({"job_id": "job-1", "output": {"bucket": "elsewhere"}}),
        json.dumps({"job_id": "job-1", "output": {"prefix": "other/"}}),
        json.dumps({"job_id": "job-1", "output": {"prefix": "transcripts/job-2/checkpoints/"}}),
        json.dumps({"job_id": "job-1", "output": "here"}),
    ],
)
async def test_message_without_an_allowed_place_has_no_status(site: Site, body: str) -> None:
    await site.ends(site.delivery(body=body), "dead_lettered", InvalidJob("no"))
    assert site.bucket.writes == []
