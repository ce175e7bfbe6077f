"""Describe the sound of a recording in which no words were found. Audio is float32, mono, 16 kHz."""

import numpy as np

from daemon.pipeline.speech.levels import (
    FRAME_SAMPLES,
    FRAME_SECONDS,
    MAX_SPEECH_FLATNESS,
    MIN_SPEECH_RANGE_DB,
    flatness,
    levels,
)
from daemon.pipeline.types import SAMPLE_RATE

SMALLEST = 2.0**-15  # amplitude in 16-bit audio
SHORT_SECONDS = 0.5  # hardly a word
LOUD_FRAMES = 10  # 0.2 s: the level of the loudest moments is that of as many frames, so that a click does not count
QUIET_DB = -60.0  # if the loudest moments are below this, no one hears anything without turning up the volume
AUDIBLE_DB = 30.0  # below the loudest moments
CLIPPED_AMPLITUDE = 0.98
CLIPPED_SHARE = 0.05  # of the samples
TONE_SHARE = 0.7  # of the power, in a band of 50 Hz
TONE_FRAMES = 5  # 0.1 s: long enough to tell a tone from the low end of noise
COMPARED_FRAMES = 3000  # one minute of audible frames is enough for a spectrum


def describe(audio: np.ndarray) -> str:
    """Return what the recording consists of, as a clause such as "it is digital silence"."""
    found = levels(audio)
    seconds = len(audio) / SAMPLE_RATE
    if seconds < SHORT_SECONDS:
        return f"it lasts only {seconds:.3f} s"
    if max(float(audio.max()), -float(audio.min())) < SMALLEST:
        return "it is digital silence"
    loudest = float(np.sort(found)[-min(LOUD_FRAMES, len(found))])
    if loudest < QUIET_DB:
        return f"it is almost silent: its loudest moments are at {round(loudest)} dB"
    audible = found >= loudest - AUDIBLE_DB
    length = float(audible.sum()) * FRAME_SECONDS
    return f"it has {_kind(audio, found, audible)} at {round(loudest)} dB in {length:.1f} of {seconds:.1f} s"


def _kind(audio: np.ndarray, found: np.ndarray, audible: np.ndarray) -> str:
    indexes = np.flatnonzero(audible)[:COMPARED_FRAMES]
    frames = np.asarray(audio[: len(found) * FRAME_SAMPLES]).reshape(-1, FRAME_SAMPLES)[indexes]
    noisy = flatness(frames.reshape(-1), np.ones(len(frames), bool)) > MAX_SPEECH_FLATNESS
    steady = float(np.ptp(np.percentile(found[audible], (10, 95)))) < MIN_SPEECH_RANGE_DB
    frequency, share = _strongest(frames)
    if steady and share >= TONE_SHARE:
        return f"a tone near {frequency:.0f} Hz"
    if float(np.mean(np.abs(frames) > CLIPPED_AMPLITUDE)) >= CLIPPED_SHARE:
        return "clipped sound"
    if steady:
        return "steady noise" if noisy else "a steady sound, such as hum or music,"
    return "noise" if noisy else "sound, such as music,"


def _strongest(frames: np.ndarray) -> tuple[float, float]:
    """Return the strongest frequency in Hz, and the share of the power near it."""
    joined = min(TONE_FRAMES, len(frames))
    blocks = frames[: len(frames) // joined * joined].reshape(-1, joined * FRAME_SAMPLES)
    power = np.sum(np.abs(np.fft.rfft(blocks * np.hanning(blocks.shape[1]), axis=1)) ** 2, axis=0)
    near = np.convolve(power, np.ones(joined), mode="same")
    best = int(near.argmax())
    return best / (joined * FRAME_SECONDS), float(near[best] / max(float(power.sum()), 1e-20))
