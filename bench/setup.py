"""What all peers are given alike: weights, device, precision, beam, batch and threads."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.embedded.models import whisper_base, whisper_tiny_en

BATCH_SIZE = 16
BEAM_SIZE = 5
MIN_SPEAKERS, MAX_SPEAKERS = 2, 6

PACKAGED: dict[str, Callable[[], Path]] = {"base": whisper_base, "tiny.en": whisper_tiny_en}


def cores() -> int:
    return len(os.sched_getaffinity(0))


def find_model(name: str) -> str:
    """The folder of a packaged model; of any other, what was given: a folder, or a name that faster-whisper knows."""
    return str(PACKAGED[name]()) if name in PACKAGED else name


@dataclass(frozen=True, slots=True)
class Setup:
    model: str  # as find_model has it
    device: str = "cpu"
    compute_type: str = "int8"
    threads: int = cores()
    daemon_settings: tuple[tuple[str, str], ...] = ()  # of transcriptd beyond these, as (name, value)

    def __str__(self) -> str:
        extra = "".join(f", transcriptd with {name} {value}" for name, value in self.daemon_settings)
        return (
            f"Whisper {Path(self.model).name}, {self.compute_type}, beam {BEAM_SIZE}, batch {BATCH_SIZE}, "
            f"{self.threads} threads{extra}"
        )
