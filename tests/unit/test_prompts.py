"""What a job tells Whisper beforehand, and what finds no room. One character is one token here, the space is none."""

from typing import Any

import pytest

from daemon.options import JobOptions
from daemon.pipeline.prompts import MAX_PREVIOUS_TOKENS, Prompt, build_prompt


def prompt(**changes: Any) -> Prompt:
    options = JobOptions(
        model="base",
        task="transcribe",
        language=None,
        diarize=False,
        num_speakers=None,
        min_speakers=None,
        max_speakers=None,
        formats=[],
        align="auto",
        channels="mix",
        audio_track=None,
        redact=[],
        profanity="keep",
        initial_prompt=None,
        hotwords=None,
        vocabulary=[],
        suppress_numerals=False,
        multilingual=False,
    )
    return build_prompt(options.model_copy(update=changes), lambda text: [ord(char) for char in text[1:]])


def text(found: Prompt) -> str:
    return "".join(map(chr, found.tokens))


def test_hot_words_come_before_the_vocabulary_and_the_prompt_last() -> None:
    found = prompt(hotwords=" Zed ", vocabulary=["Ann", "Bob  Roe"], initial_prompt="A talk.")
    assert text(found) == "Zed, Ann, Bob RoeA talk."
    assert (found.favoured, found.left_out) == ("Zed, Ann, Bob Roe", 0)
    assert prompt() == Prompt([], "", 0)


def test_a_term_goes_in_once_in_its_first_spelling() -> None:
    assert prompt(hotwords="Zed, eks", vocabulary=["zed", "Ann", "ANN", " ", "EKS"]).favoured == "Zed, eks, Ann"


@pytest.mark.parametrize(("initial_prompt", "room"), [(None, MAX_PREVIOUS_TOKENS), ("x" * 500, 111)])
def test_terms_are_whole_or_left_out(initial_prompt: str | None, room: int) -> None:
    found = prompt(vocabulary=[f"term{number:02}" for number in range(50)], initial_prompt=initial_prompt)
    taken = found.favoured.split(", ")
    assert taken == [f"term{number:02}" for number in range(len(taken))]
    assert len(taken) == (room + 2) // 8
    assert found.left_out == 50 - len(taken)
    assert len(found.tokens) == (MAX_PREVIOUS_TOKENS if initial_prompt else len(found.favoured))


def test_long_hot_words_are_cut() -> None:
    found = prompt(hotwords="h" * 500, vocabulary=["Ann"], initial_prompt="p" * 500)
    assert text(found) == "h" * 111 + "p" * 112
    assert found.left_out == 1
