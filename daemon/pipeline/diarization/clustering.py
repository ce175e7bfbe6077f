"""Find the speakers among voice embeddings: how many there are, and who is who.

Spectral clustering (Ng, Jordan and Weiss 2001; von Luxburg 2007, arXiv:0711.0189): each embedding is connected to its most
similar ones only, and the largest gap between the eigenvalues of the graph's Laplacian tells the number of speakers. Then
speakers whose mean embeddings are alike are merged. On conversations of 2 to 12 voices this is right more often than
agglomerative clustering by one threshold, which divides long recordings into too many speakers (docs/accuracy.md).
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh
from sklearn.cluster import KMeans

# Share of the other embeddings that each is connected to, and the smallest number of them.
NEIGHBOR_SHARE = 0.2
MIN_NEIGHBORS = 5

# Of a speaker. Fewer of them are another voice only if it is very different: a laugh or a cough differs as well.
MIN_EMBEDDINGS = 3

MOST_SPEAKERS = 20  # searched for, unless a job's own bounds ask for more


@dataclass(frozen=True, slots=True)
class Similarities:
    """Cosine similarities that have a meaning for one embedding model; determined by experiment."""

    unrelated: float  # at most: two embeddings are not connected
    # At least, between mean embeddings: they are of one voice, where there are
    too_many: float  # more speakers than expected, or one of them hardly speaks
    several: float  # as many as expected
    few: float  # as few as expected, or only two


@dataclass(frozen=True, slots=True)
class SpeakerBounds:
    """Numbers of speakers. `low` and `high` are binding; the evidence for an unexpected number must be clearer."""

    low: int = 1
    high: int = MOST_SPEAKERS
    expected_low: int = 1
    expected_high: int = MOST_SPEAKERS


def cluster_speakers(embeddings: np.ndarray, similarities: Similarities, bounds: SpeakerBounds) -> np.ndarray:
    """Return the speaker of each embedding, (count,), numbered from 0. embeddings: (count, dimension), at least one.

    The number of speakers is within the bounds, except that there are never more speakers than embeddings.
    """
    voices = unit(embeddings)
    low, high = min(bounds.low, len(voices)), min(bounds.high, len(voices))
    if high == 1:
        return np.zeros(len(voices), dtype=int)
    values, vectors = _spectrum(voices, similarities.unrelated, min(max(low, MOST_SPEAKERS) + 1, len(voices)))
    if low == 1:
        halves = _divide(vectors, 2)
        if _merge(voices, halves, similarities, bounds).max() == 0:
            return np.zeros(len(voices), dtype=int)
    count = 1 + int(np.argmax(np.diff(values)))  # the gap after the k-th value is evidence for k speakers
    speakers = _divide(vectors, max(count, low))
    return _merge(voices, speakers, similarities, replace(bounds, low=max(low, 2), high=high))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return the vectors with unit length: (…, dimension)."""
    unit_vectors: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
    return unit_vectors


def mean_voices(voices: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """Return each speaker's mean embedding with unit length: (speakers, dimension)."""
    return unit(np.stack([voices[speakers == speaker].mean(axis=0) for speaker in range(speakers.max() + 1)]))


def _spectrum(voices: np.ndarray, unrelated: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest eigenvalues of the graph's Laplacian, (count,), and their vectors, (voices, count)."""
    similarity = voices @ voices.T
    np.fill_diagonal(similarity, 0.0)
    similarity[similarity <= unrelated] = 0.0
    others = len(voices) - 1
    neighbors = min(others, max(MIN_NEIGHBORS, math.ceil(NEIGHBOR_SHARE * len(voices))))
    weakest = np.partition(similarity, len(voices) - neighbors, axis=1)[:, len(voices) - neighbors, None]
    similarity[similarity < weakest] = 0.0
    similarity = (similarity + similarity.T) / 2
    laplacian = np.diag(similarity.sum(axis=1)) - similarity
    values, vectors = eigh(laplacian, subset_by_index=(0, count - 1))
    return values, vectors


def _divide(vectors: np.ndarray, count: int) -> np.ndarray:
    """Divide the embeddings into at most `count` groups by their coordinates in the first eigenvectors."""
    if count == 1:
        return np.zeros(len(vectors), dtype=int)
    # A fixed seed: the same recording always has the same speakers.
    found = KMeans(count, n_init=10, random_state=0).fit_predict(vectors[:, :count])
    return _renumbered(found)


def _merge(voices: np.ndarray, speakers: np.ndarray, similarities: Similarities, bounds: SpeakerBounds) -> np.ndarray:
    """Merge the most similar speakers while they are of one voice, or too many. At least `bounds.low` remain."""
    while (count := int(speakers.max()) + 1) > bounds.low:
        means, sizes = mean_voices(voices, speakers), np.bincount(speakers)
        lone = np.minimum(sizes, sizes[:, None]) < MIN_EMBEDDINGS
        beyond = means @ means.T - np.where(lone, similarities.too_many, _one_voice(count, similarities, bounds))
        np.fill_diagonal(beyond, -np.inf)
        one, other = np.unravel_index(int(np.argmax(beyond)), beyond.shape)
        if beyond[one, other] < 0 and count <= bounds.high:
            break
        speakers = _renumbered(np.where(speakers == other, one, speakers))
    return speakers


def _one_voice(count: int, similarities: Similarities, bounds: SpeakerBounds) -> float:
    """Return the similarity from which two of `count` mean embeddings are of one voice."""
    if count > bounds.expected_high:
        return similarities.too_many
    return similarities.few if count <= max(bounds.expected_low, 2) else similarities.several


def _renumbered(speakers: np.ndarray) -> np.ndarray:
    numbers: np.ndarray = np.unique(speakers, return_inverse=True)[1]
    return numbers
