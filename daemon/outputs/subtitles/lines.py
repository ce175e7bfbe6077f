"""Divide the words of a cue into lines."""

from collections.abc import Sequence
from itertools import pairwise

from daemon.outputs.subtitles.utterances import SpokenWord

# Cost of a line that deviates from its target width by a full line, in the unit of break costs: a better break is worth
# about a dozen columns.
_IMBALANCE_COST = 30.0
_PYRAMID = 0.1  # growth of the target width per line: wider lower lines cover less of the picture


class LineCounter:
    """Count the lines that words fill, one word at a time."""

    def __init__(self, max_columns: int, label_columns: int) -> None:
        self._max_columns = max_columns
        self._used = label_columns
        self._empty = True
        self.lines = 1
        self.columns = label_columns  # width of all words on one line

    def add(self, word: SpokenWord) -> None:
        space = int(word.space_before and not self._empty)
        if not self._empty and self._used + space + word.columns > self._max_columns:
            self.lines += 1
            self._used = word.columns
        else:
            self._used += space + word.columns
        self._empty = False
        self.columns += space + word.columns


def break_lines(words: Sequence[SpokenWord], max_columns: int, label_columns: int = 0) -> list[list[SpokenWord]]:
    """Break the words into the fewest lines, at good break points and with about equal widths.

    The label takes `label_columns` of the first line. A word wider than a line gets its own line.
    """
    counter = LineCounter(max_columns, label_columns)
    for word in words:
        counter.add(word)
    breaks = _best_breaks(words, max_columns, label_columns, counter)
    return [list(words[begin:end]) for begin, end in pairwise([0, *breaks, len(words)])]


def _best_breaks(words: Sequence[SpokenWord], max_columns: int, label_columns: int, counted: LineCounter) -> list[int]:
    """Find the cheapest breaks line by line. Return the index of the first word of each line except the first."""
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # number of words in the lines so far → cost, breaks
    for line in range(counted.lines):
        share = counted.columns / counted.lines * (1 + _PYRAMID * (line - (counted.lines - 1) / 2))
        longer: dict[int, tuple[float, list[int]]] = {}
        for begin, (cost, breaks) in best.items():
            if begin == len(words):
                continue
            if begin:
                cost, breaks = cost + words[begin].break_cost, [*breaks, begin]
            counter = LineCounter(max_columns, 0 if begin else label_columns)
            for end in range(begin + 1, len(words) + 1):
                counter.add(words[end - 1])
                if counter.lines > 1:
                    break
                total = cost + _IMBALANCE_COST * ((counter.columns - share) / max_columns) ** 2
                if end not in longer or total < longer[end][0]:
                    longer[end] = (total, breaks)
        best = longer
    return best[len(words)][1]
