"""Run one job on this machine as the daemon would: the sandboxed decoder, a runner process, redaction. No AWS."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from daemon.config import Settings
from daemon.container_init import STOP_SIGNALS
from daemon.jobs.progress import DurationEstimator, JobProgress, ProgressView, planned_stages
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.jobs.runner_events import RunnerEvents
from daemon.jobs.steps import decode, read_result
from daemon.media.decoder_pool import DecoderPool
from daemon.runner_pool import Runners
from daemon.schema.job import Job
from daemon.schema.transcript import Transcript
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Span

T = TypeVar("T")

LOADING = "load"  # the stage in which the runner loads its models; the other stages are a job's own

ProgressHandler = Callable[[ProgressView], None]


async def run_job(
    job: Job, settings: Settings, source: Path, scratch: Path, on_progress: ProgressHandler
) -> Transcript:
    """Decode `source`, then load the models and run the job: a file that cannot be read costs no model.

    All files are written to `scratch`. When the call ends, in any way, no child process remains. Raises the errors of the
    decoder and of the runner; SetupFailed has the runner's own error as its cause.
    """
    metrics, progress = Metrics(), JobProgress()
    estimator, planned = DurationEstimator(), planned_stages(job.options)

    def report() -> None:
        on_progress(estimator.view(None, progress, planned, time.monotonic()))

    async with AsyncExitStack() as stack:
        pool = DecoderPool(scratch, metrics, max_decoders=1, allow_weak_sandbox=settings.allow_weak_sandbox)
        decoder = await stack.enter_async_context(pool)
        progress.enter("decode")
        report()
        audio = await decode(decoder, source, scratch / "audio.f32", job.options, settings)
        progress.audio_seconds = audio.duration_seconds
        on_progress(ProgressView(LOADING, None, progress.overall_fraction, None))
        runners = Runners(settings, metrics, max_devices=1)
        stack.push_async_callback(runners.stop)
        await runners.start()
        events = RunnerEvents(
            metrics,
            Span(),
            progress,
            WorkEstimate(),
            on_progress=report,
            on_stage_done=lambda *_: None,
            on_checkpoint=lambda _: None,  # nothing could resume from them
        )
        result, checkpoints = scratch / "result.json", scratch / "checkpoints"
        checkpoints.mkdir()
        await runners.run(
            job.job_id,
            job.options,
            events,
            audio=audio.paths,
            audio_seconds=audio.duration_seconds * len(audio.paths),
            result=result,
            checkpoints=checkpoints,
        )
        return read_result(result, job.options, audio, settings)


def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine. The first signal to stop cancels it, and raises KeyboardInterrupt once it has cleaned up."""

    async def main() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        stopping = asyncio.Event()

        def stop() -> None:
            if task is not None and not stopping.is_set():  # a second signal must not cut the cleaning short
                stopping.set()
                task.cancel()

        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as started by nohup
                loop.add_signal_handler(number, stop)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
