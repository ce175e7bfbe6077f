"""Puts speakers to words and to sentences."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

from daemon.pipeline.pieces import TimedWord, Turn

# Where one speaker takes over from the other, their turns overlap for a few frames of the model: no overlapped speech.
MIN_OVERLAP_SECONDS = 0.1


class Timeline:
    """Speaker turns that answer who spoke in an interval, in time proportional to what lies near it."""

    def __init__(self, turns: Iterable[Turn], overlaps: Sequence[tuple[float, float]] = ()) -> None:
        """`overlaps` says where several speak at once, as `overlapped` finds it."""
        self._overlaps = overlaps
        self._turns = sorted(turns, key=lambda turn: turn.start)
        self._starts = [turn.start for turn in self._turns]
        # The latest end so far: where a search to the left may stop although turns overlap.
        self._ends = list(accumulate((turn.end for turn in self._turns), max))

    def speaker(self, start: float, end: float) -> str | None:
        """Who speaks most between start and end; if nobody, whose turn is nearest; None without any turn."""
        index = bisect_left(self._starts, end)
        overlaps: defaultdict[str, float] = defaultdict(float)
        for position in range(index - 1, -1, -1):
            if self._ends[position] <= start:
                break
            turn = self._turns[position]
            overlap = min(turn.end, end) - max(turn.start, start)
            if overlap > 0:
                overlaps[turn.speaker] += overlap
        if overlaps:
            return max(overlaps, key=overlaps.__getitem__)
        return self._nearest(start, end, index)

    def _nearest(self, start: float, end: float, index: int) -> str | None:
        after = self._turns[index] if index < len(self._turns) else None
        before = None
        if index:
            last_end = self._ends[index - 1]
            before = next(turn for turn in self._turns[index - 1 :: -1] if turn.end == last_end)
        if before and after:
            return before.speaker if start - before.end <= after.start - end else after.speaker
        nearest = before or after
        return nearest.speaker if nearest else None

    def is_overlapped(self, start: float, end: float) -> bool:
        """Whether several speakers speak at once at any time from start to end."""
        index = bisect_right(self._overlaps, start, key=lambda overlap: overlap[1])
        return index < len(self._overlaps) and (self._overlaps[index][0] < end or self._overlaps[index][0] <= start)


def overlapped(turns: Iterable[Turn]) -> list[tuple[float, float]]:
    """The stretches in which more than one speaker speaks, in order, from turns that may overlap."""
    spans = [turn for turn in turns if turn.start < turn.end]
    # At the same moment a turn ends before another begins.
    borders = sorted((time, step, turn.speaker) for turn in spans for time, step in ((turn.start, 1), (turn.end, -1)))
    active: Counter[str] = Counter()
    found = []
    since = 0.0
    for time, step, speaker in borders:
        before = len(active)
        active[speaker] += step
        if not active[speaker]:
            del active[speaker]
        if before < 2 <= len(active):
            since = time
        elif len(active) < 2 <= before and time - since >= MIN_OVERLAP_SECONDS:
            found.append((since, time))
    return found


def label_words(words: Sequence[TimedWord], timeline: Timeline) -> list[TimedWord]:
    """The words with the speaker of each, and whether somebody else speaks at the same time."""
    return [
        replace(
            word,
            speaker=timeline.speaker(word.start, word.end),
            overlap=timeline.is_overlapped(word.start, word.end),
        )
        for word in words
    ]


def majority(words: Sequence[TimedWord]) -> str | None:
    """Who speaks for most of the words' time; the first of equals."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for word in words:
        if word.speaker is not None:
            # A word without length still counts for something.
            seconds[word.speaker] += max(word.end - word.start, 0.001)
    return max(seconds, key=seconds.__getitem__, default=None)


def in_order_of_appearance(labels: Iterable[str | None]) -> dict[str, str]:
    """Public names SPEAKER_00, SPEAKER_01, … for labels, numbered as they first appear."""
    names: dict[str, str] = {}
    for label in labels:
        if label is not None and label not in names:
            names[label] = f"SPEAKER_{len(names):02d}"
    return names
