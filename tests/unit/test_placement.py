"""Each word lies in the region of speech where it was spoken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.pipeline.alignment.attention import attention_words
from daemon.pipeline.alignment.placement import MAX_WORD_SECONDS, MIN_WORD_SECONDS, place
from daemon.pipeline.alignment.words import AlignedToken
from daemon.pipeline.types import Chunk, TimedWord
from tests.support.words import assert_settled, chunks

PAUSE = Chunk(0.0, 30.0, ((0.0, 10.0), (24.0, 30.0)))


def placed(chunk: Chunk, *words: tuple[str, float, float]) -> list[tuple[str, float, float]]:
    found = place([TimedWord(text, start, end, None) for text, start, end in words], chunk)
    return [(word.text, round(word.start, 3), round(word.end, 3)) for word in found]


WORDS = st.lists(
    st.builds(
        lambda text, start, length: TimedWord(text, start, start + length, None),
        st.sampled_from([" a", " word.", "你", "。", " extraordinarily"]),
        st.floats(0, 40),
        st.floats(0, 20) | st.just(0.0),
    ),
    min_size=1,
    max_size=60,
)


@given(WORDS, chunks())
def test_no_word_lies_outside_speech(words: list[TimedWord], chunk: Chunk) -> None:
    found = place(words, chunk)
    assert_settled(found, "".join(word.text for word in words), chunk)
    again = place(found, chunk)  # a second pass only repeats the first
    times = [time for word in found for time in (word.start, word.end)]
    assert [time for word in again for time in (word.start, word.end)] == pytest.approx(times)


@pytest.mark.parametrize("seconds", [0.5, 0.8, 2, 5, 10, 13.5, 17, 20])
@pytest.mark.parametrize("late", [0.05, 0.5])
def test_first_word_after_a_pause_is_spoken_after_it(seconds: float, late: float) -> None:
    """Attention jumps to the word at the end of the speech before, and leaves it when the next word begins."""
    begin = 10.0 + seconds
    chunk = Chunk(0.0, begin + 5, ((0.0, 10.0), (begin, begin + 5)))
    words = placed(
        chunk, (" Chicago.", 9.3, 10.0), (" Hello", 10.0, begin + late), (" again.", begin + late, begin + 1)
    )
    assert [word[1] >= begin for word in words] == [False, True, True]


def test_first_word_after_a_pause_without_punctuation_is_spoken_after_it() -> None:
    """As Whisper base times "importante Non ho" with 2.4 s between them: both regions fit "Non" almost equally."""
    chunk = Chunk(0.0, 9.0, ((0.0, 3.88), (6.22, 9.0)))
    words = placed(chunk, (" importante", 2.86, 3.7), (" Non", 3.7, 6.38), (" ho", 6.38, 6.5))
    assert words == [(" importante", 2.86, 3.7), (" Non", 6.22, 6.38), (" ho", 6.38, 6.5)]


def test_words_that_attention_passed_over_are_spoken_after_the_pause() -> None:
    """Whisper base on two utterances of the sample call with 5 s between them."""
    tokens = [
        (" also", 7.61, 8.15),
        (".", 8.15, 8.35),
        (" And", 8.35, 8.35),
        (" I'm", 8.35, 15.63),
        (" Sheila", 15.63, 15.87),
    ]
    chunk = Chunk(0.57, 21.18, ((0.57, 8.4), (13.33, 21.18)))
    words = attention_words([AlignedToken(*token) for token in tokens], chunk, "en")
    assert [word.text for word in words] == [" also.", " And", " I'm", " Sheila"]
    assert [word.start > 13.3 for word in words] == [False, True, True, True]
    assert words[2].start == pytest.approx(15.42)


def test_last_word_before_a_pause_is_spoken_before_it() -> None:
    words = placed(PAUSE, (" from", 9.0, 9.4), (" Chicago.", 9.4, 24.1), (" Hello.", 24.1, 24.6))
    assert words == [(" from", 9.0, 9.4), (" Chicago.", 9.4, 10.0), (" Hello.", 24.1, 24.6)]


@pytest.mark.parametrize(
    ("texts", "before"),
    [((" Yes.", " So", " I"), 1), ((" yes", " so.", " I"), 2), (("はい。", "そ", "う"), 1), (("は", "い、", "そ"), 2)],
)
def test_pause_falls_between_sentences_where_times_do_not_decide(texts: tuple[str, str, str], before: int) -> None:
    first, middle, last = texts
    words = placed(PAUSE, (first, 9.0, 9.5), (middle, 16.9, 17.1), (last, 24.5, 24.9))
    assert [word[1] < 24 for word in words].count(True) == before


def test_word_in_speech_stays_there_although_a_sentence_ended_before_it() -> None:
    words = [(" there.", 8.0, 9.0), (" So", 9.6, 9.9), (" I", 24.0, 24.2)]
    assert placed(PAUSE, *words) == words


def test_words_of_no_length_are_made_audible() -> None:
    words = placed(PAUSE, *[(" a", 10.0, 10.0)] * 3, (" b", 24.0, 24.0))
    assert words == [(" a", 9.94, 9.96), (" a", 9.96, 9.98), (" a", 9.98, 10.0), (" b", 24.0, 24.02)]


def test_words_that_do_not_fit_into_their_region_go_to_the_next() -> None:
    chunk = Chunk(0.0, 3.0, ((0.0, 0.05), (2.0, 3.0)))
    found = place([TimedWord(" a", 0.0, 0.01, None)] * 4, chunk)
    assert [word.start >= 2 for word in found] == [False, False, True, True]
    found = place([TimedWord(" a", 0.0, 0.01, None)] * 4, Chunk(0.0, 0.04, ((0.0, 0.04),)))
    assert [word.end - word.start for word in found] == [pytest.approx(0.01)] * 4


def test_word_duration_is_bounded() -> None:
    chunk = Chunk(0.0, 9.0, ((0.0, 9.0),))
    first, last = place([TimedWord(" a", 0.0, 5.0, None), TimedWord(" b", 5.0, 9.0, None)], chunk)
    assert (first.start, first.end) == (5.0 - MAX_WORD_SECONDS, 5.0)
    assert (last.start, last.end) == (5.0, 5.0 + MAX_WORD_SECONDS)
    assert MIN_WORD_SECONDS < MAX_WORD_SECONDS
