"""Recordings for diarization from a folder: FLAC or WAV files, each with its speakers in an RTTM file of the same name.

Free conversations of more than one pair of voices are not part of any package, so you bring them yourself.
"""

from pathlib import Path

import numpy as np
import soundfile  # type: ignore[import-untyped]  # ships no types
from scipy.signal import resample_poly

from bench.corpus import Recording, Sound
from bench.reference import read_turns
from daemon.pipeline.types import SAMPLE_RATE

SUFFIXES = {".flac", ".wav"}


def conversations(folder: Path) -> dict[str, list[Recording]]:
    """Return the recordings by subfolder, which is their condition; the text is unknown. Raises ValueError if there is
    none, or one without RTTM file."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} contains no {' or '.join(sorted(SUFFIXES))} file")
    found: dict[str, list[Recording]] = {}
    for file in files:
        turns_file = file.with_suffix(".rttm")
        if not turns_file.is_file():
            raise ValueError(f"{file} has no {turns_file.name} next to it")
        recording = Recording(file.stem, _read(file), [], read_turns(turns_file))
        found.setdefault(file.parent.name, []).append(recording)
    return found


def _read(file: Path) -> Sound:
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    mono: Sound = samples.mean(axis=1)
    return mono if rate == SAMPLE_RATE else np.asarray(resample_poly(mono, SAMPLE_RATE, rate), np.float32)
