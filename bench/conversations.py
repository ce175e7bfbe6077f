"""Recordings for diarization from a folder: FLAC or WAV files, each with its speakers in an RTTM file of the same name.

Free conversations of more than one pair of voices are not part of any package, so you bring them yourself.
"""

import tempfile
from pathlib import Path

import numpy as np

from bench.corpus import Recording, Sound
from bench.reference import read_turns
from daemon.media.decode import decode

MAX_SECONDS = 24 * 3600.0
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
        recording = Recording(f"{file.parent.name}, {file.stem}", _mono(file), [], read_turns(turns))
        found.setdefault(file.parent.name, []).append(recording)
    return found


def _mono(file: Path) -> Sound:
    """Decode a file with the product's own decoder; that of faster-whisper 1.2.1 fails with PyAV 19."""
    with file.open("rb") as source, tempfile.TemporaryFile() as target:
        decode(source, [target], MAX_SECONDS, audio_track=None, split=False)
        target.seek(0)
        return np.frombuffer(target.read(), np.float32)
