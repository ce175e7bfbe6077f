"""Signal levels per frame, and tests for speech-like variation. Audio is float32, mono, 16 kHz."""

import numpy as np

from daemon.pipeline.speech.shortened import shorten
from daemon.pipeline.types import SAMPLE_RATE, Chunk

FRAME_SECONDS = 0.02
FRAME_SAMPLES = int(FRAME_SECONDS * SAMPLE_RATE)
SILENCE_DB = -90.0  # about the smallest 16-bit amplitude
BLOCK_FRAMES = 50 * 600  # processed at a time: 10 min

# The level of speech varies by 20 to 30 dB between vowels and pauses; that of noise, hum and tones by 1 to 3 dB.
MIN_SPEECH_RANGE_DB = 9.0

# Whisper omits words of speech far below the usual level. Levels are those of the loudest moments of a chunk.
LOUD_FRAMES = 20  # 0.4 s; half of a shorter chunk
QUIET_DB = -42.0  # of vowels; the speech as a whole is about 8 dB below
NOTHING_DB = -80.0  # from here on, nothing but converter noise could be raised
USUAL_DB = -15.0

BAND_HZ = (200.0, 4000.0)  # voice band
# Spectral flatness is the geometric divided by the arithmetic mean of the power spectrum. For a frame of white noise it
# is 0.56 on average; for vowels it is below 0.1.
MAX_SPEECH_FLATNESS = 0.3


def levels(audio: np.ndarray) -> np.ndarray:
    """Compute each frame's level in dBFS."""
    count = len(audio) // FRAME_SAMPLES
    found = np.empty(count, np.float32)
    for first in range(0, count, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, count)
        frames = np.asarray(audio[first * FRAME_SAMPLES : last * FRAME_SAMPLES]).reshape(-1, FRAME_SAMPLES)
        found[first:last] = 10 * np.log10(np.maximum(np.mean(frames**2, axis=1), 10 ** (SILENCE_DB / 10)))
    return found


def is_steady(audio: np.ndarray) -> bool:
    """Whether the level hardly varies, as in noise, hum, tones or silence. Speech is never this steady."""
    found = levels(audio)
    return len(found) == 0 or float(np.ptp(np.percentile(found, (10, 95)))) < MIN_SPEECH_RANGE_DB


def flatness(audio: np.ndarray, loud: np.ndarray) -> float:
    """Compute the spectral flatness of the voice band, from 0 (tone) to 1. `loud` flags the frames to use."""
    frames = np.asarray(audio[: len(loud) * FRAME_SAMPLES]).reshape(-1, FRAME_SAMPLES)[loud]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES), axis=1)) ** 2
    frequencies = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)
    band = power[:, (frequencies >= BAND_HZ[0]) & (frequencies <= BAND_HZ[1])] + 1e-12
    return float(np.median(np.exp(np.mean(np.log(band), axis=1)) / np.mean(band, axis=1)))


def raise_quiet(audio: np.ndarray) -> np.ndarray:
    """Return very quiet audio at the usual level of speech, and any other audio unchanged."""
    found = levels(audio)
    if not len(found):
        return audio
    loudest = float(np.sort(found)[-min(LOUD_FRAMES, (len(found) + 1) // 2)])
    if not NOTHING_DB < loudest < QUIET_DB:
        return audio
    return audio * np.float32(10 ** ((USUAL_DB - loudest) / 20))


def chunk_audio(audio: np.ndarray, chunk: Chunk) -> np.ndarray:
    """Copy the chunk's audio, with shortened pauses and with very quiet speech raised to the usual level: that of the whole
    chunk, or of single regions."""
    shortened = shorten(chunk)
    first = int(chunk.start * SAMPLE_RATE)
    whole = shortened.audio(audio)
    span = raise_quiet(whole)
    if span is whole:
        for start, end in shortened.chunk.regions:
            part = slice(max(0, int(start * SAMPLE_RATE) - first), max(0, int(end * SAMPLE_RATE) - first))
            span[part] = raise_quiet(span[part])
    return span
