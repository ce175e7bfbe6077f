"""How many speakers there are, and who is who, among embeddings made up of voices at random directions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.diarization.clustering import Similarities, SpeakerBounds, cluster_speakers
from tests.support.partitions import same_partition

DIMENSION = 192
SIMILARITIES = Similarities(unrelated=0.4, too_many=0.5, several=0.65, few=0.8)


def voice(seed: int) -> np.ndarray:
    direction = np.random.default_rng(seed).normal(size=DIMENSION)
    return direction / np.linalg.norm(direction)


def spoken(*counts: int, spread: float = 0.6, voices: list[np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings and their speakers. Two embeddings of a voice have a similarity of about 1 / (1 + spread²)."""
    dice = np.random.default_rng(7)
    truth = np.repeat(np.arange(len(counts)), counts)
    dice.shuffle(truth)
    centers = np.stack(voices or [voice(seed) for seed in range(len(counts))])
    noise = dice.normal(size=(len(truth), DIMENSION)) * spread / DIMENSION**0.5
    return 10 * (centers[truth] + noise), truth


def between(one: np.ndarray, other: np.ndarray, similarity: float) -> np.ndarray:
    """Return a voice with this similarity to the first."""
    across = other - (other @ one) * one
    mixed: np.ndarray = similarity * one + (1 - similarity**2) ** 0.5 * across / np.linalg.norm(across)
    return mixed


def found(embeddings: np.ndarray, **bounds: int) -> np.ndarray:
    return cluster_speakers(embeddings, SIMILARITIES, SpeakerBounds(**bounds))


@pytest.mark.parametrize("counts", [(40,), (20, 20), (60, 12), (15, 30, 20), (10,) * 6, (12,) * 12, (200, 150, 60, 30)])
def test_every_voice_is_one_speaker(counts: tuple[int, ...]) -> None:
    embeddings, truth = spoken(*counts)
    assert same_partition(found(embeddings), truth)


@pytest.mark.parametrize("repeats", [1, 6, 20, 60])
def test_the_same_voices_are_found_in_a_longer_recording(repeats: int) -> None:
    embeddings, truth = spoken(14, 16)
    assert same_partition(found(np.tile(embeddings, (repeats, 1))), np.tile(truth, repeats))


def test_one_voice_that_changes_is_one_speaker() -> None:
    changed = between(voice(0), voice(1), 0.85)
    embeddings, _ = spoken(30, 30, voices=[voice(0), changed], spread=0.3)
    assert found(embeddings).max() == 0
    other = between(voice(0), voice(1), 0.7)
    embeddings, truth = spoken(30, 30, voices=[voice(0), other], spread=0.3)
    assert same_partition(found(embeddings), truth)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 8])
def test_a_given_number_is_binding(number: int) -> None:
    for counts in ((40,), (20, 20, 20), (10,) * 8):
        embeddings, _ = spoken(*counts)
        assert len(set(found(embeddings, low=number, high=number).tolist())) == number


def test_binding_bounds_limit_the_number() -> None:
    embeddings, _ = spoken(20, 20, 20, 20)
    assert found(embeddings, high=3).max() + 1 == 3
    assert found(embeddings, low=6).max() + 1 == 6
    assert found(embeddings, low=2, high=9).max() + 1 == 4


def test_expectations_only_shift_what_is_evident() -> None:
    embeddings, truth = spoken(*(12,) * 8)
    assert same_partition(found(embeddings, expected_low=2, expected_high=6), truth), "eight clear voices"
    embeddings, truth = spoken(40)
    assert same_partition(found(embeddings, expected_low=2, expected_high=6), truth), "one clear voice"
    alike = between(voice(0), voice(1), 0.58)
    embeddings, truth = spoken(20, 20, 20, voices=[voice(0), alike, voice(2)], spread=0.2)
    assert same_partition(found(embeddings), truth)
    assert same_partition(found(embeddings, expected_high=3), truth)
    assert found(embeddings, expected_high=2).max() + 1 == 2, "the two that are alike count as one"


def test_a_single_embedding_is_one_speaker() -> None:
    assert found(spoken(1)[0], low=3).tolist() == [0]


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    bounds=st.tuples(st.integers(1, 25), st.integers(0, 5)),
    spread=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_the_number_is_always_within_binding_bounds(counts: list[int], bounds: tuple[int, int], spread: float) -> None:
    embeddings, _ = spoken(*counts, spread=spread)
    low, high = bounds[0], bounds[0] + bounds[1]
    speakers = found(embeddings, low=low, high=high)
    assert len(speakers) == len(embeddings)
    assert sorted(set(speakers.tolist())) == list(range(speakers.max() + 1))
    assert speakers.max() + 1 <= high
    if spread > 0:  # equal embeddings cannot be told apart
        assert speakers.max() + 1 >= min(low, len(embeddings))
