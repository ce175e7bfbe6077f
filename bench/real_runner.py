"""The daemon's runner process alone: real models, no queue, no S3. Jobs are sent as the poller sends them."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.setup import job_options, settings_of_both
from bench.usage import running
from daemon.config import Settings
from daemon.protocol.events import PipelineEvent
from daemon.runner_pool import Runners
from daemon.schema.transcript import Transcript
from daemon.telemetry.metrics import Metrics

BYTES_PER_SECOND = 4 * 16_000  # float32 at 16 kHz


class RunnerPeer:
    def __init__(self, runners: Runners, settings: Settings) -> None:
        self._runners = runners
        self._settings = settings

    @property
    def pid(self) -> int:
        """PID of the current runner process, our only child that runs the pipeline."""
        return running("daemon.pipeline", os.getpid())[0]

    async def transcribe(
        self, audio: Path, folder: Path, on_event: Callable[[PipelineEvent], None] = lambda _: None, **changes: Any
    ) -> Transcript:
        """Transcribe raw float32. Checkpoints stay in `folder`, and existing ones are used.

        `changes` are job options. Raises the exceptions of Runner.run.
        """
        with tempfile.TemporaryDirectory() as name:
            result = Path(name) / "transcript.json"
            job = job_options(self._settings, **changes)
            await self._runners.run(
                "bench",
                job,
                on_event,
                audio=[audio],
                audio_seconds=_seconds(audio),
                result=result,
                checkpoints=folder,
            )
            return Transcript.model_validate_json(result.read_bytes())


@asynccontextmanager
async def open_runner(threads: int) -> AsyncIterator[RunnerPeer]:
    """Start a runner process with base and tiny.en, as bench.peers loads them for whisperx."""
    settings = settings_of_both(threads)
    runners = Runners(settings, Metrics())
    try:
        await runners.start()
        yield RunnerPeer(runners, settings)
    finally:
        await runners.stop()


def _seconds(audio: Path) -> float:
    return audio.stat().st_size / BYTES_PER_SECOND
