"""Several devices with real processes: which device gets a job, and what happens when a device is lost."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.config import Settings
from daemon.errors import RunnerCrashed, SetupFailed
from daemon.jobs.validation import parse_job
from daemon.runner_pool import Runners
from daemon.supervisor.state import RunnerState
from daemon.telemetry.metrics import Metrics
from tests.support.monitoring.samples import samples_of
from tests.support.nvml.fake import FakeNvml

MakeSettings = Callable[..., Settings]

BREAKS = "bench.scripted_pipeline:BreaksWithItsGpu"


class Site:
    """Started runners and jobs for them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.runners = Runners(settings, self.metrics)
        self._folder = folder

    async def begin(self, job_id: str, prompt: str | None, audio_seconds: float = 1.0) -> asyncio.Task[None]:
        """Submit a job with a second of silence and wait until a process has started it; its name is also its
        prompt."""
        body = json.dumps({"job_id": job_id, "input": {"bucket": "media", "key": "a.wav"}})
        options = parse_job(body, self.settings).options.model_copy(update={"initial_prompt": prompt})
        audio = self._folder / f"{job_id}.f32"
        np.zeros(16_000, dtype="<f4").tofile(audio)
        begun = asyncio.Event()
        job = asyncio.create_task(
            self.runners.run(
                job_id,
                options,
                lambda _: begun.set(),
                audio=[audio],
                audio_seconds=audio_seconds,
                result=self._folder / f"{job_id}.json",
                checkpoints=self._folder,
            )
        )
        beginning = asyncio.create_task(begun.wait())
        await asyncio.wait((job, beginning), return_when=asyncio.FIRST_COMPLETED)
        beginning.cancel()
        return job

    @property
    def until_open(self) -> str:
        """Return the prompt of a job that ends once the gate is open."""
        return f"until {self._folder / 'gate'}"

    def open(self) -> None:
        (self._folder / "gate").touch()

    def done(self, *job_ids: str) -> bool:
        return all((self._folder / f"{job_id}.json").exists() for job_id in job_ids)

    @property
    def loads(self) -> list[float]:
        return [runner.audio_seconds for runner in self.runners.each]

    @property
    def states(self) -> list[RunnerState]:
        return [runner.state for runner in self.runners.each]

    def kill(self, device: int) -> None:
        pid = self.runners.each[device].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def restarts(self) -> dict[str, float]:
        found = samples_of(self.metrics).items()
        return {name: value for name, value in found if "runner_restarts_total" in name and value}


def environment_of(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not happened():  # noqa: ASYNC110  # states have no change notification
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running(
    settings: Settings, folder: Path, states: tuple[str, ...] = ("ready", "ready")
) -> AsyncIterator[Site]:
    site = Site(settings, folder)
    try:
        await site.runners.start()
        await until(lambda: site.states == list(states))
        yield site
    finally:
        await site.runners.stop()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(gpus=2))


async def test_job_goes_to_the_least_loaded_device(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with running(make_settings(devices="cpu,cpu"), tmp_path) as site:
        one, other = site.runners.each
        assert one.pid != other.pid
        jobs = [await site.begin("long", "sleep 600", audio_seconds=100)]
        assert site.loads == [100, 0], "the first of equally loaded devices"
        for number, loads in enumerate(([100, 40], [100, 80], [100, 120], [140, 120])):
            jobs.append(await site.begin(f"short-{number}", "sleep 600", audio_seconds=40))
            assert site.loads == loads
        assert site.states == ["busy", "busy"]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        assert site.loads == [0, 0]
        await (await site.begin("after", None))
        assert site.done("after")


async def test_killed_process_takes_only_its_own_job(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with running(make_settings(devices="cpu,cpu"), tmp_path) as site:
        pid = site.runners.each[1].pid
        victim = await site.begin("victim", "sleep 600", audio_seconds=5)
        neighbour = await site.begin("neighbour", site.until_open, audio_seconds=9)
        site.kill(0)
        with pytest.raises(RunnerCrashed, match="SIGKILL"):
            await victim
        assert not neighbour.done()
        # Its process is being replaced, so the other device is the one that is ready, whatever its load.
        next_one = await site.begin("next", site.until_open, audio_seconds=7)
        assert site.loads == [0, 16]
        site.open()
        await asyncio.gather(neighbour, next_one)
        assert site.done("neighbour", "next")
        assert site.runners.each[1].pid == pid
        assert site.restarts() == {'transcriptd_runner_restarts_total{device="cpu:0",reason="signal"}': 1}
        await until(lambda: site.states == ["ready", "ready"])
        await (await site.begin("victim", None))
        assert site.done("victim")


async def test_jobs_that_may_have_killed_the_process_stay_on_their_device(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    async with running(make_settings(devices="cpu,cpu"), tmp_path) as site:
        first = await site.begin("first", site.until_open)
        neighbour = await site.begin("neighbour", "sleep 600", audio_seconds=100)
        second = await site.begin("second", site.until_open)
        assert site.loads == [2, 100]
        site.kill(0)
        await until(lambda: bool(site.restarts()))
        site.open()
        await asyncio.gather(first, second)
        assert site.done("first", "second")
        assert not neighbour.done()
        assert site.restarts() == {'transcriptd_runner_restarts_total{device="cpu:0",reason="signal"}': 1}


@pytest.mark.usefixtures("two_gpus")
async def test_device_that_cannot_start_is_reported_once_and_the_others_run_the_jobs(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BROKEN_GPUS", "0")
    monkeypatch.setenv("LOAD_SECONDS", "3")  # the failing one is the first to report
    settings = make_settings(devices="cuda", pipeline=BREAKS, runner_start_attempts=2)
    async with running(settings, tmp_path, ("defunct", "ready")) as site:
        assert site.runners.state is RunnerState.READY
        assert site.runners.info is not None
        for job in [await site.begin(f"job-{number}", None) for number in range(3)]:
            await job
        assert site.done("job-0", "job-1", "job-2")
        assert site.restarts() == {'transcriptd_runner_restarts_total{device="cuda:0",reason="setup"}': 2}
        assert samples_of(site.metrics)['transcriptd_runner_state{device="cuda:0",state="defunct"}'] == 1
        (told,) = [record for record in caplog.records if record.message == "device given up"]
        assert "failed to start 2 times in a row" in told.error  # type: ignore[attr-defined]


@pytest.mark.usefixtures("two_gpus")
async def test_jobs_of_a_lost_device_move_to_the_others(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(devices="cuda:0,cuda:1", pipeline=BREAKS, runner_start_attempts=1)
    async with running(settings, tmp_path) as site:
        neighbour = await site.begin("neighbour", "sleep 600", audio_seconds=0.5)
        jobs = [await site.begin(f"job-{number}", site.until_open, audio_seconds=0.25) for number in range(2)]
        assert site.loads == [0.5, 0.5]
        monkeypatch.setenv("BROKEN_GPUS", "1")
        site.kill(1)
        await until(lambda: site.states == ["busy", "defunct"])
        site.open()
        await asyncio.gather(*jobs)
        assert site.done("job-0", "job-1")
        assert site.states == ["busy", "defunct"]
        assert not neighbour.done()
        failed = asyncio.create_task(site.runners.failed())

        monkeypatch.setenv("BROKEN_GPUS", "0,1")
        last = await site.begin("last", "sleep 600")
        site.kill(0)
        for job in (neighbour, last):
            with pytest.raises(SetupFailed, match="no device is left"):
                await job
        with pytest.raises(SetupFailed, match="no such device"):
            await failed
        assert site.runners.state is RunnerState.DEFUNCT


async def test_without_any_device_the_start_fails(make_settings: MakeSettings) -> None:
    settings = make_settings(
        devices="cpu,cpu", pipeline="bench.scripted_pipeline:RaisesInSetup", runner_start_attempts=2
    )
    runners = Runners(settings, Metrics())
    try:
        with pytest.raises(SetupFailed, match="failed to start 2 times in a row"):
            await runners.start()
        assert runners.state is RunnerState.DEFUNCT
    finally:
        await runners.stop()


async def test_missing_gpu_is_a_failed_start(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(errors={"init": 9}))
    runners = Runners(make_settings(devices="cuda"), Metrics())
    with pytest.raises(SetupFailed, match="NVML finds no GPU"):
        await runners.start()
    assert runners.state is RunnerState.NEW
    await runners.stop()


@pytest.mark.usefixtures("two_gpus")
async def test_each_process_sees_its_own_gpu(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with running(make_settings(devices="auto"), tmp_path) as site:
        one, other = (environment_of(runner.pid) for runner in site.runners.each)
        assert "CUDA_VISIBLE_DEVICES=0" in one
        assert "CUDA_VISIBLE_DEVICES=1" in other


async def test_stop_leaves_no_process(make_settings: MakeSettings, tmp_path: Path) -> None:
    async with running(make_settings(devices="cpu,cpu"), tmp_path) as site:
        pids = [runner.pid for runner in site.runners.each]
        job = await site.begin("job", "hang")
    for pid in pids:
        assert pid is not None
        assert not alive(pid)
    with pytest.raises(RunnerCrashed):
        await job
