"""Assign speakers to words and sentences."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

from daemon.pipeline.types import TimedWord, Turn
from daemon.schema.options import JobOptions

# Shorter overlaps are not overlapped speech: at a speaker change, the turns overlap by a few frames of the model.
MIN_OVERLAP_SECONDS = 0.1


class Timeline:
    """Speaker turns, indexed for lookups by interval. A lookup takes time proportional to the turns nearby."""

    def __init__(self, turns: Iterable[Turn], overlaps: Sequence[tuple[float, float]] = ()) -> None:
        """Index the turns. `overlaps` are the spans of overlapped speech, from `overlapped`."""
        self._overlaps = overlaps
        self._turns = sorted(turns, key=lambda turn: turn.start)
        self._starts = [turn.start for turn in self._turns]
        # Latest end of all turns so far: tells a search to the left when to stop, even if turns overlap.
        self._ends = list(accumulate((turn.end for turn in self._turns), max))

    def speaker(self, start: float, end: float) -> str | None:
        """Return the speaker with most speech from start to end, else of the nearest turn; None without turns."""
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
        """Whether speech overlaps at any time from start to end."""
        index = bisect_right(self._overlaps, start, key=lambda overlap: overlap[1])
        return index < len(self._overlaps) and (self._overlaps[index][0] < end or self._overlaps[index][0] <= start)


def overlapped(turns: Iterable[Turn]) -> list[tuple[float, float]]:
    """Return the spans with more than one speaker, in order."""
    spans = [turn for turn in turns if turn.start < turn.end]
    # At equal times, ends sort before starts.
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
    """Label each word with its speaker and whether other speech overlaps it."""
    return [
        replace(
            word,
            speaker=timeline.speaker(word.start, word.end),
            overlap=timeline.is_overlapped(word.start, word.end),
        )
        for word in words
    ]


def majority(words: Sequence[TimedWord]) -> str | None:
    """Return the speaker with the longest total word duration; of equal ones, the first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for word in words:
        if word.speaker is not None:
            # Give a word of zero length a minimum weight.
            seconds[word.speaker] += max(word.end - word.start, 0.001)
    return max(seconds, key=seconds.__getitem__, default=None)


def in_order_of_appearance(labels: Iterable[str | None]) -> dict[str, str]:
    """Map labels to the public names SPEAKER_00, SPEAKER_01, … in order of first appearance."""
    names: dict[str, str] = {}
    for label in labels:
        if label is not None and label not in names:
            names[label] = f"SPEAKER_{len(names):02d}"
    return names


def unmet_bound(options: JobOptions, found: int) -> str | None:
    """Describe the first bound of the job that the number of speakers does not meet; None if it meets all.

    Ignores the deployment's defaults: they limit the search, and promise nothing about one recording. The transcript has
    fewer speakers than the diarization where someone speaks no word, or only words of another's sentence.
    """
    for name in options.own_speaker_bounds:
        bound = getattr(options, name)
        too_few = name != "max_speakers" and found < bound
        too_many = name != "min_speakers" and found > bound
        if too_few or too_many:
            number = "1 speaker" if found == 1 else f"{found} speakers"
            return f"{name} is {bound}, but the transcript has {number}"
    return None
