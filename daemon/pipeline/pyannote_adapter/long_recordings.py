"""pyannote's diarization with bounded memory for recordings of many hours, and with the results of pyannote.audio 4.

Extra memory of the original code, measured with synthetic speech of six speakers: for six hours, 2.4 GB to count
speakers and 3 GB for the sums over windows; 1.7 GB to compare 15,000 embeddings (1.5 hours) pairwise, growing
quadratically.
"""

from typing import Any

import numpy as np
from pyannote.audio.pipelines import speaker_diarization
from pyannote.audio.utils.signal import binarize
from pyannote.core import SlidingWindow, SlidingWindowFeature

# Hierarchical clustering compares all pairs of embeddings: 0.75 GB for this many. pyannote computes up to three
# embeddings every 0.5 or 1 s from windows that overlap by 90 %; an hour of lively conversation has about 10,000. Above
# that, an evenly spaced selection separates the speakers equally well.
MAX_EMBEDDINGS = 10_000

BLOCK_WINDOWS = 1000


def bound(pipeline: Any, max_embeddings: int = MAX_EMBEDDINGS) -> None:
    """Bound the memory of an instantiated SpeakerDiarization pipeline. Results for short recordings do not change."""
    module: Any = speaker_diarization
    module.binarize = binarize_in_blocks
    pipeline.reconstruct = reconstruct
    _bound_clustering(pipeline.clustering, max_embeddings)


def binarize_in_blocks(scores: SlidingWindowFeature, **options: Any) -> SlidingWindowFeature:
    """Apply pyannote's `binarize` to (windows, frames, speakers) in blocks of windows, which are independent."""
    window = scores.sliding_window
    blocks = [
        binarize(SlidingWindowFeature(scores.data[start : start + BLOCK_WINDOWS], window), **options).data
        for start in range(0, len(scores.data), BLOCK_WINDOWS)
    ]
    return SlidingWindowFeature(np.concatenate(blocks), window)


def reconstruct(
    segmentations: SlidingWindowFeature, hard_clusters: np.ndarray, count: SlidingWindowFeature
) -> SlidingWindowFeature:
    """Find the active speakers of each frame like SpeakerDiarization.reconstruct, but summing in place.

    segmentations: (windows, frames, local speakers), scores. hard_clusters: (windows, local speakers), speaker indices;
    -2 for none. count: (all frames, 1), number of simultaneous speakers. Returns (all frames, speakers), 0 or 1.

    Unlike there, a speaker whom no window hears is never active. Otherwise one voice becomes two speakers where a window
    takes it for two at once.
    """
    windows, step = segmentations.sliding_window, count.sliding_window
    frames = SlidingWindow(start=windows.start, duration=step.duration, step=step.step)
    length = segmentations.data.shape[1]
    starts = [frames.closest_frame(windows[index].start + 0.5 * frames.duration) for index in range(len(hard_clusters))]
    last = windows.start + windows.duration + (len(starts) - 1) * windows.step
    speakers = max(int(np.max(hard_clusters)) + 1, int(np.max(count.data)))
    sums = np.zeros((frames.closest_frame(last + 0.5 * frames.duration) + 1, speakers), dtype=np.float32)
    for start, scores, clusters in zip(starts, segmentations.data, hard_clusters, strict=True):
        for speaker in np.unique(clusters[clusters != -2]):
            sums[start : start + length, speaker] += np.max(scores[:, clusters == speaker], axis=1)
    activations = SlidingWindowFeature(sums, frames)
    extent = activations.extent & count.extent
    activations = activations.crop(extent, return_data=False)
    counts = count.crop(extent, return_data=False).data
    loudest = np.argsort(-activations.data, axis=-1)[:, : int(np.max(counts))]
    binary = np.zeros_like(activations.data)
    np.put_along_axis(binary, loudest, np.arange(loudest.shape[1]) < counts, axis=-1)
    binary[activations.data == 0] = 0
    return SlidingWindowFeature(binary, activations.sliding_window)


def _bound_clustering(clustering: Any, max_embeddings: int) -> None:
    """Limit the number of embeddings that the clustering is computed from.

    Every embedding is still assigned to a speaker as in pyannote, by the nearest centroid.
    """
    select = clustering.filter_embeddings
    min_cluster_size = getattr(clustering, "min_cluster_size", None)  # only agglomerative clustering has it

    def select_evenly(*arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray, np.ndarray] = select(*arguments, **options)
        step = max(1.0, len(found[0]) / max_embeddings)
        if min_cluster_size is not None:  # counted in embeddings but meant as a duration, so scale it
            clustering.min_cluster_size = max(1, round(min_cluster_size / step))
        if step == 1.0:
            return found
        kept = (np.arange(max_embeddings) * step).astype(int)
        embeddings, chunks, speakers = (part[kept] for part in found)
        return embeddings, chunks, speakers

    clustering.filter_embeddings = select_evenly
