"""Numbers in words: none is lost."""

from functools import partial

import pytest

from daemon.pipeline.alignment.words import split_words
from daemon.pipeline.asr.numerals import has_numerals, keeps_numbers


@pytest.mark.parametrize("text", ["1984", " 5", "$", "50%", "a1", "٣"])
def test_numerals(text: str) -> None:
    assert has_numerals(text)


@pytest.mark.parametrize("text", ["", " five", "二十", ",", "I.", "½"])
def test_no_numerals(text: str) -> None:
    assert not has_numerals(text)


@pytest.mark.parametrize(
    ("digits", "words", "kept"),
    [
        ("In 1984 there were 25.", "In nineteen eighty-four there were twenty-five.", True),
        ("They paid $300 each.", "They paid three hundred dollars each.", True),
        ("Im Jahr 1984 kam er.", "Im Jahr neunzehnhundertvierundachtzig kam er.", True),
        ("In 1984 there were 25 people.", "In nineteen eighty-four there were people.", False),
        ("I have 3 of them.", "I have of them.", False),
        ("I have 3 of them.", "I have three.", False),  # the surrounding text is missing as well
        ("Call 555 1234 now.", "Call five now.", False),
        ("In 1984.", "In 1984.", False),
        ("In 1984.", "", False),
    ],
)
def test_missing_number_is_detected(digits: str, words: str, kept: bool) -> None:
    assert keeps_numbers(digits, words, partial(split_words, language="en")) is kept


def test_numbers_in_languages_without_spaces() -> None:
    split = partial(split_words, language="zh")
    assert keeps_numbers("我有3个", "我有三个", split)
    assert not keeps_numbers("我有3个", "我有个", split)
