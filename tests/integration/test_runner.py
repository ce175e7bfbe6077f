"""The runner with real processes and pipelines that misbehave on purpose."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.config import Settings
from daemon.errors import DeviceFault, RunnerCrashed, RunnerStalled, SetupFailed, TranscriptdError
from daemon.job import Job, parse_job
from daemon.metrics import Metrics
from daemon.protocol import Batch, Checkpoint, Heard, Progress, StageDone
from daemon.runner import Runner, RunnerState
from daemon.transcript import Transcript

MakeSettings = Callable[..., Settings]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Runner]:
    runner = Runner(settings, Metrics())
    try:
        await runner.start()
        yield runner
    finally:
        await runner.stop()


def job_of(settings: Settings, prompt: str | None, job_id: str = "job-1") -> Job:
    body = '{"job_id": "%s", "input": {"bucket": "media", "key": "a.wav"}, "options": {"initial_prompt": %s}}'
    return parse_job(body % (job_id, "null" if prompt is None else f'"{prompt}"'), settings)


async def do(runner: Runner, settings: Settings, folder: Path, prompt: str | None, job_id: str = "job-1") -> list[Any]:
    """Run one job of a second of silence; the events it reported."""
    audio = folder / f"{job_id}.f32"
    np.zeros(16_000, dtype="<f4").tofile(audio)
    events: list[Progress | StageDone | Batch | Heard | Checkpoint] = []
    await runner.run(
        job_id,
        job_of(settings, prompt).options,
        events.append,
        audio=[audio],
        audio_seconds=1.0,
        result=folder / f"{job_id}.json",
        checkpoints=folder,
    )
    return events


def restarts(runner: Runner) -> dict[str, float]:
    (family,) = runner._metrics.runner_restarts.collect()
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


async def test_a_job_leaves_a_transcript_and_reports_its_stages(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        assert runner.state is RunnerState.READY
        events = await do(runner, settings, tmp_path, None)
        transcript = Transcript.model_validate_json((tmp_path / "job-1.json").read_bytes())
        assert transcript.segments[0].text == "hello there"
        assert transcript.duration_seconds == 1.0
        assert [event.stage for event in events if isinstance(event, StageDone)] == ["vad", "asr", "align", "diarize"]
        assert runner.state is RunnerState.READY


async def test_the_process_stays_between_jobs_and_a_failing_job_does_not_end_it(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
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
async def test_a_crash_fails_the_job_and_the_process_is_replaced(
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


async def test_a_hanging_job_is_found_and_killed(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(runner_stall_seconds=3)
    async with running(settings) as runner:
        with pytest.raises(RunnerStalled):
            await do(runner, settings, tmp_path, "hang")
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {"stalled": 1.0}


async def test_progress_keeps_a_slow_job_alive(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(runner_stall_seconds=4)
    async with running(settings) as runner:
        await do(runner, settings, tmp_path, "sleep 6")
        assert restarts(runner) == {}


async def test_cancelling_frees_the_process_for_the_next_job(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        job = asyncio.create_task(do(runner, settings, tmp_path, "sleep 60"))
        await asyncio.sleep(0.3)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        async with asyncio.timeout(20):
            await do(runner, settings, tmp_path, None, "job-2")
        assert restarts(runner) == {}


async def test_a_job_that_ignores_its_cancellation_is_killed(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runner.CANCEL_GRACE_SECONDS", 0.5)
    settings = make_settings()
    async with running(settings) as runner:
        job = asyncio.create_task(do(runner, settings, tmp_path, "hang"))
        await asyncio.sleep(0.3)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        # Killed with it, and done by the next process.
        await do(runner, settings, tmp_path, "sleep 2", "job-2")
        assert restarts(runner) == {"cancel_ignored": 1.0}


@pytest.mark.parametrize(
    ("prompt", "error", "reasons"),
    [
        # At first it may have been either: each has another try by itself.
        ("sigkill 0.5", RunnerCrashed, {"signal": 2.0}),
        ("cuda 0.5", DeviceFault, {"device_fault": 2.0}),
        ("hang", RunnerStalled, {"stalled": 1.0}),  # seen by its silence, while the others report
    ],
)
async def test_what_ends_the_process_costs_no_other_job_its_attempt(
    make_settings: MakeSettings, tmp_path: Path, prompt: str, error: type[TranscriptdError], reasons: dict[str, float]
) -> None:
    settings = make_settings(runner_stall_seconds=2)
    async with running(settings) as runner:
        innocent = [
            asyncio.create_task(do(runner, settings, tmp_path, "sleep 3", f"innocent-{number}")) for number in range(2)
        ]
        culprit = asyncio.create_task(do(runner, settings, tmp_path, prompt, "culprit"))
        with pytest.raises(error):
            await culprit
        await asyncio.gather(*innocent)
        assert all((tmp_path / f"innocent-{number}.json").exists() for number in range(2))
        assert restarts(runner) == reasons


async def test_jobs_run_side_by_side_and_one_is_cancelled_alone(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        endless = asyncio.create_task(do(runner, settings, tmp_path, "sleep 3000", "endless"))
        other = asyncio.create_task(do(runner, settings, tmp_path, "sleep 1", "other"))
        await do(runner, settings, tmp_path, None, "short")  # though two came before it
        assert not endless.done()
        endless.cancel()
        with pytest.raises(asyncio.CancelledError):
            await endless
        await other
        assert restarts(runner) == {}


async def test_a_job_that_comes_back_waits_until_the_process_has_let_it_go(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.runner.CANCEL_GRACE_SECONDS", 0.5)
    settings = make_settings()
    async with running(settings) as runner:
        job = asyncio.create_task(do(runner, settings, tmp_path, "hang", "lost"))
        await asyncio.sleep(0.3)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await do(runner, settings, tmp_path, None, "lost")
        assert restarts(runner) == {"cancel_ignored": 1.0}


async def test_a_job_is_in_the_runner_once(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        with pytest.raises(TranscriptdError, match="in the runner already"):
            await asyncio.gather(*(do(runner, settings, tmp_path, "sleep 1", "twice") for _ in range(2)))


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("RaisesInSetup", "no such model"),
        ("ExitsInSetup", "exited with status 5"),
        ("HangsInSetup", "not ready after 2 s"),
    ],
)
async def test_failing_starts_end_in_setup_failed(make_settings: MakeSettings, pipeline: str, words: str) -> None:
    settings = make_settings(
        pipeline=f"tests.pipelines.scripted:{pipeline}", runner_start_attempts=2, runner_start_timeout_seconds=2
    )
    runner = Runner(settings, Metrics())
    with pytest.raises(SetupFailed, match=words):
        await runner.start()
    assert runner.state is RunnerState.DEFUNCT
    assert restarts(runner) == {"setup": 2.0}
    await runner.stop()


async def test_a_runner_is_recycled_after_its_share_of_jobs(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(runner_max_jobs=2)
    async with running(settings) as runner:
        first = runner._current.process.pid  # type: ignore[union-attr]
        # At once: what was sent to a process before it retires is still done by it.
        await asyncio.gather(*(do(runner, settings, tmp_path, None, f"job-{number}") for number in range(5)))
        await do(runner, settings, tmp_path, None, "job-6")
        assert not alive(first)
        assert set(restarts(runner)) == {"recycled"}


async def test_a_leak_is_found_and_ended(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings(runner_max_growth_bytes=50_000_000)
    async with running(settings) as runner:
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {}
        await do(runner, settings, tmp_path, "leak 100000000")
        await do(runner, settings, tmp_path, None)
        assert restarts(runner) == {"leak": 1.0}


async def test_stop_leaves_no_process_even_in_the_middle_of_a_job(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    async with running(settings) as runner:
        pid = runner._current.process.pid  # type: ignore[union-attr]
        job = asyncio.create_task(do(runner, settings, tmp_path, "hang"))
        await asyncio.sleep(0.3)
    assert not alive(pid)
    with pytest.raises(RunnerCrashed):
        await job


async def test_the_runner_gets_no_credentials(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("WEBHOOK_SECRET", "planted")
    async with running(make_settings()) as runner:
        environment = environment_of(runner._current.process.pid)  # type: ignore[union-attr]
        assert "planted" not in environment
