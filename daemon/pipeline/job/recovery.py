"""Find detected speech that the text of a chunk left out, and insert what Whisper recognizes in it alone.

Whisper may end the text of a chunk at a pause, or omit the first sentence after one. Runs no model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from daemon.pipeline.alignment.placement import SECONDS_PER_CHARACTER, Region
from daemon.pipeline.asr import filters
from daemon.pipeline.types import Chunk, Passage, TimedWord

MIN_REGION_SECONDS = 0.5  # a shorter region without words is usually a cough
# Shortest part of a region with words that is decoded again. Attention times a first word up to 1 s late.
MIN_PART_SECONDS = 1.2
USUAL_PAUSE_SECONDS = 0.2  # that a word's time includes
MAX_STRETCHED_WORDS = 3  # at the start of a region; attention distributes the omitted speech over so many words
MARGIN_SECONDS = 0.2  # decoded before and after the speech, where no other speech is

MIN_SIMILARITY = 0.75  # of texts, to count as the same speech

Tokenize = Callable[[str], list[int]]


@dataclass(slots=True)
class Decoded:
    """The passages of each chunk of a group, and the speech in which Whisper recognized nothing."""

    passages: list[list[Passage]]
    unrecognized: list[Region] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Omission:
    """A part of a passage's speech without words. `chunk` is the audio to decode, with one region.

    `draft` is a copy of the passage to insert text into, shared by all omissions of the passage.
    """

    passage: Passage
    draft: Passage
    chunk: Chunk


def omissions(passage: Passage, chunk: Chunk, *, parts: bool) -> list[Omission]:
    """Return the regions of the chunk without words, and with `parts` also long parts of regions without any.

    A chunk of one region without words has been decoded alone already.
    """
    if not passage.words and len(chunk.regions) == 1:
        return []
    words = _tightened(passage.words, chunk.regions) if parts else passage.words
    draft = replace(passage, words=words)
    return [
        Omission(passage, draft, _with_margins(chunk, words, start, end, passage.language))
        for start, end in _uncovered(chunk, words, parts)
    ]


def _tightened(words: Sequence[TimedWord], regions: Sequence[Region]) -> list[TimedWord]:
    """Shorten words that attention stretched over omitted speech: the first ones of a region, or any other alone.

    The first ones end where they did, because the speech before them was omitted; others start where they did.
    """
    firsts = {next((at for at, word in enumerate(words) if word.end > start), None) for start, _ in regions}
    tightened: list[TimedWord] = []
    while len(tightened) < len(words):
        at = len(tightened)
        if at in firsts:
            stop = min(later for later in (*firsts, len(words)) if later is not None and later > at)
            ends = range(at + 1, min(stop, at + MAX_STRETCHED_WORDS) + 1)
            run = max((words[at:end] for end in ends), key=_excess_seconds)
            tightened += _ending_as_before(run) if _excess_seconds(run) >= MIN_PART_SECONDS else [words[at]]
        elif _excess_seconds([words[at]]) >= MIN_PART_SECONDS:
            tightened.append(replace(words[at], end=words[at].start + _usual_seconds(words[at])))
        else:
            tightened.append(words[at])
    return tightened


def _excess_seconds(run: Sequence[TimedWord]) -> float:
    return run[-1].end - run[0].start - sum(map(_usual_seconds, run))


def _usual_seconds(word: TimedWord) -> float:
    return len(word.text.strip()) * SECONDS_PER_CHARACTER + USUAL_PAUSE_SECONDS


def _ending_as_before(run: Sequence[TimedWord]) -> list[TimedWord]:
    """Return the words without the pauses between them."""
    placed: list[TimedWord] = []
    end = run[-1].end
    for word in reversed(run):
        placed.append(replace(word, start=end - _usual_seconds(word), end=end))
        end = placed[-1].start
    return placed[::-1]


def _uncovered(chunk: Chunk, words: Sequence[TimedWord], parts: bool) -> list[Region]:
    found: list[Region] = []
    for start, end in chunk.regions:
        borders = [time for word in words if word.start < end and start < word.end for time in (word.start, word.end)]
        if borders:
            spans = list(zip([start, *borders[1::2]], [*borders[::2], end], strict=True)) if parts else []
            found += [(begin, stop) for begin, stop in spans if stop - begin >= MIN_PART_SECONDS]
        elif end - start > MIN_REGION_SECONDS:
            found.append((start, end))
    return found


def _with_margins(chunk: Chunk, words: Sequence[TimedWord], start: float, end: float, language: str) -> Chunk:
    """Return the part of the chunk to decode: the speech, and some of the pause next to it, but no other speech."""
    spoken = [*chunk.regions, *((word.start, word.end) for word in words)]
    before = max([chunk.start, *(stop for _, stop in spoken if stop <= start)])
    after = min([chunk.end, *(begin for begin, _ in spoken if begin >= end)])
    part = chunk.part(max(before, start - MARGIN_SECONDS), min(after, end + MARGIN_SECONDS))
    return replace(part, language=language)


def claim(omission: Omission, found: Passage, tokenize: Tokenize) -> None:
    """Move the words next to the omission into it if the same was recognized there: only their times were wrong."""
    words = omission.draft.words
    if same := _same_words(omission, found.text):
        first, end = same
        found.text = _text(words[first:end])
        found.tokens = tokenize(found.text)
        omission.draft.words = [*words[:first], *words[end:]]


def _same_words(omission: Omission, text: str) -> tuple[int, int] | None:
    """Find the text among the words before and after the omission. Return its place.

    Words that are the only ones in their region stay: people do repeat words.
    """
    words = omission.draft.words
    [(start, _)] = omission.chunk.regions
    at = sum(word.start < start for word in words)
    spans = [(first, at) for first in range(at)] + [(at, end) for end in range(at + 1, len(words) + 1)]
    similarity, first, end = max(
        ((_similarity(_text(words[first:end]), text), first, end) for first, end in spans), default=(0.0, 0, 0)
    )
    return (first, end) if similarity >= MIN_SIMILARITY and _covers_as_much(omission.draft, first, end) else None


def _covers_as_much(passage: Passage, first: int, end: int) -> bool:
    """Whether the passage covers the same regions without these words."""
    rest = [*passage.words[:first], *passage.words[end:]]
    return len(_uncovered(passage.chunk, rest, False)) == len(_uncovered(passage.chunk, passage.words, False))


def assemble(
    passages: Sequence[Passage], missed: Sequence[Omission], found: Sequence[Passage], tokenize: Tokenize
) -> Decoded:
    """Insert the texts found for the omissions into the passages, and list the speech for which none was found."""
    decoded = Decoded([])
    for passage in passages:
        pairs = [(it.draft, text) for it, text in zip(missed, found, strict=True) if it.passage is passage]
        texts = [text for _, text in pairs]
        recognized = [text for text in texts if text.text.strip()]
        decoded.passages.append(insert(pairs[0][0], recognized, tokenize) if recognized else [passage])
        if passage.text or recognized:  # otherwise the whole chunk was rejected
            silent = [text.chunk.regions[0] for text in texts if not text.text.strip()]
            decoded.unrecognized += [region for region in silent if region in passage.chunk.regions]
    return decoded


def recover_plainly(
    window: Chunk, passages: list[Passage], decode: Callable[[Chunk], list[Passage]], tokenize: Tokenize
) -> Decoded:
    """Decode the speech of a window that has no words again, alone, and insert its text; in basic mode.

    Without words, a passage counts as spoken from its start to its end.
    """
    spans = [TimedWord(it.text, it.chunk.start, it.chunk.end, None) for it in passages if not it.words]
    words = sorted([*spans, *(word for it in passages for word in it.words)], key=lambda word: word.start)
    whole = Passage(window, "", None, language="", words=words)
    decoded = Decoded([passages])
    for omission in omissions(whole, window, parts=False):
        found = [it for it in decode(omission.chunk) if _is_probable(it)]
        start, end = omission.chunk.regions[0]
        if not found:
            decoded.unrecognized.append((start, end))
            continue
        if _same_words(omission, "".join(it.text for it in found)):
            continue
        parts = [part for it in passages for part in _split(it, start, end, tokenize)]
        passages[:] = sorted([*parts, *found], key=lambda it: it.chunk.start)
    return decoded


def _is_probable(passage: Passage) -> bool:
    """Whether a passage of basic mode passes the filters for texts of silence."""
    sure = passage.avg_logprob is None or passage.avg_logprob >= filters.MIN_AVG_LOGPROB
    return sure and not filters.is_loop(passage.tokens) and not filters.is_silence_phrase(passage.text)


def _split(passage: Passage, start: float, end: float, tokenize: Tokenize) -> list[Passage]:
    """Split a passage that has words before `start` and after `end`."""
    before = [word for word in passage.words if word.start < start]
    after = passage.words[len(before) :]
    if not before or not after:
        return [passage]
    return [
        *_part(passage, before, passage.chunk.start, start, tokenize),
        *_part(passage, after, end, passage.chunk.end, tokenize),
    ]


def insert(passage: Passage, found: Sequence[Passage], tokenize: Tokenize) -> list[Passage]:
    """Split the passage where text was found, and insert that text. `found` is in order, with one region each."""
    passages: list[Passage] = []
    words = passage.words
    now = passage.chunk.start
    for it in found:
        start, end = it.chunk.regions[0]
        count = sum(word.start < start for word in words)
        passages += [*_part(passage, words[:count], now, start, tokenize), it]
        words, now = words[count:], end
    return passages + _part(passage, words, now, passage.chunk.end, tokenize)


def _part(passage: Passage, words: list[TimedWord], start: float, end: float, tokenize: Tokenize) -> list[Passage]:
    """Return the part of the passage with these words, if there are any."""
    if not words:
        return []
    regions = passage.chunk.part(start, end).regions
    chunk = passage.chunk.part(regions[0][0], regions[-1][1]) if regions else passage.chunk.part(start, end)
    text = _text(words)
    return [replace(passage, chunk=chunk, text=text, tokens=tokenize(text), words=words)]


def _similarity(text: str, other: str) -> float:
    """Return how similar two texts are, from 0 to 1, ignoring case, spaces and punctuation."""
    matcher = SequenceMatcher(None, _plain(text), _plain(other), autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() >= MIN_SIMILARITY else 0.0


def _text(words: Sequence[TimedWord]) -> str:
    return "".join(word.text for word in words)


def _plain(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())
