"""The measures on transcripts whose errors can be counted by hand."""

import pytest

from bench.measures import (
    diarization_error_rate,
    diarization_errors,
    speaker_word_error_rate,
    speaker_word_errors,
    start_errors,
    tokens,
    word_error_rate,
    word_errors,
)
from bench.reference import Sentence
from daemon.pipeline.types import Turn


def test_punctuation_case_and_spelling_are_ignored() -> None:
    assert tokens("Well, I DON'T know!") == ["well", "i", "do", "not", "know"]
    assert word_error_rate(["Don't go, Mr. Grey."], ["do not go mister gray"]) == 0


def test_words_are_counted_over_all_texts() -> None:
    # One substitution, one deletion and one insertion in six words.
    assert word_error_rate(["red green blue", "black white pink"], ["red greet blue", "white pink gold"]) == 3 / 6


def test_errors_do_not_cancel_out_between_texts() -> None:
    assert word_error_rate(["red green", "blue black"], ["red", "green blue black"]) == 2 / 4


def test_other_languages_keep_their_words() -> None:
    assert tokens("¡Buenos DÍAS, señor!", "es") == ["buenos", "días", "señor"]
    assert tokens("I don't", "fr") == ["i", "don", "t"], "only English has contractions of its own"


@pytest.mark.parametrize(
    ("hypothesis", "errors"),
    [
        ("red green blue black", (4, 0, 0, 0)),
        ("red black", (4, 0, 2, 0)),
        ("red green blue black thank you", (4, 0, 0, 2)),
        ("red grey blue", (4, 1, 1, 0)),
        ("", (4, 0, 4, 0)),
    ],
)
def test_lost_and_invented_words_are_counted(hypothesis: str, errors: tuple[int, ...]) -> None:
    assert word_errors("Red, green, blue, black.", hypothesis) == errors


def test_words_in_a_recording_without_speech_are_invented() -> None:
    assert word_errors("", "Thank you.") == (0, 0, 0, 2)
    assert word_errors("", "") == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("hypothesis", "errors"),
    [
        ([("x", "red green blue"), ("y", "black white")], 0),  # labels are arbitrary
        ([("x", "red green"), ("y", "blue black white")], 2),  # `blue` is missing there and inserted here
        ([("x", "red green blue"), ("x", "black white")], 4),  # all by one speaker: two insertions, two deletions
        ([("x", "red green blue"), ("y", "black"), ("z", "white")], 2),  # a speaker that is not in the reference
        ([("x", "red green blue"), (None, "black white")], 0),
        ([], 5),
    ],
)
def test_word_must_have_the_right_speaker(hypothesis: list[tuple[str | None, str]], errors: int) -> None:
    said = [("A", "red green"), ("B", "black white"), ("A", "blue")]
    assert speaker_word_error_rate(said, hypothesis) == errors / 5
    assert speaker_word_errors(said, hypothesis) == errors


def test_speakers_are_paired_for_the_fewest_errors_in_total() -> None:
    """The pair with the fewest errors, A and y, is not part of the best pairing."""
    said = [("A", "red green blue"), ("B", "red green blue black white pink")]
    hypothesis = [("x", "red"), ("y", "red green blue black")]
    assert speaker_word_errors(said, hypothesis) == 2 + 2, "pairing A with y has 1 error, but leaves 5 to B and x"


def test_parts_of_the_diarization_error_rate_add_up_over_recordings() -> None:
    said = [Turn(0, 4, "A"), Turn(4, 8, "B")]
    assert diarization_errors(said, [Turn(0, 5, "x"), Turn(5, 8, "y"), Turn(9, 9.5, "y")], 10) == (1.5, 8.0)


def test_time_with_a_wrong_speaker_or_none_is_an_error() -> None:
    said = [Turn(0, 4, "A"), Turn(4, 8, "B")]
    assert diarization_error_rate(said, [Turn(0, 4, "x"), Turn(4, 8, "y")], 10) == 0
    assert diarization_error_rate(said, [Turn(0, 5, "x"), Turn(5, 8, "y")], 10) == 1 / 8  # confusion
    assert diarization_error_rate(said, [Turn(0, 4, "x"), Turn(4, 7, "y")], 10) == 1 / 8  # missed
    assert diarization_error_rate(said, [Turn(0, 4, "x"), Turn(4, 10, "y")], 10) == 2 / 8  # false alarm
    assert diarization_error_rate(said, [Turn(0, 4, "x"), Turn(4, 12, "y")], 10) == 2 / 8  # beyond the end: not counted


def test_delay_of_a_sentence_is_that_of_its_first_word() -> None:
    said = [Sentence(1.0, "Good morning.", "A"), Sentence(3.0, "How are you?", "B"), Sentence(5.0, "Fine.", "A")]
    words = [("Good", 1.2), ("morning,", 1.5), ("How", 2.9), ("are", 3.1), ("you?", 3.2), ("Wine.", 5.0)]
    errors = start_errors(said, words)
    assert errors == [pytest.approx(0.2), pytest.approx(-0.1), None]


def test_empty_hypothesis_has_no_starts() -> None:
    assert start_errors([Sentence(1.0, "Good morning.", "A")], []) == [None]
