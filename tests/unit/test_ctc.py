"""The CTC path on inputs with a known result. Comparison with whisperx: tests/integration/test_alignment.py."""

import numpy as np
import pytest

from daemon.pipeline.alignment.ctc import WILDCARD, find_path


def heard(*tokens: int) -> np.ndarray:
    """Return log probabilities over three tokens: 0.9 for the given one in each frame, 0.05 for the others."""
    return np.log(np.full((len(tokens), 3), 0.05, np.float32) + 0.85 * np.eye(3, dtype=np.float32)[list(tokens)])


def test_token_lasts_until_the_next_one() -> None:
    path = find_path(heard(0, 0, 1, 0, 2, 0, 0), [1, 2], blank=0)
    assert path is not None
    assert path.starts.tolist() == [2, 4]
    assert path.ends.tolist() == [4, 5]
    assert path.scores == pytest.approx([0.9, 0.9])


def test_score_is_the_mean_over_the_frames() -> None:
    path = find_path(heard(1, 2, 0, 1), [1, 1, 1], blank=0)
    assert path is not None
    assert path.starts.tolist() == [0, 1, 3]
    assert path.scores == pytest.approx([0.9, (0.05 + 0.9) / 2, 0.9])


def test_repeated_token_is_entered_twice() -> None:
    path = find_path(heard(1, 0, 1), [1, 1], blank=0)
    assert path is not None
    assert path.starts.tolist() == [0, 2]


def test_wildcard_matches_any_token_but_the_blank() -> None:
    path = find_path(heard(2, 0, 2, 1, 2), [WILDCARD, 0, WILDCARD], blank=2)
    assert path is not None
    assert path.starts[-1] == 3
    assert path.scores[-1] == pytest.approx(0.9)


@pytest.mark.parametrize("tokens", [[], [1, 1, 1]], ids=["no token", "more tokens than frames"])
def test_there_may_be_no_path(tokens: list[int]) -> None:
    assert find_path(heard(1, 1), tokens, blank=0) is None
