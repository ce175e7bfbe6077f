"""The prompt for Whisper and how it is truncated. In these tests one character is one token, and a space is none."""

from typing import Any

import pytest

from daemon.pipeline.asr.prompts import MAX_PREVIOUS_TOKENS, WhisperPrompt, build_prompt
from daemon.schema.options import JobOptions


def prompt(**changes: Any) -> WhisperPrompt:
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


def text(found: WhisperPrompt) -> str:
    return "".join(map(chr, found.tokens))


def test_hot_words_precede_the_vocabulary_and_the_prompt_is_last() -> None:
    found = prompt(hotwords=" Zed ", vocabulary=["Ann", "Bob  Roe"], initial_prompt="A talk.")
    assert text(found) == "Zed, Ann, Bob RoeA talk."
    assert (found.favoured, found.left_out) == ("Zed, Ann, Bob Roe", 0)
    assert prompt() == WhisperPrompt([], "", 0)


def test_long_initial_prompt_keeps_its_end() -> None:
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))  # no character twice
    assert text(prompt(initial_prompt=long)) == long[-MAX_PREVIOUS_TOKENS:]
    assert text(prompt(hotwords="Zed", initial_prompt=long)) == "Zed" + long[-(MAX_PREVIOUS_TOKENS - 3) :]


def test_long_hot_words_keep_their_start() -> None:
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    assert text(prompt(hotwords=long)) == long[:MAX_PREVIOUS_TOKENS]


def test_duplicate_term_keeps_its_first_spelling() -> None:
    assert prompt(hotwords="Zed, eks", vocabulary=["zed", "Ann", "ANN", " ", "EKS"]).favoured == "Zed, eks, Ann"


@pytest.mark.parametrize(("initial_prompt", "room"), [(None, MAX_PREVIOUS_TOKENS), ("x" * 500, 111)])
def test_terms_are_kept_whole_or_omitted(initial_prompt: str | None, room: int) -> None:
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
