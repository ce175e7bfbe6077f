"""Whisper's encoder: from sound to what its decoder reads, and the language it sounds like."""

from collections.abc import Mapping, Sequence

import ctranslate2
import numpy as np
import torch
from whisperx.asr import WhisperModel
from whisperx.audio import N_SAMPLES, log_mel_spectrogram

from daemon.pipeline.language import Probabilities
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk

# Encoded chunks by themselves, in the host's memory: float32, (frames, width). 8 MB each for the largest model.
Encodings = Mapping[Chunk, np.ndarray]


def encode(model: WhisperModel, audio: np.ndarray, chunks: Sequence[Chunk]) -> ctranslate2.StorageView:
    """The chunks' encodings in one batch, (chunks, frames, width), each padded to Whisper's 30 s."""
    spans = [audio[int(c.start * SAMPLE_RATE) : int(c.end * SAMPLE_RATE)][:N_SAMPLES] for c in chunks]
    mels = [
        log_mel_spectrogram(np.array(span), model.model.n_mels, padding=max(0, N_SAMPLES - len(span))) for span in spans
    ]
    return model.encode(torch.stack(mels).numpy())


def encode_rest(
    model: WhisperModel, audio: np.ndarray, chunks: Sequence[Chunk], known: Encodings
) -> ctranslate2.StorageView:
    """As `encode`, without doing again those that are known."""
    rest = [chunk for chunk in chunks if chunk not in known]
    if len(rest) == len(chunks):
        return encode(model, audio, chunks)
    new = dict(zip(rest, separate(encode(model, audio, rest)), strict=True)) if rest else {}
    return batch([known[chunk] if chunk in known else new[chunk] for chunk in chunks])


def take(encoded: ctranslate2.StorageView, indexes: Sequence[int]) -> ctranslate2.StorageView:
    """Some of a batch, in that order."""
    if list(indexes) == list(range(encoded.shape[0])):
        return encoded
    rows = separate(encoded)
    return batch([rows[index] for index in indexes])


def separate(encoded: ctranslate2.StorageView) -> list[np.ndarray]:
    """The encodings of a batch one by one, in the host's memory."""
    view = encoded.to(ctranslate2.DataType.float32)  # numpy knows no bfloat16; the way back loses nothing
    return list(np.array(view.to_device(ctranslate2.Device.cpu)))


def batch(encodings: Sequence[np.ndarray]) -> ctranslate2.StorageView:
    """Encodings as a batch; CTranslate2 moves it to the model's device and type."""
    return ctranslate2.StorageView.from_array(np.stack(encodings))


def detect_languages(model: WhisperModel, encoded: ctranslate2.StorageView) -> list[Probabilities]:
    """Each chunk's languages: one step of the decoder."""
    return [
        {token.strip("<|>"): probability for token, probability in found}
        for found in model.model.detect_language(encoded)
    ]
