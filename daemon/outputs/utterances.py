"""What was said, as subtitles need it: words in milliseconds, grouped by who says them without a long pause."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from daemon.outputs.clauses import CLAUSE, SENTENCE, break_cost, is_closing, parts_characters
from daemon.outputs.text import clean, columns, is_spaced
from daemon.transcript import Segment, Transcript

MAX_PAUSE_MS = 1000  # a cue never stays through a pause longer than this
MAX_INSEPARABLE_CHARACTERS = 24  # of an unspaced script; what is longer is no word but a stutter of the model


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """What no break may divide: a word with its punctuation, or a character of a script that is not spaced."""

    text: str
    columns: int
    start_ms: int
    end_ms: int
    space_before: bool
    break_cost: float  # of beginning a line or a cue with it


@dataclass(frozen=True, slots=True)
class Utterance:
    """Words of one speaker in time order, none overlapping, no long pause between them; never empty."""

    speaker: str | None
    words: list[SpokenWord]


@dataclass(slots=True)
class _Piece:
    text: str
    start_ms: int
    end_ms: int
    space_before: bool
    first_of_segment: bool = False


def utterances(transcript: Transcript) -> list[Utterance]:
    """All that was said, in the order of when it begins."""
    spaced = is_spaced(transcript)
    language = "en" if transcript.task == "translate" else transcript.language
    found: list[tuple[str | None, list[_Piece]]] = []
    for segment in sorted(transcript.segments, key=lambda segment: segment.start):
        speaker = clean(segment.speaker or "") or None
        for piece in _pieces(segment, spaced):
            if not found or found[-1][0] != speaker or piece.start_ms - found[-1][1][-1].end_ms > MAX_PAUSE_MS:
                found.append((speaker, [piece]))
                continue
            last = found[-1][1][-1]
            if _is_one_word(last, piece, spaced):
                last.text += " " * piece.space_before + piece.text
                last.end_ms = max(last.end_ms, piece.end_ms)
                continue
            piece.start_ms = max(piece.start_ms, last.start_ms)
            piece.end_ms = max(piece.end_ms, piece.start_ms)
            last.end_ms = min(last.end_ms, piece.start_ms)
            found[-1][1].append(piece)
    spoken = [Utterance(speaker, _words(pieces, language, spaced)) for speaker, pieces in found]
    return sorted(spoken, key=lambda utterance: utterance.words[0].start_ms)


def _pieces(segment: Segment, spaced: bool) -> Iterator[_Piece]:
    """The segment's words or, where none has been timed, its text divided by length over its time."""
    words = [word for word in segment.words if clean(word.word)]
    if not words:
        yield from _by_length(segment, spaced)
        return
    texts = [clean(word.word) for word in words]
    spaces = _spaces(clean(segment.text), texts, spaced)
    for number, (word, text, space) in enumerate(zip(words, texts, spaces, strict=True)):
        start_ms = round(word.start * 1000)
        yield _Piece(text, start_ms, max(start_ms, round(word.end * 1000)), space, first_of_segment=number == 0)


def _by_length(segment: Segment, spaced: bool) -> Iterator[_Piece]:
    chunks = [[chunk] if spaced else list(chunk) for chunk in clean(segment.text).split()]
    texts = [text for chunk in chunks for text in chunk]
    spaces = [index == 0 for chunk in chunks for index in range(len(chunk))]
    start_ms = round(segment.start * 1000)
    length_ms = max(0, round(segment.end * 1000) - start_ms)
    total = sum(map(len, texts))
    times = [start_ms + length_ms * done // total for done in accumulate(map(len, texts), initial=0)] if texts else []
    for number, (text, space, (begin_ms, end_ms)) in enumerate(zip(texts, spaces, pairwise(times), strict=True)):
        yield _Piece(text, begin_ms, end_ms, space if number else spaced, first_of_segment=number == 0)


def _spaces(text: str, words: list[str], spaced: bool) -> list[bool]:
    """Whether the text has a space before each word: even Japanese has some. Where a word is not found, the custom."""
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


def _is_one_word(last: _Piece, piece: _Piece, spaced: bool) -> bool:
    if piece.space_before:
        return is_closing(piece.text) and last.text[-1].isalnum()
    if spaced:
        return True
    return not parts_characters(last.text, piece.text) and len(last.text) < MAX_INSEPARABLE_CHARACTERS


def _words(pieces: list[_Piece], language: str | None, spaced: bool) -> list[SpokenWord]:
    costs = [SENTENCE, *(_cost(last, piece, language, spaced) for last, piece in pairwise(pieces))]
    return [
        SpokenWord(piece.text, columns(piece.text), piece.start_ms, piece.end_ms, piece.space_before, cost)
        for piece, cost in zip(pieces, costs, strict=True)
    ]


def _cost(last: _Piece, piece: _Piece, language: str | None, spaced: bool) -> float:
    cost = break_cost(last.text, piece.text, language)
    if piece.first_of_segment or (piece.space_before and not spaced):
        cost = min(cost, CLAUSE)  # what is not spaced by custom has a space between phrases
    # Speakers, too, pause where something ends.
    return cost * (1 - (piece.start_ms - last.end_ms) / MAX_PAUSE_MS / 2)
