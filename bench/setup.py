"""The common configuration of all peers: weights, device, precision, beam, batch and threads."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.config import Settings
from daemon.jobs.option_defaults import fill_in
from daemon.schema.options import JobOptions, Options
from daemon.weights.packaged import whisper_base, whisper_tiny_en

BATCH_SIZE = 16
BEAM_SIZE = 5
MIN_SPEAKERS, MAX_SPEAKERS = 2, 6

PACKAGED: dict[str, Callable[[], Path]] = {"base": whisper_base, "tiny.en": whisper_tiny_en}


def cores() -> int:
    return len(os.sched_getaffinity(0))


def find_model(name: str) -> str:
    """Return the folder of a packaged model, or the argument itself: a folder, or a model name of faster-whisper."""
    return str(PACKAGED[name]()) if name in PACKAGED else name


def settings_of_both(threads: int) -> Settings:
    """Build the settings of a deployment with base and tiny.en, as bench.peers loads them for whisperx."""
    return Settings(
        queue_url="http://localhost/queue",
        dlq_url="http://localhost/dlq",
        output_bucket="results",
        model=str(whisper_base()),
        models=("base", str(whisper_tiny_en())),
        max_loaded_models=2,
        devices=("cpu",),
        compute_type="int8",
        batch_size=BATCH_SIZE,
        cpu_threads=threads,
        diarization_model="embedded",
        runner_restart_base_seconds=0.1,
        min_speakers=MIN_SPEAKERS,
        max_speakers=MAX_SPEAKERS,
        formats=("json",),
    )


def job_options(settings: Settings, **options: Any) -> JobOptions:
    """Build a job's options, with the deployment's defaults for missing ones."""
    return fill_in(Options(**options), settings)


@dataclass(frozen=True, slots=True)
class Setup:
    model: str  # as returned by find_model
    device: str = "cpu"
    compute_type: str = "int8"
    threads: int = cores()
    daemon_settings: tuple[tuple[str, str], ...] = ()  # further settings of transcriptd as (name, value)

    def __str__(self) -> str:
        extra = "".join(f", transcriptd with {name} {value}" for name, value in self.daemon_settings)
        return (
            f"Whisper {Path(self.model).name}, {self.compute_type}, beam {BEAM_SIZE}, batch {BATCH_SIZE}, "
            f"{self.threads} threads{extra}"
        )
