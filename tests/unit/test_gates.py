"""Which of Whisper's readings are believed."""

import pytest

from daemon.pipeline import gates
from daemon.pipeline.gates import Reading


def reading(
    text: str = " Hello there.", logprob: float = -0.3, no_speech: float = 0.1, tokens: object = None
) -> Reading:
    return Reading(text, [1, 2, 3] if tokens is None else list(tokens), logprob, no_speech)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([7] * 9, False),  # no, no, no …
        ([7] * 10, True),
        ([1, 2, *[7] * 10, 3], False),  # it got out of it
        ([1, 2, *[7] * 20, 3], True),
        ([*[7, 8] * 5, 1, 2, 3], False),  # five callers say hello
        ([*[7, 8] * 10, 1, 2, 3], True),
        ([7, 8] * 4, False),
        ([7, 8] * 5, True),
        ([1, 2, 3, 4] * 3, False),  # said three times: a chorus
        ([1, 2, 3, 4] * 4, True),
        ([9, *range(20), *range(20), *range(20), *range(20)], True),
        (list(range(100)), False),
        ([1, 2, 3, 4, 1, 2, 3, 5] * 3, False),
    ],
)
def test_loops(tokens: list[int], expected: bool) -> None:
    assert gates.is_loop(tokens) is expected


def test_a_good_reading_is_likely_terse_and_no_loop() -> None:
    assert gates.is_good(reading())
    assert not gates.is_good(reading(logprob=-1.1))
    assert not gates.is_good(reading(text=" again and again" * 20))
    assert not gates.is_good(reading(tokens=[7, 8] * 5))


def test_what_is_said_twice_is_no_loop_where_whisper_is_sure_of_it() -> None:
    passage = (  # as Whisper hears it
        " Hello. Oh, hello. I didn't know you were there. Neither did I. Okay, I thought, you know, I heard of deep. This is "
        "Diane and New Jersey. And I'm Sheila and Texas originally from Chicago. Oh, I'm originally from Chicago also."
    )
    assert gates.MAX_COMPRESSION_RATIO < gates.compression_ratio(passage * 2) < gates.MAX_SURE_COMPRESSION_RATIO
    assert gates.is_good(reading(passage * 2, logprob=-0.2))
    assert not gates.is_good(reading(passage * 2, logprob=-0.5))
    assert not gates.is_good(reading(passage * 4, logprob=-0.1))


def test_the_best_of_bad_readings_is_the_likeliest_that_does_not_loop() -> None:
    loop, unlikely, likelier = reading(logprob=-0.1, tokens=[7] * 30), reading(logprob=-2), reading(logprob=-1.5)
    assert gates.best([loop, unlikely, likelier]) is likelier
    assert gates.best([loop]) is loop


def test_silence_takes_evidence() -> None:
    assert gates.is_silence(reading(logprob=-1.2, no_speech=0.9))
    assert not gates.is_silence(reading(logprob=-1.2, no_speech=0.5))
    assert not gates.is_silence(reading(no_speech=0.9), steady=True)  # words that stand for themselves


@pytest.mark.parametrize(
    "text", [" Thank you.", " Thanks for watching!", " ...", " ご視聴ありがとうございました。", " You"]
)
def test_a_phrase_is_left_out_only_with_evidence(text: str) -> None:
    assert gates.is_silence(reading(text, no_speech=0.9), steady=True)
    assert not gates.is_silence(reading(text, no_speech=0.9), steady=False)  # the sound moves as speech does
    assert not gates.is_silence(reading(text, no_speech=0.1), steady=True)  # Whisper hears somebody


def test_the_text_of_the_chunk_before_is_suspicious_where_whisper_is_unsure() -> None:
    announcement = " Your call is important to us."
    assert gates.repeats(reading(announcement, logprob=-0.8), "your call is important to us")
    assert not gates.repeats(reading(announcement), announcement)  # announcements do come twice
    assert not gates.repeats(reading(announcement, logprob=-0.8), " Please hold the line.")
    assert not gates.repeats(reading("", logprob=-0.8), "")
    unsure = reading(announcement, no_speech=0.9)
    assert gates.is_silence(unsure, announcement, steady=True)
    assert not gates.is_silence(unsure, announcement)
    assert not gates.is_silence(unsure, "", steady=True)


def test_what_detection_passed_over_must_surely_be_speech() -> None:
    assert gates.is_surely_speech(reading())
    for doubt in (
        reading(logprob=-0.7),
        reading(no_speech=0.4),
        reading(tokens=[1]),
        reading(" Thank you."),
        reading(tokens=[7] * 10),
    ):
        assert not gates.is_surely_speech(doubt)


def test_an_unsure_text_on_a_steady_sound_is_silence() -> None:
    assert gates.is_silence(reading(" You", logprob=-2.1, no_speech=0.1), steady=True)
    assert not gates.is_silence(reading(" You", logprob=-2.1, no_speech=0.1), steady=False)
