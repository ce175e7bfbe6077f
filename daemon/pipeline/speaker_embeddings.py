"""pyannote's speaker embeddings, with each window's sound through the model once for all who speak in it.

pyannote.audio 4 takes a window through the model once per local speaker, three times as a rule, and also where that speaker,
or anyone, is silent; its WeSpeaker models take the masks of several speakers at once.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from pyannote.audio.models.embedding.wespeaker import BaseWeSpeakerResNet
from pyannote.audio.pipelines.speaker_verification import PyannoteAudioPretrainedSpeakerEmbedding
from pyannote.core import SlidingWindowFeature

from daemon.embedded.diarization import VoiceEncoder
from daemon.pipeline.lanes import Lanes

# Known to give for masks (windows, speakers, frames) what they give for each of them alone.
MODELS_FOR_SEVERAL = (BaseWeSpeakerResNet, VoiceEncoder)


def stack_masks(pipeline: Any, lanes: Lanes) -> None:
    """Let a SpeakerDiarization pipeline hear each window once, in all lanes. A pipeline around any other model stays as it is."""
    embedding = getattr(pipeline, "_embedding", None)  # an oracle's clustering has none
    if isinstance(embedding, PyannoteAudioPretrainedSpeakerEmbedding) and isinstance(
        embedding.model_, MODELS_FOR_SEVERAL
    ):
        pipeline.get_embeddings = partial(get_embeddings, pipeline, lanes)


def get_embeddings(
    pipeline: Any,
    lanes: Lanes,
    file: Any,
    binary_segmentations: SlidingWindowFeature,
    exclude_overlap: bool = False,
    hook: Any | None = None,
) -> np.ndarray:
    """SpeakerDiarization.get_embeddings, but for its cache while a pipeline is trained.

    binary_segmentations: (windows, frames, local speakers), 0 or 1. exclude_overlap: leave out where several speak, unless
    what is left is too short for the model. Returns (windows, local speakers, dimension).
    """
    scores, windows = binary_segmentations.data, binary_segmentations.sliding_window
    embedding, batch_size = pipeline._embedding, pipeline.embedding_batch_size
    min_frames = -1
    if exclude_overlap:
        samples = windows.duration * embedding.sample_rate
        min_frames = math.ceil(scores.shape[1] * embedding.min_num_samples / samples)

    def embed(indices: np.ndarray) -> np.ndarray:
        sounds = [pipeline._audio.crop(file, windows[int(index)], mode="pad")[0] for index in indices]
        masks = _masks(scores[indices], exclude_overlap, min_frames)
        found: np.ndarray = embedding(torch.stack(sounds), masks=torch.from_numpy(masks))
        return found

    spoken = (scores > 0).any(axis=1)  # (windows, local speakers)
    heard = np.flatnonzero(spoken.any(axis=1))
    batches = [heard[start : start + batch_size] for start in range(0, len(heard), batch_size)]
    # Nobody's embedding does not depend on the sound: NaN of some models, a constant of others. Clustering wants either.
    nobody = embedding(
        torch.zeros(1, 1, round(windows.duration * embedding.sample_rate)), masks=torch.zeros(1, 1, scores.shape[1])
    )
    embeddings = np.tile(nobody, (*spoken.shape, 1))
    if hook is not None:
        hook("embeddings", None, total=len(batches), completed=0)
    for completed, batch in enumerate(batches, 1):
        parts = np.array_split(batch, min(lanes.count, len(batch)))
        embeddings[batch] = np.concatenate(lanes.map(embed, parts))
        if hook is not None:
            hook("embeddings", None, total=len(batches), completed=completed)
    return embeddings


def _masks(scores: np.ndarray, exclude_overlap: bool, min_frames: int) -> np.ndarray:
    """Where each speaker's voice is taken from: (windows, local speakers, frames), from (windows, frames, local speakers)."""
    whole = np.nan_to_num(scores, nan=0.0).astype(np.float32)
    if exclude_overlap:
        alone = whole * (scores.sum(axis=2, keepdims=True) < 2)
        whole = np.where(alone.sum(axis=1, keepdims=True) > min_frames, alone, whole)
    return np.ascontiguousarray(whole.transpose(0, 2, 1))
