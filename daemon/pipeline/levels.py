"""How loud a sound is from frame to frame, and whether it moves as speech does. Audio is float32, mono, 16 kHz."""

import numpy as np

from daemon.pipeline.pieces import SAMPLE_RATE

FRAME_SECONDS = 0.02
FRAME_SAMPLES = int(FRAME_SECONDS * SAMPLE_RATE)
SILENCE_DB = -90.0  # below 16 bit
BLOCK_FRAMES = 50 * 600  # what is in memory at a time: 10 min

# Speech moves by 20 to 30 dB between vowels and pauses; noise, hum and tones by 1 to 3 dB.
MIN_SPEECH_RANGE_DB = 9.0

BAND_HZ = (200.0, 4000.0)  # of the voice
# Spectral flatness, the geometric by the arithmetic mean of the power spectrum, of one frame of white noise is 0.56 (in
# the mean); of vowels it is below 0.1.
MAX_SPEECH_FLATNESS = 0.3


def levels(audio: np.ndarray) -> np.ndarray:
    """The frames' levels in dB of full scale."""
    count = len(audio) // FRAME_SAMPLES
    found = np.empty(count, np.float32)
    for first in range(0, count, BLOCK_FRAMES):
        last = min(first + BLOCK_FRAMES, count)
        frames = np.asarray(audio[first * FRAME_SAMPLES : last * FRAME_SAMPLES]).reshape(-1, FRAME_SAMPLES)
        found[first:last] = 10 * np.log10(np.maximum(np.mean(frames**2, axis=1), 10 ** (SILENCE_DB / 10)))
    return found


def is_steady(audio: np.ndarray, start: float, end: float) -> bool:
    """Whether a stretch hardly moves in level: noise, hum, a tone, silence. No speech is like that."""
    found = levels(audio[int(start * SAMPLE_RATE) : int(end * SAMPLE_RATE)])
    return len(found) == 0 or float(np.ptp(np.percentile(found, (10, 95)))) < MIN_SPEECH_RANGE_DB


def flatness(audio: np.ndarray, loud: np.ndarray) -> float:
    """The spectral flatness of the voice's band in the loud frames, 0 for tones to 1; `loud` has one flag per frame."""
    frames = np.asarray(audio[: len(loud) * FRAME_SAMPLES]).reshape(-1, FRAME_SAMPLES)[loud]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME_SAMPLES), axis=1)) ** 2
    frequencies = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE)
    band = power[:, (frequencies >= BAND_HZ[0]) & (frequencies <= BAND_HZ[1])] + 1e-12
    return float(np.median(np.exp(np.mean(np.log(band), axis=1)) / np.mean(band, axis=1)))
