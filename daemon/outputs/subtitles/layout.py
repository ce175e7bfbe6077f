"""Lay out a transcript as subtitle cues, with their words, times and lines. The format modules write the files.

Follows the BBC Subtitle Guidelines and the Netflix Timed Text Style Guide: cues end at sentence or clause boundaries,
contain one speaker, stay long enough to be read but not longer than a limit, and never overlap.

Times are integer milliseconds, so that rounding in a format cannot make cues overlap.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from daemon.outputs.subtitles.clauses import SENTENCE
from daemon.outputs.subtitles.cues import Cue
from daemon.outputs.subtitles.lines import LineCounter, break_lines
from daemon.outputs.subtitles.utterances import SpokenWord, Utterance, utterances
from daemon.outputs.text import columns
from daemon.schema.options import SubtitleOptions
from daemon.schema.transcript import Transcript

# In the unit of the break costs in clauses.py.
_CUE_COST = 1.0  # per cue: prefers fewer cues if all else is equal
_ROOM_COST = 3.0  # of an empty cue: makes the cues of a sentence about equal in length
_HURRY_COST = 20.0  # of a cue shown for half of its reading time
_MIXED_COST = 6.0  # of a cue that contains the end of one sentence and the start of another

MIN_STEP_MS = 100  # between the starts of consecutive cues, even if the transcript leaves less
MAX_LAG_MS = 1000  # that a cue is delayed for the cue that it interrupts, when speakers overlap
MAX_FLICKER_MS = 500  # a shorter gap would look like flicker, so it is reduced to the minimum gap


@dataclass(frozen=True, slots=True)
class _Limits:
    columns: int  # of a line
    lines: int
    shortest_ms: int
    longest_ms: int
    gap_ms: int
    columns_per_second: float

    @classmethod
    def of(cls, options: SubtitleOptions) -> "_Limits":
        return cls(
            columns=options.max_chars_per_line,
            lines=options.max_lines,
            shortest_ms=round(options.min_duration_seconds * 1000),
            longest_ms=round(options.max_duration_seconds * 1000),
            gap_ms=round(options.min_gap_seconds * 1000),
            columns_per_second=options.max_chars_per_second,
        )

    def reading_ms(self, text_columns: int) -> int:
        """Return the minimum time to show a text of this width."""
        return max(self.shortest_ms, -int(-text_columns * 1000 // self.columns_per_second))


@dataclass(frozen=True, slots=True)
class _Placed:
    """An utterance with its context. Its last cue must end at least one gap before `next_ms`."""

    utterance: Utterance
    next_ms: int
    label: str
    # Another speaker overlaps, whose cue may come between any two cues of this utterance: each needs the label.
    talk_at_once: bool

    def label_at(self, word: int) -> str:
        return self.label if word == 0 or self.talk_at_once else ""


@dataclass(frozen=True, slots=True)
class _Draft:
    """A cue without times and lines."""

    speaker: str | None
    label: str
    words: list[SpokenWord]
    reading_ms: int


def lay_out(transcript: Transcript, options: SubtitleOptions, inline_labels: bool) -> list[Cue]:
    """Lay out the cues, in time order.

    `inline_labels` puts the speaker's name into the text where the speaker changes, for formats with no other place for
    it. Every word is in exactly one cue. Limits hold as far as the words permit: a single word may be wider than a
    line, and speech may be too fast to read.
    """
    limits = _Limits.of(options)
    spoken = utterances(transcript)
    end_seconds = transcript.start_seconds + transcript.duration_seconds
    end_ms = max([round(end_seconds * 1000), *(utterance.words[-1].end_ms for utterance in spoken)])
    placed = _place(spoken, end_ms + limits.gap_ms, inline_labels and options.speaker_labels)
    drafts = [draft for utterance in placed for draft in _cut(utterance, limits)]
    drafts.sort(key=lambda draft: draft.words[0].start_ms)
    return list(_timed(drafts, end_ms, limits))


def _place(spoken: list[Utterance], end_ms: int, labelled: bool) -> Iterator[_Placed]:
    latest_end_ms = 0
    speaker = None
    for utterance, following in zip_longest(spoken, spoken[1:]):
        start_ms, own_end_ms = utterance.words[0].start_ms, utterance.words[-1].end_ms
        next_ms = following.words[0].start_ms if following else end_ms
        talk_at_once = start_ms < latest_end_ms or next_ms < own_end_ms
        named = labelled and utterance.speaker and (utterance.speaker != speaker or talk_at_once)
        label = f"{utterance.speaker}: " if named else ""
        yield _Placed(utterance, max(next_ms, own_end_ms), label, talk_at_once)
        latest_end_ms = max(latest_end_ms, own_end_ms)
        speaker = None if talk_at_once else utterance.speaker


def _cut(placed: _Placed, limits: _Limits) -> list[_Draft]:
    """Split the utterance into cues at good break points. Allow too little reading time only as a last resort."""
    return _cheapest(placed, limits, hurry=False) or _cheapest(placed, limits, hurry=True)


def _cheapest(placed: _Placed, limits: _Limits, hurry: bool) -> list[_Draft]:
    """Find the cheapest cues that hold all words; none if that needs too little reading time and `hurry` is False."""
    words = placed.utterance.words
    costs = {0: 0.0}  # of the words up to here
    last: dict[int, tuple[int, int]] = {}  # end of the best last cue → its start and reading time
    for begin in range(len(words)):
        if begin not in costs:
            continue
        for end, reading_ms, excess, style_cost in _cues_from(begin, placed, limits):
            cost = costs[begin] + style_cost + _HURRY_COST * excess
            if (hurry or not excess) and cost < costs.get(end, math.inf):
                costs[end], last[end] = cost, (begin, reading_ms)
    drafts: list[_Draft] = []
    end = len(words)
    while end in last:
        begin, reading_ms = last[end]
        drafts.append(_Draft(placed.utterance.speaker, placed.label_at(begin), words[begin:end], reading_ms))
        end = begin
    return drafts[::-1]


def _cues_from(begin: int, placed: _Placed, limits: _Limits) -> Iterator[tuple[int, int, float, float]]:
    """Yield every cue that can start with this word as (end, reading_ms, excess, style_cost).

    `end` is the index after the last word. `excess` is the missing reading time relative to the available time.
    """
    words = placed.utterance.words
    counter = LineCounter(limits.columns, columns(placed.label_at(begin)))
    start_ms = words[begin].start_ms
    sentence_inside = False
    for end, word in enumerate(words[begin : begin + limits.columns * limits.lines], begin + 1):
        counter.add(word)
        if end > begin + 1:
            if counter.lines > limits.lines or word.end_ms - start_ms > limits.longest_ms:
                return
            sentence_inside = sentence_inside or word.break_cost == SENTENCE
        is_last = end == len(words)
        next_ms = placed.next_ms if is_last else words[end].start_ms
        break_cost = SENTENCE if is_last else words[end].break_cost
        reading_ms = limits.reading_ms(counter.columns)
        shown_ms = max(1, min(next_ms - limits.gap_ms - start_ms, limits.longest_ms))
        room = max(0.0, 1 - counter.columns / (limits.columns * limits.lines))
        style_cost = break_cost + _CUE_COST + _ROOM_COST * room**2
        if sentence_inside and break_cost != SENTENCE:
            style_cost += _MIXED_COST
        yield end, reading_ms, max(0.0, reading_ms / shown_ms - 1), style_cost


def _timed(drafts: list[_Draft], end_ms: int, limits: _Limits) -> Iterator[Cue]:
    """Time the drafts. No cue starts before its first word, and each stays for its reading time if possible."""
    starts = list(_starts(drafts))
    for draft, (start_ms, next_ms) in zip(drafts, zip_longest(starts, starts[1:]), strict=True):
        wanted_ms = max(draft.words[-1].end_ms, start_ms + draft.reading_ms)
        if next_ms is None:
            free_until_ms = max(end_ms, start_ms + MIN_STEP_MS)
        else:
            # Shrink the gap if it would leave the cue too little time.
            free_until_ms = max(next_ms - limits.gap_ms, (start_ms + next_ms) // 2)
            if free_until_ms - wanted_ms < MAX_FLICKER_MS:
                wanted_ms = free_until_ms
        lines = break_lines(draft.words, limits.columns, columns(draft.label))
        shown_until_ms = min(wanted_ms, free_until_ms, start_ms + limits.longest_ms)
        yield Cue(start_ms, shown_until_ms, draft.speaker, draft.label, lines)


def _starts(drafts: list[_Draft]) -> Iterator[int]:
    """Yield each cue's start: at its first word, or a little later if it interrupts another cue."""
    earliest_ms = said_ms = 0
    for draft in drafts:
        spoken_ms = draft.words[0].start_ms
        start_ms = max(spoken_ms, earliest_ms, min(said_ms, spoken_ms + MAX_LAG_MS))
        yield start_ms
        earliest_ms = start_ms + MIN_STEP_MS
        said_ms = draft.words[-1].end_ms
