"""pyannote's diarization in memory that a recording of many hours does not blow up, with the results of pyannote.audio 4.

Measured on made-up speech of six people: to count the speakers of six hours pyannote takes 2.4 GB more, for its sums over
windows 3 GB more, and to compare 15,000 voices with each other (one and a half hours) 1.7 GB, growing with the square.
"""

from typing import Any

import numpy as np
from pyannote.audio.pipelines import speaker_diarization
from pyannote.audio.utils.signal import binarize
from pyannote.core import SlidingWindow, SlidingWindowFeature

# Hierarchical clustering compares every voice with every other: 0.75 GB for so many. pyannote makes up to three
# embeddings every 0.5 or 1 s from windows that overlap by 90 %, and an hour of lively talk has about 10,000. Beyond
# that, an even selection of them tells the speakers apart as well.
MAX_EMBEDDINGS = 10_000

BLOCK_WINDOWS = 1000


def bound(pipeline: Any, max_embeddings: int = MAX_EMBEDDINGS) -> None:
    """Let a SpeakerDiarization pipeline, its parameters set, do with little memory. Short recordings come out exactly as before."""
    module: Any = speaker_diarization
    module.binarize = binarize_in_blocks
    pipeline.reconstruct = reconstruct
    _bound_clustering(pipeline.clustering, max_embeddings)


def binarize_in_blocks(scores: SlidingWindowFeature, **options: Any) -> SlidingWindowFeature:
    """pyannote's thresholding of (windows, frames, speakers), some windows at a time: they do not depend on each other."""
    window = scores.sliding_window
    blocks = [
        binarize(SlidingWindowFeature(scores.data[start : start + BLOCK_WINDOWS], window), **options).data
        for start in range(0, len(scores.data), BLOCK_WINDOWS)
    ]
    return SlidingWindowFeature(np.concatenate(blocks), window)


def reconstruct(
    segmentations: SlidingWindowFeature, hard_clusters: np.ndarray, count: SlidingWindowFeature
) -> SlidingWindowFeature:
    """Who is active in each frame, as SpeakerDiarization.reconstruct finds it, summed up in place.

    segmentations: (windows, frames, local speakers), scores. hard_clusters: (windows, local speakers), the speaker of each;
    -2 for none. count: (all frames, 1), how many speak at once. Returns (all frames, speakers), 0 or 1.
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
    return SlidingWindowFeature(binary, activations.sliding_window)


def _bound_clustering(clustering: Any, max_embeddings: int) -> None:
    """Let a clustering learn the speakers from at most so many embeddings.

    Every embedding is still assigned to a speaker as pyannote does it, to the nearest centroid.
    """
    select = clustering.filter_embeddings
    min_cluster_size = getattr(clustering, "min_cluster_size", None)  # agglomerative clustering alone has one

    def select_evenly(*arguments: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found: tuple[np.ndarray, np.ndarray, np.ndarray] = select(*arguments, **options)
        step = max(1.0, len(found[0]) / max_embeddings)
        if min_cluster_size is not None:  # it counts embeddings, and means seconds
            clustering.min_cluster_size = max(1, round(min_cluster_size / step))
        if step == 1.0:
            return found
        kept = (np.arange(max_embeddings) * step).astype(int)
        embeddings, chunks, speakers = (part[kept] for part in found)
        return embeddings, chunks, speakers

    clustering.filter_embeddings = select_evenly
