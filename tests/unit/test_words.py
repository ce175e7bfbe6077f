"""Words and their times: nothing is lost, and no aligner can produce an impossible time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.alignment.placement import place
from daemon.pipeline.alignment.words import (
    AlignedToken,
    attach_marks,
    begin_with_regions,
    fill_times,
    join_parts,
    spread,
)
from daemon.pipeline.types import Chunk, TimedWord
from tests.support.words import ALIGNED_TOKENS, TEXTS, assert_settled, chunks


@given(st.text() | TEXTS.map("".join), st.sampled_from(["en", "ja", None]), chunks())
def test_splitting_and_spreading_keep_every_character(text: str, language: str | None, chunk: Chunk) -> None:
    assert_settled(spread(text, language, chunk), text if text.strip() else "", chunk)


def test_words_are_spread_over_speech_only() -> None:
    words = spread(" one two nineteen four", "en", Chunk(0.0, 10.0, ((0.0, 1.2), (9.0, 10.0))))
    assert [(word.start, word.end) for word in words] == [
        (0.0, pytest.approx(0.367, abs=0.01)),
        (pytest.approx(0.367, abs=0.01), pytest.approx(0.733, abs=0.01)),
        (9.0, pytest.approx(9.511, abs=0.01)),  # the longer part of it
        (pytest.approx(9.511, abs=0.01), 10.0),
    ]


@given(ALIGNED_TOKENS, chunks())
def test_times_are_clamped_whatever_an_aligner_returns(tokens: list[AlignedToken], chunk: Chunk) -> None:
    text = "".join(token.text for token in tokens)
    assert_settled(place(attach_marks(fill_times(tokens, chunk)), chunk), text, chunk)


def test_words_without_a_time_share_the_time_between_their_neighbours() -> None:
    tokens = [
        AlignedToken(" in", 0.0, 1.0),
        AlignedToken(" 19", None, None),
        AlignedToken(" 1984", None, None),
        AlignedToken(" we", 2.0, 2.5),
    ]
    words = fill_times(tokens, Chunk(0.0, 3.0, ((0.0, 3.0),)))
    assert [(word.start, word.end) for word in words] == [
        (0.0, 1.0),
        (1.0, pytest.approx(1 + 1 / 3)),
        (pytest.approx(1 + 1 / 3), 2.0),
        (2.0, 2.5),
    ]


@pytest.mark.parametrize("unknown", [(None, 1.0), (1.0, None), (math.nan, 1.0), (1.0, math.inf)])
def test_incomplete_time_is_ignored(unknown: tuple[float | None, float | None]) -> None:
    words = fill_times([AlignedToken(" a", 0.0, 1.0), AlignedToken(" b", *unknown)], Chunk(0.0, 2.0, ((0.0, 2.0),)))
    assert (words[1].start, words[1].end) == (1.0, 2.0)


@pytest.mark.parametrize(("score", "kept"), [(0.5, 0.5), (1.0001, 1.0), (-0.1, 0.0), (math.nan, None), (None, None)])
def test_a_score_is_from_0_to_1(score: float | None, kept: float | None) -> None:
    [word] = fill_times([AlignedToken(" a", 0.0, 1.0, score)], Chunk(0.0, 2.0, ((0.0, 2.0),)))
    assert word.score == kept


def test_punctuation_is_attached_to_its_word() -> None:
    marks = [TimedWord(text, i, i + 1, 0.5) for i, text in enumerate([" “", "Hello", ",", "”", " (", "he", ")", "."])]
    joined = attach_marks(marks)
    assert [word.text for word in joined] == [" “Hello,”", " (he)."]
    assert [(word.start, word.end) for word in joined] == [(1, 2), (5, 6)]


def test_words_split_by_the_tokenizer_are_joined() -> None:
    parts = [" 3", ".5", " e", "-mail", "s", " “", "No", ".", "”"]
    joined = join_parts([TimedWord(text, i, i + 1, 1 - i / 10) for i, text in enumerate(parts)])
    assert [word.text for word in joined] == [" 3.5", " e-mails", " “", "No", ".", "”"]
    assert (joined[1].start, joined[1].end, joined[1].score) == (2, 5, 0.6)


def test_text_without_a_word_is_kept() -> None:
    [word] = attach_marks([TimedWord(" …", 0.0, 1.0, None), TimedWord(" —", 1.0, 2.0, None)])
    assert word.text == " … —"


@pytest.mark.parametrize(("start", "end"), [(5.0, 5.2), (3.0, 3.4), (0.0, 1.0)])
def test_word_that_is_not_late_keeps_its_start(start: float, end: float) -> None:
    words = [TimedWord(" first", 0.1, 0.4, 0.3), TimedWord(" mm", start, end, 0.3)]
    assert begin_with_regions(words, [(0.0, 1.0), (1.5, 4.0)])[1] == words[1]


def test_first_word_is_moved_to_the_start_of_speech() -> None:
    # Attention started the word late.
    words = [TimedWord(" Hello.", 0.0, 0.8, 0.9), TimedWord(" Hello.", 2.2, 2.6, 0.9)]
    begun = begin_with_regions(words, [(0.0, 0.8), (1.5, 4.0)])
    assert [(word.start, word.end) for word in begun] == [(0.0, 0.8), (1.5, 2.6)]
    assert begin_with_regions(words, []) == words
