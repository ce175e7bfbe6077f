"""Periodic collectors: queue depths, event-loop lag, machine resources, clock skew."""

import asyncio
import email.utils
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from aiohttp import web

from daemon.aws.queues import open_queues
from daemon.aws.sqs import Depth
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.runner_pool import Runners
from daemon.status.collectors import measure_when_scraped, watch_depths, watch_loop, watch_machine
from daemon.telemetry.metrics import Metrics
from tests.support.monitoring.samples import samples_of

MakeSettings = Callable[..., Settings]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # metrics have no change notification
            await asyncio.sleep(0.01)


async def test_depths_are_absent_while_unknown(caplog: pytest.LogCaptureFixture) -> None:
    metrics, down = Metrics(), False

    async def jobs() -> Depth:
        if down:
            raise QueueUnavailable("SQS GetQueueAttributes failed: switched off")
        return Depth(visible=7, in_flight=2, delayed=0)

    async def dead_letter() -> Depth:
        return Depth(1, 0, 0)

    def value(series: str) -> float | None:
        return samples_of(metrics).get(f"transcriptd_{series}")

    depths = {("jobs", "jobs"): jobs, ("jobs", "dead_letter"): dead_letter}
    task = asyncio.create_task(watch_depths(metrics, depths, period_seconds=0.01))
    try:
        await until(lambda: value('queue_messages{kind="jobs",queue="jobs",state="visible"}') == 7)
        assert value('queue_messages{kind="jobs",queue="jobs",state="in_flight"}') == 2
        down = True
        await until(lambda: (value('queue_depth_polls_total{kind="jobs",queue="jobs",result="error"}') or 0) >= 3)
        assert value('queue_messages{kind="jobs",queue="jobs",state="visible"}') is None
        assert value('queue_messages{kind="dead_letter",queue="jobs",state="visible"}') == 1, (
            "the other queue is still queried"
        )
        down = False
        await until(lambda: value('queue_messages{kind="jobs",queue="jobs",state="visible"}') == 7)
    finally:
        task.cancel()
    assert [record.message for record in caplog.records].count("queue depth unknown") == 1


async def test_event_loop_lag_is_measured() -> None:
    metrics = Metrics()
    task = asyncio.create_task(watch_loop(metrics))
    try:
        await until(lambda: samples_of(metrics)["transcriptd_event_loop_lag_seconds_count"] >= 1)
        time.sleep(1.5)  # noqa: ASYNC251  # what must never happen
        before = samples_of(metrics)["transcriptd_event_loop_lag_seconds_count"]
        await until(lambda: samples_of(metrics)["transcriptd_event_loop_lag_seconds_count"] > before)
        found = samples_of(metrics)
    finally:
        task.cancel()
    late = found['transcriptd_event_loop_lag_seconds_bucket{le="+Inf"}']
    assert late > found['transcriptd_event_loop_lag_seconds_bucket{le="0.5"}']


async def test_machine_is_measured(make_settings: MakeSettings) -> None:
    settings, metrics = make_settings(instance_price_per_hour=1.5, min_free_bytes=5), Metrics()
    settings.scratch_dir.mkdir()
    runners = Runners(settings, metrics)
    measure_when_scraped(settings, metrics, runners)
    task = asyncio.create_task(watch_machine(settings, metrics, runners))
    try:
        await until(lambda: samples_of(metrics)["transcriptd_scratch_size_bytes"] > 0)
        found = samples_of(metrics)
        assert 0 < found["transcriptd_scratch_free_bytes"] <= found["transcriptd_scratch_size_bytes"]
        assert found["transcriptd_scratch_min_free_bytes"] == 5
        assert found["transcriptd_instance_price_per_hour"] == 1.5
        assert found["process_resident_memory_bytes"] > 1e6
        assert not any(name.startswith("transcriptd_runner_memory_bytes") for name in found), "there is no runner"
    finally:
        task.cancel()


@pytest.mark.parametrize("status", [200, 403])
async def test_clock_skew_is_measured_against_sqs(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The skew is also read from responses that reject a request because of its timestamp."""
    metrics = Metrics()
    date = email.utils.formatdate(time.time() - 400, usegmt=True)
    async with (
        StubSqs(status, date, monkeypatch) as settings_of,
        open_queues(settings_of(make_settings), metrics) as (queue,),
    ):
        with suppress(QueueUnavailable):
            await queue.ping()
    assert 395 < samples_of(metrics)["transcriptd_clock_skew_seconds"] < 500


@pytest.mark.parametrize("date", ["", "yesterday", "Tue, 99 Nov 2026 99:00:00 GMT"])
async def test_invalid_date_is_ignored(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    metrics = Metrics()
    async with (
        StubSqs(200, date, monkeypatch) as settings_of,
        open_queues(settings_of(make_settings), metrics) as (queue,),
    ):
        await queue.ping()
    assert samples_of(metrics)["transcriptd_clock_skew_seconds"] == 0


async def test_answer_without_numbers_is_a_failure(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        StubSqs(200, "", monkeypatch) as settings_of,
        open_queues(settings_of(make_settings), Metrics()) as (queue,),
    ):
        with pytest.raises(QueueUnavailable, match="returned no numbers"):
            await queue.depth()


class StubSqs:
    """An SQS that returns the same response to every call. Yields a function that builds settings for it."""

    def __init__(self, status: int, date: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._status, self._date, self._patch = status, date, monkeypatch

    async def __aenter__(self) -> Callable[[MakeSettings], Settings]:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response(
                {"Attributes": {"QueueArn": "arn"}}, status=self._status, headers={"Date": self._date}
            )

        app = web.Application()
        app.router.add_post("/{path:.*}", answer)
        self._server = web.AppRunner(app, access_log=None)
        await self._server.setup()
        await web.TCPSite(self._server, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{self._server.addresses[0][1]}"
        environment = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in {**environment, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
            self._patch.setenv(name, value)
        return lambda make: make(queue_url=f"{url}/queue", dlq_url=f"{url}/dlq")

    async def __aexit__(self, *_: object) -> None:
        await self._server.cleanup()
