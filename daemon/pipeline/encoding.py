"""From sound to what Whisper's encoder reads, chunk by chunk."""

from collections.abc import MutableMapping, Sequence

import numpy as np
from whisperx.audio import N_SAMPLES, log_mel_spectrogram

from daemon.pipeline.engine import Encoding, Session
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk

Encodings = MutableMapping[Chunk, Encoding]


def encode(whisper: Session, audio: np.ndarray, chunks: Sequence[Chunk]) -> list[Encoding]:
    """The chunks' encodings, each padded to Whisper's 30 s. `audio` is float32, mono, 16 kHz."""
    mels = whisper.about.mels
    spans = [audio[int(c.start * SAMPLE_RATE) : int(c.end * SAMPLE_RATE)][:N_SAMPLES] for c in chunks]
    return whisper.encode(
        [log_mel_spectrogram(np.array(span), mels, padding=max(0, N_SAMPLES - len(span))).numpy() for span in spans]
    )


def encode_rest(whisper: Session, audio: np.ndarray, chunks: Sequence[Chunk], known: Encodings) -> list[Encoding]:
    """As `encode`, without doing again those that are known, which are forgotten."""
    rest = [chunk for chunk in chunks if chunk not in known]
    new = dict(zip(rest, encode(whisper, audio, rest) if rest else [], strict=True))
    return [known.pop(chunk) if chunk in known else new[chunk] for chunk in chunks]
