"""Convert a transcript for subtitles: words in milliseconds, grouped into utterances by speaker and long pauses."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from daemon.outputs.subtitles.clauses import CLAUSE, SENTENCE, break_cost, is_closing, parts_characters
from daemon.outputs.text import clean, columns, is_spaced, needs_space, written_language
from daemon.schema.transcript import Segment, Transcript

MAX_PAUSE_MS = 1000  # a cue never spans a longer pause
MAX_INSEPARABLE_CHARACTERS = 24  # in an unspaced script; longer runs are not words but repetitions by the model


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """An unbreakable unit: a word with its punctuation, or a character of an unspaced script."""

    text: str
    columns: int
    start_ms: int
    end_ms: int
    space_before: bool
    break_cost: float  # of starting a line or a cue with this word
    language: str


@dataclass(frozen=True, slots=True)
class Utterance:
    """Words of one speaker in time order, without overlaps or long pauses; never empty."""

    speaker: str | None
    words: list[SpokenWord]


@dataclass(slots=True)
class _Token:
    text: str
    start_ms: int
    end_ms: int
    space_before: bool  # at the start of a segment, decided when its predecessor is known
    language: str
    first_of_segment: bool


def utterances(transcript: Transcript) -> list[Utterance]:
    """Return all utterances, sorted by start."""
    found: list[tuple[str | None, list[_Token]]] = []
    for segment in sorted(transcript.segments, key=lambda segment: segment.start):
        speaker = clean(segment.speaker or "") or None
        for token in _tokens(segment, written_language(transcript, segment)):
            if not found or found[-1][0] != speaker or token.start_ms - found[-1][1][-1].end_ms > MAX_PAUSE_MS:
                found.append((speaker, [token]))
                continue
            last = found[-1][1][-1]
            if token.first_of_segment:
                before = "".join(said.text for said in found[-1][1][-3:])  # a sign, its stop and a closing quote
                after = clean(segment.text) or token.text
                token.space_before = needs_space(before, after, last.language, token.language)
            if _is_one_word(last, token):
                last.text += " " * token.space_before + token.text
                last.end_ms = max(last.end_ms, token.end_ms)
                continue
            token.start_ms = max(token.start_ms, last.start_ms)
            token.end_ms = max(token.end_ms, token.start_ms)
            last.end_ms = min(last.end_ms, token.start_ms)
            found[-1][1].append(token)
    spoken = [Utterance(speaker, _words(tokens)) for speaker, tokens in found]
    return sorted(spoken, key=lambda utterance: utterance.words[0].start_ms)


def _tokens(segment: Segment, language: str) -> Iterator[_Token]:
    """Yield the segment's words. If none is timed, distribute its text over its duration by length."""
    words = [word for word in segment.words if clean(word.word)]
    if not words:
        yield from _by_length(segment, language)
        return
    texts = [clean(word.word) for word in words]
    spaces = _spaces(clean(segment.text), texts, is_spaced(language))
    for number, (word, text, space) in enumerate(zip(words, texts, spaces, strict=True)):
        start_ms = round(word.start * 1000)
        yield _Token(text, start_ms, max(start_ms, round(word.end * 1000)), space, language, number == 0)


def _by_length(segment: Segment, language: str) -> Iterator[_Token]:
    chunks = [[chunk] if is_spaced(language) else list(chunk) for chunk in clean(segment.text).split()]
    texts = [text for chunk in chunks for text in chunk]
    spaces = [index == 0 for chunk in chunks for index in range(len(chunk))]
    start_ms = round(segment.start * 1000)
    length_ms = max(0, round(segment.end * 1000) - start_ms)
    total = sum(map(len, texts))
    times = [start_ms + length_ms * done // total for done in accumulate(map(len, texts), initial=0)] if texts else []
    for number, (text, space, (begin_ms, end_ms)) in enumerate(zip(texts, spaces, pairwise(times), strict=True)):
        yield _Token(text, begin_ms, end_ms, space, language, number == 0)


def _spaces(text: str, words: list[str], spaced: bool) -> list[bool]:
    """Find out whether each word has a space before it; even Japanese has some. Words not found use the default."""
    spaces = []
    position = 0
    for word in words:
        begin = text.find(word, position)
        if position == 0 or begin < 0 or text[position:begin].strip():
            spaces.append(spaced)
        else:
            spaces.append(begin > position)
        if begin >= 0 and not text[position:begin].strip():
            position = begin + len(word)
    return spaces


def _is_one_word(last: _Token, token: _Token) -> bool:
    if token.space_before:
        return is_closing(token.text) and last.text[-1].isalnum()
    if is_spaced(token.language):
        return True
    return not parts_characters(last.text, token.text) and len(last.text) < MAX_INSEPARABLE_CHARACTERS


def _words(tokens: list[_Token]) -> list[SpokenWord]:
    costs = [SENTENCE, *(_cost(last, token) for last, token in pairwise(tokens))]
    return [
        SpokenWord(
            token.text, columns(token.text), token.start_ms, token.end_ms, token.space_before, cost, token.language
        )
        for token, cost in zip(tokens, costs, strict=True)
    ]


def _cost(last: _Token, token: _Token) -> float:
    cost = break_cost(last.text, token.text, token.language)
    if token.first_of_segment or (token.space_before and not is_spaced(token.language)):
        cost = min(cost, CLAUSE)  # unspaced scripts put spaces between phrases
    # Speakers also pause at the ends of phrases and sentences.
    return cost * (1 - (token.start_ms - last.end_ms) / MAX_PAUSE_MS / 2)
