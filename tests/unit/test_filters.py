"""Which of Whisper's hypotheses are accepted."""

import pytest

from daemon.pipeline.asr import filters as filters
from daemon.pipeline.asr.filters import Hypothesis


def hypothesis(
    text: str = " Hello there.", logprob: float = -0.3, no_speech: float = 0.1, tokens: object = None
) -> Hypothesis:
    return Hypothesis(text, [1, 2, 3] if tokens is None else list(tokens), logprob, no_speech)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], False),
        ([7] * 9, False),  # no, no, no …
        ([7] * 10, True),
        ([1, 2, *[7] * 10, 3], False),  # it recovered from the loop
        ([1, 2, *[7] * 20, 3], True),
        ([*[7, 8] * 5, 1, 2, 3], False),  # five callers say hello
        ([*[7, 8] * 10, 1, 2, 3], True),
        ([7, 8] * 4, False),
        ([7, 8] * 5, True),
        ([1, 2, 3, 4] * 3, False),  # repeated three times: a chorus
        ([1, 2, 3, 4] * 4, True),
        ([9, *range(20), *range(20), *range(20), *range(20)], True),
        (list(range(100)), False),
        ([1, 2, 3, 4, 1, 2, 3, 5] * 3, False),
    ],
)
def test_loops(tokens: list[int], expected: bool) -> None:
    assert filters.is_loop(tokens) is expected


def test_good_hypothesis_is_likely_concise_and_no_loop() -> None:
    assert filters.is_good(hypothesis())
    assert not filters.is_good(hypothesis(logprob=-1.1))
    assert not filters.is_good(hypothesis(text=" again and again" * 20))
    assert not filters.is_good(hypothesis(tokens=[7, 8] * 5))


def test_text_repeated_twice_is_no_loop_if_whisper_is_confident() -> None:
    passage = (  # Whisper's transcript
        " Hello. Oh, hello. I didn't know you were there. Neither did I. Okay, I thought, you know, I heard of deep. This is "
        "Diane and New Jersey. And I'm Sheila and Texas originally from Chicago. Oh, I'm originally from Chicago also."
    )
    assert filters.MAX_COMPRESSION_RATIO < filters.compression_ratio(passage * 2) < filters.MAX_SURE_COMPRESSION_RATIO
    assert filters.is_good(hypothesis(passage * 2, logprob=-0.2))
    assert not filters.is_good(hypothesis(passage * 2, logprob=-0.5))
    assert not filters.is_good(hypothesis(passage * 4, logprob=-0.1))


def test_best_of_bad_hypotheses_is_the_likeliest_without_a_loop() -> None:
    loop, unlikely, likelier = (
        hypothesis(logprob=-0.1, tokens=[7] * 30),
        hypothesis(logprob=-2),
        hypothesis(logprob=-1.5),
    )
    assert filters.best([loop, unlikely, likelier]) is likelier
    assert filters.best([loop]) is loop


def test_silence_requires_evidence() -> None:
    assert filters.is_silence(hypothesis(logprob=-1.2, no_speech=0.9))
    assert not filters.is_silence(hypothesis(logprob=-1.2, no_speech=0.5))
    assert not filters.is_silence(hypothesis(no_speech=0.9), steady=True)  # its probability is high enough


@pytest.mark.parametrize(
    "text", [" Thank you.", " Thanks for watching!", " ...", " ご視聴ありがとうございました。", " You"]
)
def test_phrase_is_omitted_only_with_evidence(text: str) -> None:
    assert filters.is_silence(hypothesis(text, no_speech=0.9), steady=True)
    assert not filters.is_silence(hypothesis(text, no_speech=0.9), steady=False)  # the level varies as in speech
    assert not filters.is_silence(hypothesis(text, no_speech=0.1), steady=True)  # Whisper detects speech


def test_phrase_in_less_speech_than_it_needs_is_omitted_if_whisper_is_unsure() -> None:
    assert filters.is_silence(hypothesis(" Thank you.", logprob=-0.6), speech_seconds=0.3)
    assert not filters.is_silence(hypothesis(" Thank you.", logprob=-0.6), speech_seconds=0.6)
    assert not filters.is_silence(hypothesis(" Okay.", logprob=-0.2), speech_seconds=0.3)
    assert not filters.is_silence(hypothesis(" No.", logprob=-0.6), speech_seconds=0.3)


def test_repetition_of_the_previous_chunk_is_rejected_if_whisper_is_unsure() -> None:
    announcement = " Your call is important to us."
    assert filters.repeats(hypothesis(announcement, logprob=-0.8), "your call is important to us")
    assert not filters.repeats(hypothesis(announcement), announcement)  # announcements do repeat
    assert not filters.repeats(hypothesis(announcement, logprob=-0.8), " Please hold the line.")
    assert not filters.repeats(hypothesis("", logprob=-0.8), "")
    unsure = hypothesis(announcement, no_speech=0.9)
    assert filters.is_silence(unsure, announcement, steady=True)
    assert not filters.is_silence(unsure, announcement)
    assert not filters.is_silence(unsure, "", steady=True)


def test_speech_that_detection_missed_needs_high_confidence() -> None:
    assert filters.is_surely_speech(hypothesis())
    for doubt in (
        hypothesis(logprob=-0.7),
        hypothesis(no_speech=0.4),
        hypothesis(tokens=[1]),
        hypothesis(" Thank you."),
        hypothesis(tokens=[7] * 10),
    ):
        assert not filters.is_surely_speech(doubt)


def test_omitted_speech_decoded_alone_may_be_less_certain() -> None:
    assert filters.is_probably_speech(hypothesis(logprob=-0.8, no_speech=0.5))
    for doubt in (
        hypothesis(logprob=-1.1),
        hypothesis(no_speech=0.7),
        hypothesis(" Thank you."),
        hypothesis(""),
        hypothesis(tokens=[7] * 10),
    ):
        assert not filters.is_probably_speech(doubt)


def test_unsure_text_on_a_steady_sound_is_silence() -> None:
    assert filters.is_silence(hypothesis(" You", logprob=-2.1, no_speech=0.1), steady=True)
    assert not filters.is_silence(hypothesis(" You", logprob=-2.1, no_speech=0.1), steady=False)


def test_sentences_with_long_pauses_between_them_must_not_repeat_each_other() -> None:
    announcement = " Thank you for calling. Please vote the line."
    said = " Good morning, thank you for calling back. My sister lives in a small town. The delivery came on Monday."
    assert filters.is_varied(hypothesis(text=said, logprob=-0.2))
    assert not filters.is_varied(hypothesis(text=announcement * 3, logprob=-0.2))
    assert filters.is_good(hypothesis(text=announcement * 3, logprob=-0.2)), "next to each other they may"
