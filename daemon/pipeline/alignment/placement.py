"""Place words inside detected speech: each in one region, in order, and long enough to be heard. Runs no model."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, pairwise

from daemon.pipeline.types import Chunk, TimedWord
from daemon.schema.punctuation import ends_sentence

Region = tuple[float, float]

# No spoken word is this long; longer times include a pause that the speech detector classified as speech.
MAX_WORD_SECONDS = 2.0
MIN_WORD_SECONDS = 0.02  # shorter words cannot be played, shown or assigned to a speaker

# Of the time that an aligner gives a word, the word itself lasts about this long; the rest is the pause next to it.
SECONDS_PER_CHARACTER = 0.07
MID_SENTENCE_SECONDS = 0.3  # a pause inside a sentence counts like so many seconds of misplaced speech
STRETCHED_SECONDS = (
    0.1  # as much counts a word that ends long after its region: attention adds a pause to the word after it
)


def place(words: Sequence[TimedWord], chunk: Chunk) -> list[TimedWord]:
    """Place each word in the region of speech where it was spoken.

    A word that an aligner stretched over a pause, or put into one, goes to the region that fits its time best; of equal
    ones, to that which puts the pause between sentences. Without regions, the whole chunk counts as speech.
    """
    regions = chunk.part(chunk.start, chunk.end).regions or ((chunk.start, chunk.end),)
    chosen = _fit(_choose_regions(words, regions), regions)
    placed: list[TimedWord] = []
    for index, group in groupby(zip(chosen, words, strict=True), key=lambda pair: pair[0]):
        placed += _in_order([word for _, word in group], *regions[index])
    return placed


def _choose_regions(words: Sequence[TimedWord], regions: Sequence[Region]) -> list[int]:
    """Choose each word's region, in order, so that the sum of all misplacements is minimal."""
    pauses = [after[0] - before[1] for before, after in pairwise(regions)]
    costs = [0.0] * len(regions)  # of all words so far, with the last one in this region
    origins: list[list[int]] = []  # per word and its region: the region of the word before
    for index, word in enumerate(words):
        break_cost = _break_cost(words[index - 1].text) if index > 0 else 0.0
        origin = list(range(len(regions)))
        for region, pause in enumerate(pauses, 1):
            # Half of the pause at most, so that a word that lies in speech stays there.
            crossed = costs[region - 1] + min(break_cost, pause / 2)
            if crossed < costs[region]:
                costs[region], origin[region] = crossed, origin[region - 1]
        origins.append(origin)
        costs = [cost + _misplacement(word, *region) for cost, region in zip(costs, regions, strict=True)]
    chosen = []
    region = min(range(len(regions)), key=costs.__getitem__)
    for origin in reversed(origins):
        chosen.append(region)
        region = origin[region]
    return chosen[::-1]


def _break_cost(text: str) -> float:
    """Return the cost of a pause after this word: none after a sentence, half after another punctuation mark."""
    if ends_sentence(text):
        return 0.0
    return MID_SENTENCE_SECONDS if text[-1:].isalnum() else MID_SENTENCE_SECONDS / 2


def _misplacement(word: TimedWord, start: float, end: float) -> float:
    """Return the seconds by which the word's time is outside the region, or its distance from the region."""
    spoken = min(word.end - word.start, len(word.text.strip()) * SECONDS_PER_CHARACTER)
    overlap = min(word.end, end) - max(word.start, start)
    stretched = STRETCHED_SECONDS if word.end - end > spoken else 0.0
    return max(spoken - overlap, 0.0) + stretched  # a negative overlap is the distance


def _fit(chosen: Sequence[int], regions: Sequence[Region]) -> list[int]:
    """Move words out of regions that are too short for so many: to the next one, or back from the last one."""
    counts = [chosen.count(index) for index in range(len(regions))]
    most = [int((end - start) / MIN_WORD_SECONDS) for start, end in regions]
    indexes = range(len(regions))
    for before, after in (*pairwise(indexes), *pairwise(reversed(indexes))):
        extra = max(counts[before] - most[before], 0)
        counts[before] -= extra
        counts[after] += extra
    return [index for index, count in enumerate(counts) for _ in range(count)]


def _in_order(words: Sequence[TimedWord], start: float, end: float) -> list[TimedWord]:
    """Fit the words into their region: in order, without overlap, none too short or too long.

    A word that is too long is cut at its end; the first one at its start, which aligners find less accurately.
    """
    shortest = min(MIN_WORD_SECONDS, (end - start) / len(words))
    ordered: list[TimedWord] = []
    now = start
    for index, word in enumerate(words):
        latest = end - (len(words) - index - 1) * shortest  # leaves room for the other words
        stop = max(min(max(word.end, now + shortest), latest), now)
        begin = max(min(word.start, stop - shortest), now)
        if stop - begin > MAX_WORD_SECONDS:
            begin, stop = (stop - MAX_WORD_SECONDS, stop) if index == 0 else (begin, begin + MAX_WORD_SECONDS)
        ordered.append(replace(word, start=begin, end=stop))
        now = stop
    return ordered
