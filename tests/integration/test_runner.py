"""The runner with real processes and pipelines that fail on purpose."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import DeviceFault, RunnerCrashed, RunnerStalled, SetupFailed, TranscriptdError
from daemon.protocol.events import CheckpointSaved, PipelineEvent, Progress, StageDone
from daemon.runner import Runner
from daemon.schema.transcript import Transcript
from daemon.supervisor.devices import Device
from daemon.supervisor.state import RunnerState
from daemon.telemetry.metrics import Metrics
from tests.support.builders import a_job
from tests.support.media.decoding import is_alive
from tests.support.time.virtual import VirtualTime

MakeSettings = Callable[..., Settings]

CPU = Device("cpu", "cpu")


@asynccontextmanager
async def running(settings: Settings, clock: Clock = SYSTEM_CLOCK) -> AsyncIterator[Runner]:
    runner = Runner(settings, Metrics(), CPU, clock)
    try:
        await runner.start()
        yield runner
    finally:
        await runner.stop()


async def do(
    runner: Runner,
    settings: Settings,
    folder: Path,
    prompt: str | None,
    job_id: str = "job-1",
    on_event: Callable[[PipelineEvent], object] = lambda _: None,
) -> list[Any]:
    """Run one job with a second of silence and return the events it reported."""
    audio, checkpoints = folder / f"{job_id}.f32", folder / f"{job_id}-checkpoints"
    np.zeros(16_000, dtype="<f4").tofile(audio)
    checkpoints.mkdir(exist_ok=True)
    events: list[PipelineEvent] = []

    def report(event: PipelineEvent) -> None:
        events.append(event)
        on_event(event)

    await runner.run(
        job_id,
        a_job(settings, options={"initial_prompt": prompt}).options,
        report,
        audio=[audio],
        audio_seconds=1.0,
        result=folder / f"{job_id}.json",
        checkpoints=checkpoints,
    )
    return events


async def begin(
    runner: Runner,
    settings: Settings,
    folder: Path,
    prompt: str,
    job_id: str = "job-1",
    until: type[Progress | CheckpointSaved] = Progress,
) -> asyncio.Task[list[Any]]:
    """Start a job and wait until the process has reported an event of the given type."""
    begun = asyncio.Event()

    def report(event: PipelineEvent) -> None:
        if isinstance(event, until):
            begun.set()

    job = asyncio.create_task(do(runner, settings, folder, prompt, job_id, report))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await begun.wait()
    return job


async def until_restarted(runner: Runner, reasons: dict[str, float]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while restarts(runner) != reasons:  # noqa: ASYNC110  # metrics have no change notification
            await asyncio.sleep(0.02)


def restarts(runner: Runner) -> dict[str, float]:
    (family,) = runner._record._metrics.runner_restarts.collect()
    samples = family.samples
    return {it.labels["reason"]: it.value for it in samples if it.name.endswith("_total") and it.value}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


async def test_job_leaves_a_transcript_and_reports_its_stages(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        assert runner.state is RunnerState.READY
        events = await do(runner, settings, tmp_path, None)
        transcript = Transcript.model_validate_json((tmp_path / "job-1.json").read_bytes())
        assert transcript.segments[0].text == "hello there"
        assert transcript.duration_seconds == 1.0
        assert [event.stage for event in events if isinstance(event, StageDone)] == ["vad", "asr", "align", "diarize"]
        assert runner.state is RunnerState.READY


async def test_process_survives_jobs_that_fail(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        pid = runner._current.process.pid  # type: ignore[union-attr]
        await do(runner, settings, tmp_path, None)
        with pytest.raises(TranscriptdError, match="scripted failure") as caught:
            await do(runner, settings, tmp_path, "raise")
        assert "ValueError" in (caught.value.detail or "")
        await do(runner, settings, tmp_path, None)
        assert runner._current.process.pid == pid  # type: ignore[union-attr]
        assert restarts(runner) == {}


@pytest.mark.parametrize(
    ("prompt", "error", "reason", "words"),
    [
        ("sigkill", RunnerCrashed, "signal", "SIGKILL; it might have run out of memory"),
        ("segv", RunnerCrashed, "signal", "SIGSEGV"),
        ("exit", RunnerCrashed, "exit", "exited with status 3"),
        ("cuda", DeviceFault, "device_fault", "illegal memory access"),
    ],
)
async def test_crash_fails_the_job_and_the_process_is_replaced(
    make_settings: MakeSettings, tmp_path: Path, prompt: str, error: type[TranscriptdError], reason: str, words: str
) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        first = runner._current.process.pid  # type: ignore[union-attr]
        with pytest.raises(error, match=words):
            await do(runner, settings, tmp_path, prompt)
        await do(runner, settings, tmp_path, None)
        assert not alive(first)
        assert restarts(runner) == {reason: 1.0}


async def test_hung_job_is_detected_and_killed(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings, clock = make_settings(runner_stall_seconds=600), VirtualTime()
    async with running(settings, clock) as runner:
        job = await begin(runner, settings, tmp_path, "hang")
        clock.now += 601
        with pytest.raises(RunnerStalled):
            await job
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {"stalled": 1.0}


async def test_process_whose_watchdog_failed_is_replaced(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        monkeypatch.setattr("daemon.runner.stalled", lambda *_: 1 / 0)
        with pytest.raises(RunnerCrashed):
            await do(runner, settings, tmp_path, "hang")
        monkeypatch.undo()
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {"unwatched": 1.0}
    failed = [vars(line)["task"] for line in caplog.records if line.message == "background task failed"]
    assert failed == ["runner watchdog"]


async def test_progress_keeps_a_slow_job_alive(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings, clock = make_settings(runner_stall_seconds=600), VirtualTime()
    async with running(settings, clock) as runner:

        def let_time_pass(event: PipelineEvent) -> None:
            if isinstance(event, Progress):
                clock.now += 500

        await do(runner, settings, tmp_path, "sleep 3", on_event=let_time_pass)
        assert clock.now > 3 * 600
        assert restarts(runner) == {}


async def test_cancelling_frees_the_process_for_the_next_job(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        job = await begin(runner, settings, tmp_path, "sleep 3600")
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        async with asyncio.timeout(PATIENCE_SECONDS):
            await do(runner, settings, tmp_path, None, "job-2")
        assert restarts(runner) == {}


async def test_job_that_ignores_its_cancellation_is_killed(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runner.CANCEL_GRACE_SECONDS", 0.5)
    settings = make_settings()
    async with running(settings) as runner:
        job = await begin(runner, settings, tmp_path, "hang")
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        # Killed with it, and repeated by the next process.
        neighbour = await begin(runner, settings, tmp_path, f"until {tmp_path / 'gate'}", "job-2")
        await until_restarted(runner, {"cancel_ignored": 1.0})
        (tmp_path / "gate").touch()
        await neighbour
        assert restarts(runner) == {"cancel_ignored": 1.0}


@pytest.mark.parametrize(
    ("prompt", "error", "reasons"),
    [
        # At first either job may be the cause, so each gets another attempt alone.
        ("sigkill 0.5", RunnerCrashed, {"signal": 2.0}),
        ("cuda 0.5", DeviceFault, {"device_fault": 2.0}),
        ("hang", RunnerStalled, {"stalled": 1.0}),  # identified by its silence, while the others report
    ],
)
async def test_crash_of_the_process_costs_no_other_job_its_attempt(
    make_settings: MakeSettings, tmp_path: Path, prompt: str, error: type[TranscriptdError], reasons: dict[str, float]
) -> None:
    settings = make_settings(runner_stall_seconds=3)
    async with running(settings) as runner:
        # Takes an hour on the first attempt, and no time on the second.
        innocent = [
            await begin(runner, settings, tmp_path, "resume 3600", f"innocent-{number}", until=CheckpointSaved)
            for number in range(2)
        ]
        # The hang is detected although the others keep reporting; the timeout prevents a hang, well above the stall
        # limit of 3 s.
        async with asyncio.timeout(60):
            with pytest.raises(error):
                await do(runner, settings, tmp_path, prompt, "culprit")
        await asyncio.gather(*innocent)
        assert all((tmp_path / f"innocent-{number}.json").exists() for number in range(2))
        assert restarts(runner) == reasons


async def test_jobs_run_in_parallel_and_one_is_cancelled_alone(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        endless = await begin(runner, settings, tmp_path, "sleep 3600", "endless")
        other = await begin(runner, settings, tmp_path, f"until {tmp_path / 'gate'}", "other")
        await do(runner, settings, tmp_path, None, "short")  # although two jobs were submitted before it
        assert not endless.done()
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        (tmp_path / "gate").touch()
        await other
        assert restarts(runner) == {}


async def test_redelivered_job_waits_until_the_process_has_released_it(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runner.CANCEL_GRACE_SECONDS", 0.5)
    settings = make_settings()
    async with running(settings) as runner:
        job = await begin(runner, settings, tmp_path, "hang", "lost")
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await do(runner, settings, tmp_path, None, "lost")
        assert restarts(runner) == {"cancel_ignored": 1.0}


async def test_job_is_in_the_runner_once(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        with pytest.raises(TranscriptdError, match="already in the runner"):
            await asyncio.gather(*(do(runner, settings, tmp_path, "sleep 1", "twice") for _ in range(2)))


@pytest.mark.parametrize(
    ("pipeline", "words", "timeout_seconds"),
    [
        ("RaisesInSetup", "no such model", PATIENCE_SECONDS),
        ("ExitsInSetup", "exited with status 5", PATIENCE_SECONDS),
        ("HangsInSetup", "not ready after 2 s", 2),
    ],
)
async def test_failing_starts_end_in_setup_failed(
    make_settings: MakeSettings, pipeline: str, words: str, timeout_seconds: float
) -> None:
    settings = make_settings(
        pipeline=f"bench.scripted_pipeline:{pipeline}",
        runner_start_attempts=2,
        runner_start_timeout_seconds=timeout_seconds,
    )
    runner = Runner(settings, Metrics(), CPU)
    with pytest.raises(SetupFailed, match=words):
        await runner.start()
    assert runner.state is RunnerState.DEFUNCT
    assert restarts(runner) == {"setup": 2.0}
    await runner.stop()


async def test_runner_is_recycled_after_its_number_of_jobs(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(runner_max_jobs=2)
    async with running(settings) as runner:
        first = runner._current.process.pid  # type: ignore[union-attr]
        # Immediately: a process that retires still finishes the jobs it has received.
        await asyncio.gather(*(do(runner, settings, tmp_path, None, f"job-{number}") for number in range(5)))
        await do(runner, settings, tmp_path, None, "job-6")
        assert not alive(first)
        assert set(restarts(runner)) == {"recycled"}


async def test_leak_is_detected_and_the_process_replaced(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(runner_max_growth_bytes=50_000_000)
    async with running(settings) as runner:
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {}
        await do(runner, settings, tmp_path, "leak 100000000")
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {"leak": 1.0}


async def test_stop_leaves_no_process_even_during_a_job(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        pid = runner._current.process.pid  # type: ignore[union-attr]
        job = await begin(runner, settings, tmp_path, "hang")
    assert not alive(pid)
    with pytest.raises(RunnerCrashed):
        await job


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_children_of_the_process_end_with_it(make_settings: MakeSettings, tmp_path: Path, end: str) -> None:
    settings, grandchild = make_settings(runner_stall_seconds=1), tmp_path / "pid"
    async with running(settings) as runner:
        await do(runner, settings, tmp_path, f"spawn {grandchild}", "spawns")
        pid = int(grandchild.read_text())
        assert is_alive(pid)
        if end == "killed":
            with pytest.raises(RunnerStalled):
                await do(runner, settings, tmp_path, "hang", "hangs")
            await until_gone(pid)
    await until_gone(pid)


async def test_stop_does_not_wait_for_models_that_are_loading(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ignores SIGTERM: without a kill, a stop would wait for both grace periods."""
    for module in ("daemon.runner", "daemon.supervisor.process"):
        monkeypatch.setattr(f"{module}.TERMINATE_GRACE_SECONDS", 3600)
    settings = make_settings(pipeline="bench.scripted_pipeline:HangsInSetup")
    runner = Runner(settings, Metrics(), CPU)
    starting = asyncio.create_task(runner.start())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while runner._process is None:  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0.01)
        await runner.stop()
        with pytest.raises(SetupFailed):
            await starting
    assert not is_alive(runner._process.process.pid)


async def until_gone(pid: int) -> None:
    """Wait until the process is gone: after a signal the kernel needs a moment."""
    async with asyncio.timeout(10):
        while is_alive(pid):  # noqa: ASYNC110  # the end of a grandchild cannot be awaited
            await asyncio.sleep(0.02)


async def test_runner_gets_no_credentials(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("WEBHOOK_SECRET", "planted")
    async with running(make_settings()) as runner:
        environment = environment_of(runner._current.process.pid)  # type: ignore[union-attr]
        assert "planted" not in environment
