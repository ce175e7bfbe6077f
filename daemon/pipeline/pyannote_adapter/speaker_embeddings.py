"""pyannote's speaker embeddings with one model run per window for all of its speakers.

pyannote.audio 4 runs the model once per window and local speaker, usually three times, even if that speaker or the
whole window is silent. Its WeSpeaker models accept the masks of several speakers at once.
"""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from pyannote.audio.models.embedding.wespeaker import BaseWeSpeakerResNet
from pyannote.audio.pipelines.speaker_verification import PyannoteAudioPretrainedSpeakerEmbedding
from pyannote.core import SlidingWindowFeature

from daemon.pipeline.pyannote_adapter.campplus import CamPlusPlus
from daemon.pipeline.pyannote_adapter.ge2e import Ge2e
from daemon.pipeline.runtime.worker_pool import WorkerPool

# Models that give the same results for stacked masks (windows, speakers, frames) as for each mask alone.
MODELS_FOR_SEVERAL = (BaseWeSpeakerResNet, CamPlusPlus, Ge2e)


def stack_masks(pipeline: Any, lanes: WorkerPool) -> None:
    """Make a SpeakerDiarization pipeline run each window once, in all lanes. No effect with other embedding models."""
    embedding = getattr(pipeline, "_embedding", None)  # oracle clustering has none
    if isinstance(embedding, PyannoteAudioPretrainedSpeakerEmbedding) and isinstance(
        embedding.model_, MODELS_FOR_SEVERAL
    ):
        pipeline.get_embeddings = partial(get_embeddings, pipeline, lanes)


def get_embeddings(
    pipeline: Any,
    lanes: WorkerPool,
    file: Any,
    binary_segmentations: SlidingWindowFeature,
    exclude_overlap: bool = False,
    hook: Any | None = None,
) -> np.ndarray:
    """Replace SpeakerDiarization.get_embeddings, without its training cache.

    binary_segmentations: (windows, frames, local speakers), 0 or 1. exclude_overlap: exclude overlapped speech, unless
    too few frames remain for the model. Returns (windows, local speakers, dimension).
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
    # The embedding of an empty mask does not depend on the audio: NaN or a constant, depending on the model. Clustering
    # expects it for silent speakers.
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
    """Build the speakers' masks: (windows, local speakers, frames), from (windows, frames, local speakers)."""
    whole = np.nan_to_num(scores, nan=0.0).astype(np.float32)
    if exclude_overlap:
        alone = whole * (scores.sum(axis=2, keepdims=True) < 2)
        whole = np.where(alone.sum(axis=1, keepdims=True) > min_frames, alone, whole)
    return np.ascontiguousarray(whole.transpose(0, 2, 1))
