"""From sound to what Whisper's encoder reads, chunk by chunk."""

from collections.abc import MutableMapping, Sequence
from math import ceil

import numpy as np
from whisperx.audio import N_SAMPLES, log_mel_spectrogram

from daemon.pipeline.engine import Encoding, Session
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk

# Whisper learnt from 30 s, and pads whatever is shorter: four fifths of the encoder's work for a chunk of 5 s. It hears
# as well with a few seconds of silence after the chunk, but not without (docs/performance.md has the figures). Lengths
# come in steps, because only equal ones share a batch.
MARGIN_SECONDS = 3
STEP_SECONDS = 5

Encodings = MutableMapping[Chunk, Encoding]


def encode(whisper: Session, audio: np.ndarray, chunks: Sequence[Chunk], *, padded: bool = True) -> list[Encoding]:
    """The chunks' encodings, each padded to Whisper's 30 s, or else to little more than it is long.

    `audio` is float32, mono, 16 kHz. Spectrograms are computed where the model is, and stay there.
    """
    about = whisper.about
    features = []
    for chunk in chunks:
        span = np.array(audio[int(chunk.start * SAMPLE_RATE) : int(chunk.end * SAMPLE_RATE)][:N_SAMPLES])
        samples = N_SAMPLES if padded else short_samples(len(span))
        padding = max(0, samples - len(span))
        features.append(log_mel_spectrogram(span, about.mels, padding=padding, device=about.device))
    return whisper.encode(features)


def short_samples(samples: int) -> int:
    """How long a chunk of so many samples is made."""
    seconds = ceil((samples / SAMPLE_RATE + MARGIN_SECONDS) / STEP_SECONDS) * STEP_SECONDS
    return int(min(N_SAMPLES, seconds * SAMPLE_RATE))


def encode_rest(
    whisper: Session, audio: np.ndarray, chunks: Sequence[Chunk], known: Encodings, *, padded: bool = True
) -> list[Encoding]:
    """As `encode`, without doing again those that are known, which are forgotten."""
    rest = [chunk for chunk in chunks if chunk not in known]
    new = dict(zip(rest, encode(whisper, audio, rest, padded=padded) if rest else [], strict=True))
    return [known.pop(chunk) if chunk in known else new[chunk] for chunk in chunks]
