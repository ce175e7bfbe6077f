"""Forced alignment with CTC: the most likely way through a text, given a model's log probabilities. No model is involved.

The recurrence, the ties and the wildcard are those of whisperx 3.8.6 (`get_trellis`, `backtrack`, `merge_repeats`), after
PyTorch's forced alignment tutorial, so that both find the same path through the same emissions; tests hold that. A token
is entered in one frame and kept by blanks until the next one is entered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WILDCARD = -1  # a token that stands for any sound: as likely as the likeliest token but the blank


@dataclass(frozen=True, slots=True)
class Path:
    """One entry for each token. A token's frames are `starts` to `ends`, the end not included."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray  # mean probability over the token's frames, blanks among them


def find_path(log_probs: np.ndarray, tokens: Sequence[int], blank: int) -> Path | None:
    """The most likely path; None where there is none: no token at all, or fewer frames than tokens.

    `log_probs` is float32, frames × vocabulary. Tokens are its columns, or WILDCARD. What is not said before the first
    token counts as blank; what comes after the last is left out.
    """
    if not tokens or len(tokens) > len(log_probs):
        return None
    stay = log_probs[:, blank]
    enter = _with_wildcard(log_probs, blank)[:, tokens]
    trellis = _trellis(stay, enter)
    end = int(trellis[:, -1].argmax())
    starts = _backtrack(trellis[: end + 1], stay, enter)
    if starts is None:
        return None
    ends = np.append(starts[1:], end)
    probabilities = np.exp(stay[:end]).astype(np.float64)
    probabilities[starts] = np.exp(enter[starts, np.arange(len(tokens))])
    scores = np.add.reduceat(probabilities, starts) / (ends - starts)
    return Path(starts, ends, scores)


def _with_wildcard(log_probs: np.ndarray, blank: int) -> np.ndarray:
    """One more column, which WILDCARD as an index means."""
    return np.column_stack([log_probs, np.delete(log_probs, blank, axis=1).max(axis=1)])


def _trellis(stay: np.ndarray, enter: np.ndarray) -> np.ndarray:
    """Log probability of being in token j - 1 after t frames at [t, j]; before the first token at [t, 0].

    Vectorised over the tokens, since each frame needs the one before it.
    """
    frames, tokens = enter.shape
    trellis = np.full((frames + 1, tokens + 1), -np.inf, np.float32)
    trellis[0, 0] = 0
    # PyTorch sums in float64 and rounds; with float32 sums the last bits, and so ties, would differ from whisperx's.
    trellis[1:, 0] = np.cumsum(stay, dtype=np.float64)
    stayed, entered = np.empty((2, tokens), np.float32)
    for now, after, log_stay, log_enter in zip(trellis[:-1], trellis[1:], stay, enter, strict=True):
        np.add(now[1:], log_stay, out=stayed)
        np.add(now[:-1], log_enter, out=entered)
        np.maximum(stayed, entered, out=after[1:])
    return trellis


def _backtrack(trellis: np.ndarray, stay: np.ndarray, enter: np.ndarray) -> np.ndarray | None:
    """The frame in which each token is entered, on the path that ends in the trellis' last row; staying wins a tie."""
    frames, tokens = len(trellis) - 1, enter.shape[1]
    stayed = trellis[:-1, 1:] + stay[:frames, None]
    entered = (trellis[:-1, :-1] + enter[:frames] > stayed).tobytes()  # bytes are quicker to look into than an array
    starts = np.empty(tokens, np.intp)
    token = tokens - 1
    for frame in range(frames - 1, -1, -1):
        if entered[frame * tokens + token]:
            starts[token] = frame
            if token == 0:
                return starts
            token -= 1
    return None
