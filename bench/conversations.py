"""Recordings for diarization from a folder: FLAC or WAV files, each with its speakers in an RTTM file of the same name.

Free conversations of more than one pair of voices are not part of any package, so you bring them yourself.
"""

from pathlib import Path

import numpy as np
from faster_whisper import decode_audio

from bench.corpus import Recording
from bench.reference import read_turns
from daemon.pipeline.types import SAMPLE_RATE

SUFFIXES = (".flac", ".wav")


def conversations(folder: Path) -> dict[str, list[Recording]]:
    """Return the recordings by subfolder, which is their condition; the text is unknown.

    Raises ValueError if there are none, or one has no RTTM file.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} contains no {' or '.join(SUFFIXES)} file")
    found: dict[str, list[Recording]] = {}
    for file in files:
        turns = file.with_suffix(".rttm")
        if not turns.is_file():
            raise ValueError(f"{file} has no {turns.name} next to it")
        audio = np.asarray(decode_audio(str(file), SAMPLE_RATE), np.float32)
        recording = Recording(f"{file.parent.name}, {file.stem}", audio, [], read_turns(turns))
        found.setdefault(file.parent.name, []).append(recording)
    return found
