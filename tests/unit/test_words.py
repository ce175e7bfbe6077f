"""Words and their times: nothing is lost, and no aligner can make a time that cannot be."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.pieces import Chunk, TimedWord
from daemon.pipeline.words import (
    MAX_WORD_SECONDS,
    Piece,
    attach_marks,
    begin_with_regions,
    clip_to_regions,
    fill_times,
    in_order,
    join_parts,
    limit_length,
    settle,
    spread,
)
from tests.words import PIECES, TEXTS, assert_settled, chunks


@given(st.text() | TEXTS.map("".join), st.sampled_from(["en", "ja", None]), chunks())
def test_splitting_and_spreading_keep_every_character(text: str, language: str | None, chunk: Chunk) -> None:
    assert_settled(spread(text, language, chunk), text if text.strip() else "", chunk)


def test_words_are_spread_over_the_speech_alone() -> None:
    words = spread(" one two nineteen four", "en", Chunk(0.0, 10.0, ((0.0, 1.2), (9.0, 10.0))))
    assert [(word.start, word.end) for word in words] == [
        (0.0, pytest.approx(0.367, abs=0.01)),
        (pytest.approx(0.367, abs=0.01), pytest.approx(0.733, abs=0.01)),
        (9.0, pytest.approx(9.511, abs=0.01)),  # the longer part of it
        (pytest.approx(9.511, abs=0.01), 10.0),
    ]


@given(PIECES, chunks())
def test_times_are_settled_whatever_an_aligner_says(pieces: list[Piece], chunk: Chunk) -> None:
    text = "".join(piece.text for piece in pieces)
    assert_settled(settle(attach_marks(fill_times(pieces, chunk)), chunk), text, chunk)


def test_words_without_a_time_share_the_room_between_their_neighbours() -> None:
    pieces = [Piece(" in", 0.0, 1.0), Piece(" 19", None, None), Piece(" 1984", None, None), Piece(" we", 2.0, 2.5)]
    words = fill_times(pieces, Chunk(0.0, 3.0, ((0.0, 3.0),)))
    assert [(word.start, word.end) for word in words] == [
        (0.0, 1.0),
        (1.0, pytest.approx(1 + 1 / 3)),
        (pytest.approx(1 + 1 / 3), 2.0),
        (2.0, 2.5),
    ]


@pytest.mark.parametrize("unknown", [(None, 1.0), (1.0, None), (math.nan, 1.0), (1.0, math.inf)])
def test_half_a_time_is_none(unknown: tuple[float | None, float | None]) -> None:
    words = fill_times([Piece(" a", 0.0, 1.0), Piece(" b", *unknown)], Chunk(0.0, 2.0, ((0.0, 2.0),)))
    assert (words[1].start, words[1].end) == (1.0, 2.0)


@pytest.mark.parametrize(("score", "kept"), [(0.5, 0.5), (1.0001, 1.0), (-0.1, 0.0), (math.nan, None), (None, None)])
def test_a_score_is_from_0_to_1(score: float | None, kept: float | None) -> None:
    [word] = fill_times([Piece(" a", 0.0, 1.0, score)], Chunk(0.0, 2.0, ((0.0, 2.0),)))
    assert word.score == kept


def test_marks_join_the_word_they_belong_to() -> None:
    marks = [TimedWord(text, i, i + 1, 0.5) for i, text in enumerate([" “", "Hello", ",", "”", " (", "he", ")", "."])]
    joined = attach_marks(marks)
    assert [word.text for word in joined] == [" “Hello,”", " (he)."]
    assert [(word.start, word.end) for word in joined] == [(1, 2), (5, 6)]


def test_words_that_the_tokenizer_cut_are_whole_again() -> None:
    parts = [" 3", ".5", " e", "-mail", "s", " “", "No", ".", "”"]
    joined = join_parts([TimedWord(text, i, i + 1, 1 - i / 10) for i, text in enumerate(parts)])
    assert [word.text for word in joined] == [" 3.5", " e-mails", " “", "No", ".", "”"]
    assert (joined[1].start, joined[1].end, joined[1].score) == (2, 5, 0.6)


def test_text_without_a_word_is_kept() -> None:
    [word] = attach_marks([TimedWord(" …", 0.0, 1.0, None), TimedWord(" —", 1.0, 2.0, None)])
    assert word.text == " … —"


def test_words_leave_the_pauses_and_begin_with_the_speech() -> None:
    # Attention stretched the first word over the pause, and began the next one late.
    words = [TimedWord(" Hello.", 0.0, 1.6, 0.9), TimedWord(" Hello.", 2.2, 2.6, 0.9)]
    regions = [(0.0, 0.8), (1.5, 4.0)]
    clipped = clip_to_regions(words, regions)
    assert [(word.start, word.end) for word in clipped] == [(0.0, 0.8), (2.2, 2.6)]
    begun = begin_with_regions(clipped, regions)
    assert [(word.start, word.end) for word in begun] == [(0.0, 0.8), (1.5, 2.6)]


@pytest.mark.parametrize(("start", "end"), [(5.0, 5.2), (3.0, 3.4), (0.0, 1.0)])
def test_a_word_that_is_not_late_keeps_its_beginning(start: float, end: float) -> None:
    words = [TimedWord(" first", 0.1, 0.4, 0.3), TimedWord(" mm", start, end, 0.3)]
    assert begin_with_regions(words, [(0.0, 1.0), (1.5, 4.0)])[1] == words[1]


def test_a_word_where_no_speech_was_found_keeps_its_time() -> None:
    word = TimedWord(" mm", 5.0, 5.2, 0.3)
    assert clip_to_regions([word], [(0.0, 1.0)]) == [word]
    assert clip_to_regions([word], []) == [word]
    assert begin_with_regions([word], []) == [word]


def test_no_word_lasts_for_ever() -> None:
    first, last = limit_length([TimedWord(" a", 0.0, 5.0, None), TimedWord(" b", 5.0, 9.0, None)])
    assert (first.start, first.end) == (5.0 - MAX_WORD_SECONDS, 5.0)
    assert (last.start, last.end) == (5.0, 5.0 + MAX_WORD_SECONDS)


def test_words_are_put_in_order() -> None:
    ordered = in_order([TimedWord(" a", 0.5, 2.0, None), TimedWord(" b", 1.0, 1.5, None)], 1.0, 3.0)
    assert [(word.start, word.end) for word in ordered] == [(1.0, 2.0), (2.0, 2.0)]
