"""Encode chunks: compute log-mel spectrograms and run Whisper's encoder on them."""

from collections.abc import MutableMapping, Sequence
from math import ceil

import numpy as np
from whisperx.audio import N_SAMPLES, log_mel_spectrogram

from daemon.pipeline.asr.engine import Encoding, WhisperSession
from daemon.pipeline.speech.levels import chunk_audio
from daemon.pipeline.types import SAMPLE_RATE, Chunk

# Whisper is trained on 30 s and pads shorter chunks, so for a chunk of 5 s padding is over four fifths of the encoder's
# work. A few seconds of silence after the chunk preserve the accuracy, but no silence at all does not
# (docs/performance.md). Lengths come in steps, because only chunks of equal length share a batch.
MARGIN_SECONDS = 3
STEP_SECONDS = 5

Encodings = MutableMapping[Chunk, Encoding]


def encode(
    whisper: WhisperSession, audio: np.ndarray, chunks: Sequence[Chunk], *, padded: bool = True
) -> list[Encoding]:
    """Encode the chunks, each padded to Whisper's 30 s or, if not `padded`, by a few seconds.

    `audio` is float32, mono, 16 kHz; long pauses are shortened, and very quiet speech is raised to the usual level.
    Spectrograms are computed on the model's device and stay there.
    """
    about = whisper.about
    features = []
    for chunk in chunks:
        span = chunk_audio(audio, chunk)[:N_SAMPLES]
        samples = N_SAMPLES if padded else short_samples(len(span))
        padding = max(0, samples - len(span))
        features.append(log_mel_spectrogram(span, about.mels, padding=padding, device=about.device))
    return whisper.encode(features)


def short_samples(samples: int) -> int:
    """Return the length in samples that an unpadded chunk is extended to."""
    seconds = ceil((samples / SAMPLE_RATE + MARGIN_SECONDS) / STEP_SECONDS) * STEP_SECONDS
    return int(min(N_SAMPLES, seconds * SAMPLE_RATE))


def encode_rest(
    whisper: WhisperSession, audio: np.ndarray, chunks: Sequence[Chunk], known: Encodings, *, padded: bool = True
) -> list[Encoding]:
    """Encode the chunks that are not in `known`, and take the others out of it."""
    rest = [chunk for chunk in chunks if chunk not in known]
    new = dict(zip(rest, encode(whisper, audio, rest, padded=padded) if rest else [], strict=True))
    return [known.pop(chunk) if chunk in known else new[chunk] for chunk in chunks]
