"""Find the silence in detected speech: speech detection joins speech over pauses of less than about a second."""

from dataclasses import replace

import numpy as np

from daemon.pipeline.speech.levels import FRAME_SECONDS, levels
from daemon.pipeline.types import SAMPLE_RATE, Chunk

MIN_PAUSE_SECONDS = 0.3  # longer than the closure of a plosive
# Below the loudest moments of the region. A voice further away is 10 to 30 dB below, and the noise of a line at least 45.
SILENCE_BELOW_DB = 40.0
LOUD_PERCENTILE = 95
MARGIN_SECONDS = 0.02  # of the silence, next to speech: its first and last sounds are soft


def without_silence(audio: np.ndarray, chunk: Chunk) -> Chunk:
    """Return the chunk without the silence at the ends of its regions and without pauses inside them.

    `audio` is the recording: float32, mono, 16 kHz.
    """
    regions = [part for start, end in chunk.regions for part in _parts(audio, start, end)]
    return replace(chunk, regions=tuple(regions))


def _parts(audio: np.ndarray, start: float, end: float) -> list[tuple[float, float]]:
    found = levels(audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)])
    if not len(found):
        return [(start, end)]
    sounding = np.flatnonzero(found >= np.percentile(found, LOUD_PERCENTILE) - SILENCE_BELOW_DB)
    pauses = np.flatnonzero((np.diff(sounding) - 1) * FRAME_SECONDS >= MIN_PAUSE_SECONDS)
    firsts, lasts = sounding[[0, *(pauses + 1)]], sounding[[*pauses, -1]]
    return [
        (
            max(start, start + float(first) * FRAME_SECONDS - MARGIN_SECONDS),
            min(end, start + float(last + 1) * FRAME_SECONDS + MARGIN_SECONDS),
        )
        for first, last in zip(firsts, lasts, strict=True)
    ]
