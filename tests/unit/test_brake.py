"""The dead-letter brake: what engages it, how it probes, and which resource it blames when a bucket denies access."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from daemon.errors import (
    AccessDenied,
    NoAudio,
    ObjectMissing,
    ObjectRefused,
    OutputRefused,
    QueueRefused,
    QueueUnavailable,
    StorageRefused,
    StorageUnavailable,
    TranscriptdError,
)
from daemon.jobs.brake import PROBE_BASE_SECONDS, PROBE_MAX_SECONDS, PROBE_TIMEOUT_SECONDS, Brake
from daemon.jobs.delivery import Claim, DeliveryResult, LiveDelivery, Obstacle, Resource
from daemon.jobs.lease import Lease
from daemon.jobs.result_store import ResultStore
from daemon.jobs.validation import parse_job
from daemon.schema.job import Job
from daemon.telemetry.metrics import RESOURCES, Metrics
from daemon.telemetry.spans import Span
from tests.support.aws.fakes import FakeQueue, received
from tests.support.builders import some_settings
from tests.support.time.virtual import in_virtual_time, virtual_loop

LIMIT = 3


class Probed:
    """A resource of the deployment that records when it was probed."""

    def __init__(self) -> None:
        self.fault: Exception | None = QueueUnavailable("still refused")
        self.hangs = False
        self.at: list[float] = []

    async def __call__(self) -> None:
        self.at.append(virtual_loop().time())
        if self.hangs:
            await asyncio.Event().wait()
        if self.fault:
            raise self.fault


def ended(
    outcome: str = "published", error: TranscriptdError | None = None, obstacle: Obstacle | None = None
) -> DeliveryResult:
    message = received()
    lease = Lease(FakeQueue(), message, some_settings(), Metrics())
    delivery = LiveDelivery(Claim(message, lease, Span()))
    return DeliveryResult(
        delivery, outcome, error.code if error else "published", obstacle is None, error, obstacle=obstacle
    )


def refused() -> DeliveryResult:
    return ended("retried", OutputRefused("s3://results/x: access denied"))


def not_sent() -> DeliveryResult:
    return ended(
        "dead_lettered", NoAudio("no sound"), Obstacle(Resource.DEAD_LETTER_QUEUE, "SQS SendMessage failed: denied")
    )


@asynccontextmanager
async def braking(brake: Brake) -> AsyncIterator[None]:
    running = asyncio.create_task(brake.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait((running,))


def engaged_at(metrics: Metrics) -> set[str]:
    return {
        name
        for name in RESOURCES
        if metrics.registry.get_sample_value("transcriptd_brake_engaged", {"queue": "jobs", "resource": name})
    }


def reason_of(brake: Brake) -> str | None:
    """Read the reason through a call, because type checkers narrow a property that a test has already compared."""
    return brake.reason


def a_brake(probed: Probed, metrics: Metrics | None = None) -> Brake:
    return Brake(LIMIT, dict.fromkeys(Resource, probed), metrics or Metrics())


def test_metric_has_a_label_for_every_resource() -> None:
    assert set(RESOURCES) == {resource.value for resource in Resource}


@pytest.mark.parametrize("fault", [refused, not_sent])
@in_virtual_time
async def test_consecutive_failures_engage_it(fault: Any) -> None:
    metrics = Metrics()
    brake = a_brake(Probed(), metrics)
    for _ in range(LIMIT - 1):
        brake.observe(fault())
    assert reason_of(brake) is None
    assert engaged_at(metrics) == set()
    brake.observe(fault())
    assert "denied" in (reason_of(brake) or "")
    assert engaged_at(metrics) == {"output" if fault is refused else "dead_letter_queue"}


@in_virtual_time
async def test_success_resets_the_count() -> None:
    brake = a_brake(Probed())
    for _ in range(3):
        for _ in range(LIMIT - 1):
            brake.observe(refused())
        brake.observe(ended())
    assert reason_of(brake) is None


@pytest.mark.parametrize(
    "neutral",
    [
        lambda: ended("dead_lettered", NoAudio("no sound")),
        lambda: ended("dead_lettered", AccessDenied("s3://theirs/x: access denied")),
        lambda: ended("retried", StorageUnavailable("S3 failed")),
        lambda: ended("released", obstacle=Obstacle(None, "the lease ended first")),
    ],
)
@in_virtual_time
async def test_unrelated_outcomes_neither_engage_it_nor_reset_the_count(neutral: Any) -> None:
    brake = a_brake(Probed())
    for _ in range(10):
        brake.observe(neutral())
    assert reason_of(brake) is None
    for _ in range(LIMIT):
        brake.observe(refused())
        brake.observe(neutral())
    assert reason_of(brake) is not None


@in_virtual_time
async def test_probes_back_off_until_the_resource_recovers() -> None:
    probed, metrics = Probed(), Metrics()
    brake = a_brake(probed, metrics)
    async with braking(brake):
        await asyncio.sleep(1000)
        assert probed.at == [], "nothing is probed while nothing fails"
        for _ in range(LIMIT):
            brake.observe(refused())
        began_at = virtual_loop().time()
        await asyncio.sleep(3600)
        pauses = [later - earlier for earlier, later in zip([began_at, *probed.at], probed.at, strict=False)]
        for number, pause in enumerate(pauses):
            longest = min(PROBE_MAX_SECONDS, PROBE_BASE_SECONDS * 2**number)
            assert longest / 2 <= pause <= longest + 0.01
        assert len(pauses) > 12
        assert "still refused" in (reason_of(brake) or ""), "the most recent error"
        probed.fault = None
        await asyncio.sleep(PROBE_MAX_SECONDS + 1)
        assert reason_of(brake) is None
        assert engaged_at(metrics) == set()
        probes = len(probed.at)
        await asyncio.sleep(3600)
        assert len(probed.at) == probes


@in_virtual_time
async def test_one_failure_after_a_probe_engages_it_again_with_a_longer_pause() -> None:
    """The probe of a dead-letter queue cannot prove that sending to it works."""
    probed = Probed()
    probed.fault = None
    brake = a_brake(probed)
    async with braking(brake):
        for _ in range(LIMIT):
            brake.observe(not_sent())
        await asyncio.sleep(PROBE_BASE_SECONDS + 1)
        for number in (1, 2, 3):
            assert reason_of(brake) is None
            brake.observe(not_sent())
            assert reason_of(brake) is not None
            await asyncio.sleep(PROBE_BASE_SECONDS * 2**number / 2 - 0.1)
            assert reason_of(brake) is not None
            await asyncio.sleep(PROBE_BASE_SECONDS * 2**number / 2 + 0.2)
        brake.observe(ended())  # the trial period is over
        for _ in range(LIMIT - 1):
            brake.observe(not_sent())
        assert reason_of(brake) is None
        brake.observe(not_sent())
        await asyncio.sleep(PROBE_BASE_SECONDS + 0.1)
        assert reason_of(brake) is None, "pauses start again from the first"


@pytest.mark.parametrize("last_error", ["hangs", "raises an internal error"])
@in_virtual_time
async def test_probing_continues_after_a_probe_that_hangs_or_fails(last_error: str) -> None:
    probed = Probed()
    probed.hangs, probed.fault = last_error == "hangs", ZeroDivisionError()
    brake = a_brake(probed)
    async with braking(brake):
        for _ in range(LIMIT):
            brake.observe(refused())
        await asyncio.sleep(PROBE_TIMEOUT_SECONDS + PROBE_BASE_SECONDS + 1)
        assert reason_of(brake) is not None
        probed.hangs, probed.fault = False, None
        await asyncio.sleep(PROBE_TIMEOUT_SECONDS + PROBE_MAX_SECONDS)
        assert reason_of(brake) is None


@in_virtual_time
async def test_outcomes_while_it_is_engaged_change_nothing() -> None:
    probed = Probed()
    brake = a_brake(probed)
    async with braking(brake):
        for _ in range(LIMIT):
            brake.observe(refused())
        brake.observe(ended())  # started before
        brake.observe(not_sent())
        assert "s3://results/x" in (reason_of(brake) or "")


@pytest.mark.parametrize(
    ("fault", "engages"),
    [
        (QueueRefused("QueueDoesNotExist"), True),
        (ObjectMissing("no such bucket"), True),
        (StorageRefused("InvalidAccessKeyId"), True),
        (QueueUnavailable("timeout"), False),
        (AccessDenied("HeadBucket"), False),  # jobs do not need this permission
        (None, False),
    ],
    ids=repr,
)
@in_virtual_time
async def test_resource_that_is_wrong_at_start_engages_the_brake_before_any_job(
    fault: TranscriptdError | None, engages: bool
) -> None:
    at_start, later = Probed(), Probed()
    at_start.fault, later.fault = fault, None
    resource = Resource.DEAD_LETTER_QUEUE
    brake = Brake(LIMIT, {resource: later}, Metrics(), at_start={resource: at_start})
    async with braking(brake):
        await asyncio.sleep(0.1)
        assert (brake.reason is not None) is engages
        await asyncio.sleep(PROBE_BASE_SECONDS)
        assert brake.reason is None
        assert len(later.at) == engages


def test_one_refusal_of_the_dead_letter_queue_engages_the_brake() -> None:
    for permanent in (False, True):
        brake = Brake(LIMIT, {}, Metrics())
        obstacle = Obstacle(Resource.DEAD_LETTER_QUEUE, "SQS SendMessage failed: denied", permanent=permanent)
        brake.observe(ended("dead_lettered", NoAudio("no sound"), obstacle))
        assert (brake.reason is not None) is permanent


def test_refusal_of_every_storage_request_engages_the_brake() -> None:
    brake = Brake(LIMIT, {}, Metrics())
    for _ in range(LIMIT):
        brake.observe(ended("retried", StorageRefused("RequestTimeTooSkewed")))
    assert brake.reason == "S3 fails for every job: RequestTimeTooSkewed"


# --- which resource is blamed -------------------------------------------------------------------------------------


class Refusing:
    """An S3 that answers with one error for every bucket."""

    def __init__(self, error: TranscriptdError) -> None:
        self._error = error

    async def read(self, *_: Any) -> None:
        raise self._error

    async def write(self, *_: Any, **__: Any) -> None:
        raise self._error


def job_at(**output: str) -> Job:
    body = json.dumps({"job_id": "job-1", "input": {"bucket": "media", "key": "a"}, "output": output})
    return parse_job(body, some_settings(output_buckets=("theirs",), output_prefixes=("elsewhere",)))


@pytest.mark.parametrize(
    ("output", "error", "ours"),
    [
        ({}, AccessDenied("denied"), True),
        ({}, ObjectMissing("no such bucket"), True),
        ({"prefix": "transcripts/sub/"}, AccessDenied("denied"), True),
        ({"prefix": "elsewhere/"}, AccessDenied("denied"), False),
        ({"prefix": "elsewhere/"}, ObjectMissing("no such bucket"), True),
        ({"bucket": "theirs"}, AccessDenied("denied"), False),
        ({"bucket": "theirs"}, ObjectMissing("no such bucket"), False),
        ({}, ObjectRefused("NotImplemented"), True),
        ({"bucket": "theirs"}, ObjectRefused("NotImplemented"), False),
        ({}, StorageRefused("InvalidAccessKeyId"), False),
        ({}, StorageUnavailable("S3 failed"), False),
    ],
)
async def test_only_the_deployments_own_location_is_blamed(
    output: dict[str, str], error: TranscriptdError, ours: bool
) -> None:
    storage: Any = Refusing(error)
    results, job = ResultStore(storage, own_bucket="results", own_prefix="transcripts/"), job_at(**output)
    expected = OutputRefused if ours else type(error)
    for call in (
        results.find_manifest(job),
        results.webhook_delivered(job, "msg_1"),
        results.begin(job, "m-1", 1, "w"),
    ):
        with pytest.raises(TranscriptdError) as raised:
            await call
        assert type(raised.value) is expected
        if ours and isinstance(error, ObjectMissing):
            assert "TRANSCRIPTD_OUTPUT_BUCKET" in raised.value.message
        else:
            assert raised.value.message == error.message
