"""CTC forced alignment: find the most likely path of a text through a model's log probabilities. Runs no model.

Recurrence, tie-breaking and wildcard match whisperx 3.8.6 (`get_trellis`, `backtrack`, `merge_repeats`), which
follows PyTorch's forced alignment tutorial. Both find the same path through the same emissions; tests verify this. A
path enters a token in one frame and stays in it with blanks until it enters the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WILDCARD = -1  # matches any sound: has the probability of the most likely token other than the blank


@dataclass(frozen=True, slots=True)
class AlignmentPath:
    """One entry per token. A token spans the frames from `starts` up to, not including, `ends`."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray  # mean probability over the token's frames, including blanks


def find_path(log_probs: np.ndarray, tokens: Sequence[int], blank: int) -> AlignmentPath | None:
    """Find the most likely path; None if there are no tokens, or fewer frames than tokens.

    `log_probs` is float32, frames × vocabulary. Tokens are column indices or WILDCARD. Frames before the first token
    count as blank; frames after the last token are ignored.
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
    return AlignmentPath(starts, ends, scores)


def _with_wildcard(log_probs: np.ndarray, blank: int) -> np.ndarray:
    """Append a column for WILDCARD, whose index -1 selects it."""
    return np.column_stack([log_probs, np.delete(log_probs, blank, axis=1).max(axis=1)])


def _trellis(stay: np.ndarray, enter: np.ndarray) -> np.ndarray:
    """Compute the trellis: [t, j] is the log probability of being in token j - 1 after t frames, or at j = 0 in none
    yet.

    Vectorized over the tokens, because each frame depends on the previous one.
    """
    frames, tokens = enter.shape
    trellis = np.full((frames + 1, tokens + 1), -np.inf, np.float32)
    trellis[0, 0] = 0
    # PyTorch sums in float64 and rounds; float32 sums would differ from whisperx in the last bits, and so in ties.
    trellis[1:, 0] = np.cumsum(stay, dtype=np.float64)
    stayed, entered = np.empty((2, tokens), np.float32)
    for now, after, log_stay, log_enter in zip(trellis[:-1], trellis[1:], stay, enter, strict=True):
        np.add(now[1:], log_stay, out=stayed)
        np.add(now[:-1], log_enter, out=entered)
        np.maximum(stayed, entered, out=after[1:])
    return trellis


def _backtrack(trellis: np.ndarray, stay: np.ndarray, enter: np.ndarray) -> np.ndarray | None:
    """Return the frame in which each token is entered, on the path to the trellis's last row. Staying wins ties."""
    frames, tokens = len(trellis) - 1, enter.shape[1]
    stayed = trellis[:-1, 1:] + stay[:frames, None]
    entered = (trellis[:-1, :-1] + enter[:frames] > stayed).tobytes()  # indexing bytes is faster than indexing an array
    starts = np.empty(tokens, np.intp)
    token = tokens - 1
    for frame in range(frames - 1, -1, -1):
        if entered[frame * tokens + token]:
            starts[token] = frame
            if token == 0:
                return starts
            token -= 1
    return None
