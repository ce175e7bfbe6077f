"""The daemon's runner process by itself: real models, no queue, no S3. Jobs go to it as the poller sends them."""

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.setup import BATCH_SIZE, MAX_SPEAKERS, MIN_SPEAKERS
from bench.usage import running
from daemon.config import Settings
from daemon.embedded.models import whisper_base, whisper_tiny_en
from daemon.metrics import Metrics
from daemon.protocol import Batch, Checkpoint, Heard, Progress, StageDone
from daemon.runners import Runners
from daemon.transcript import Transcript
from tests.integration.pipeline_fixture import options

Event = Progress | StageDone | Batch | Heard | Checkpoint


BYTES_PER_SECOND = 4 * 16_000  # float32 at 16 kHz


class RunnerPeer:
    def __init__(self, runners: Runners) -> None:
        self._runners = runners

    @property
    def pid(self) -> int:
        """Of the process that serves now: the one child of ours that runs the pipeline."""
        return running("daemon.pipeline", os.getpid())[0]

    async def transcribe(
        self, audio: Path, folder: Path, on_event: Callable[[Event], None] = lambda _: None, **changes: Any
    ) -> Transcript:
        """Transcribe raw float32. Checkpoints stay in `folder`: what lies there is not done again.

        `changes` are job options. Raises what Runner.run does.
        """
        defaults = {"min_speakers": MIN_SPEAKERS, "max_speakers": MAX_SPEAKERS}
        with tempfile.TemporaryDirectory() as name:
            result = Path(name) / "transcript.json"
            job = options(**{**defaults, **changes})
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
    """A runner process with base and tiny.en at hand, as bench.peers loads them for whisperx."""
    settings = Settings(
        queue_url="http://localhost/queue",
        dlq_url="http://localhost/dlq",
        output_bucket="results",
        model=str(whisper_base()),
        models=("base", str(whisper_tiny_en())),
        models_resident=2,
        devices=("cpu",),
        compute_type="int8",
        batch_size=BATCH_SIZE,
        cpu_threads=threads,
        diarization_model="embedded",
        runner_restart_base_seconds=0.1,
    )
    runners = Runners(settings, Metrics())
    try:
        await runners.start()
        yield RunnerPeer(runners)
    finally:
        await runners.stop()


def _seconds(audio: Path) -> float:
    return audio.stat().st_size / BYTES_PER_SECOND
