"""Words from real models, and aligners on hostile texts: no word is lost, and each has a possible time."""

from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.reference import sample_audio
from daemon.pipeline.alignment.placement import MAX_WORD_SECONDS
from daemon.pipeline.alignment.words import AlignedToken, split_words
from daemon.pipeline.types import Chunk, Passage
from daemon.schema.transcript import Transcript
from tests.support.pipeline import decode_simply, loaded, make_wav2vec2, options, transcribe
from tests.support.words import ALIGNED_TOKENS, SCORES, TEXTS, TIMES, assert_settled, chunks

RATE = 16_000
ROUNDING = 0.0011  # times are rounded to 1 ms

# Fixtures here are models, which examples cannot change; how fast examples are drawn depends on the machine.
HEALTH_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def stages() -> Any:
    return loaded()[0]._stages


@pytest.fixture(scope="module")
def aligner(stages: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from daemon.pipeline.alignment.wav2vec2 import Aligners

    folder = make_wav2vec2(tmp_path_factory.mktemp("wav2vec2"))
    return Aligners((f"en={folder}",), stages.device).get("en", required=False)


# --- hostile texts ------------------------------------------------------------------------------------------------


@given(ALIGNED_TOKENS, chunks(), st.sampled_from(["en", "ja"]))
@settings(deadline=None)
def test_attention_cannot_break_the_words(stages: Any, tokens: list[AlignedToken], chunk: Chunk, language: str) -> None:
    from daemon.pipeline.alignment.attention import attention_words

    text = "".join(token.text for token in tokens)
    assert_settled(attention_words(tokens, chunk, language), text, chunk)


@given(TEXTS, st.lists(st.tuples(TIMES, TIMES, SCORES), max_size=12), chunks())
@settings(deadline=None, suppress_health_check=HEALTH_CHECKS)
def test_wav2vec2_cannot_break_the_words(
    aligner: Any, parts: list[str], said: list[tuple[Any, Any, Any]], chunk: Chunk
) -> None:
    """For any times, or none, that the path through the emissions assigns to the words."""
    text = "".join(parts)
    found = [
        AlignedToken(word, *values)
        for word, values in zip_longest(split_words(text, "en"), said, fillvalue=(None, None, None))
        if isinstance(word, str)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(aligner), "align_tokens", lambda *_: found)
        [words] = aligner.align([Passage(chunk, text, None, language="en")], sample_audio())
    if words or found:
        assert_settled(words, text, chunk)


@given(TEXTS)
@settings(deadline=None, max_examples=25, suppress_health_check=HEALTH_CHECKS)
def test_real_wav2vec2_times_numbers_and_signs(aligner: Any, parts: list[str]) -> None:
    text = "".join(parts)
    chunk = Chunk(1.0, 6.0, ((1.0, 2.5), (3.0, 6.0)))
    [words] = aligner.align([Passage(chunk, text, None, language="en")], sample_audio())
    if words or text.strip():
        assert_settled(words, text, chunk)


def test_text_that_wav2vec2_cannot_align_has_no_words(aligner: Any) -> None:
    chunk = Chunk(1.0, 1.05, ((1.0, 1.05),))  # two frames for forty characters
    text = " a text that is much too long for its time"
    assert aligner.align([Passage(chunk, text, None, language="en")], sample_audio()) == [[]]


def test_numbers_have_their_own_times_and_scores(aligner: Any) -> None:
    chunk = Chunk(0.0, 6.0, ((0.0, 6.0),))
    [words] = aligner.align([Passage(chunk, " in 1984 it was 5 % or €20 …", None, language="en")], sample_audio())
    assert [word.text for word in words] == [" in", " 1984", " it", " was", " 5", " %", " or", " €20 …"]
    assert all(word.end > word.start and word.score is not None for word in words)


# --- a real call --------------------------------------------------------------------------------------------------


def assert_whole(transcript: Transcript, regions: list[tuple[float, float]]) -> None:
    end_of_last = 0.0
    for segment in transcript.segments:
        assert segment.text == " ".join(word.word for word in segment.words)
        assert (segment.start, segment.end) == (segment.words[0].start, segment.words[-1].end)
        for word in segment.words:
            assert end_of_last <= word.start <= word.end <= transcript.duration_seconds
            end_of_last = word.end
            assert word.end - word.start <= MAX_WORD_SECONDS + ROUNDING
            assert not any(word.start < before[1] and after[0] < word.end for before, after in pairwise(regions))


@pytest.fixture(scope="module")
def repeated(stages: Any) -> tuple[np.ndarray, Any]:
    """The call twice, with 3 s of silence in between, and the speech in it."""
    audio = np.concatenate([sample_audio(), np.zeros(3 * RATE, np.float32), sample_audio()])
    return audio, stages.detector.detect(audio, lambda _: None)


@pytest.mark.parametrize("model", ["tiny.en", "base"])
@pytest.mark.parametrize("align", ["attention", "wav2vec2"])
def test_every_word_of_a_call_has_a_time(
    stages: Any,
    aligner: Any,
    repeated: tuple[np.ndarray, Any],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    align: str,
) -> None:
    monkeypatch.setitem(stages.aligners._loaded, "en", aligner)
    decode_simply(monkeypatch)
    audio, speech = repeated
    monkeypatch.setattr(stages.detector, "detect", lambda *_: speech)
    job = options(model=model, align=align, language="en", diarize=False)
    transcript = transcribe(loaded()[0], "words", audio, job)
    assert transcript.models.alignment == ("attention" if align == "attention" else aligner.name)
    assert transcript.warnings == []
    assert len([word for segment in transcript.segments for word in segment.words]) > 100
    regions = [region for chunk in speech.chunks for region in chunk.regions]
    assert len(regions) > 2
    assert_whole(transcript, regions)


def test_estimated_words_are_complete(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr(WhisperDecoder, "align", lambda *_: None)
    transcript = transcribe(loaded()[0], "words", sample_audio(), options(diarize=False))
    assert [warning.code for warning in transcript.warnings] == ["alignment_fallback"]
    speech = stages.detector.detect(sample_audio(), lambda _: None)
    assert_whole(transcript, [region for chunk in speech.chunks for region in chunk.regions])


def test_passage_that_wav2vec2_cannot_align_falls_back_to_attention(
    stages: Any, aligner: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("daemon.pipeline.speech.detector.CHUNK_SECONDS", 10)
    decode_simply(monkeypatch)
    align = type(aligner).align
    failed: list[Passage] = []

    def fails_at_first(self: Any, passages: list[Passage], audio: np.ndarray) -> Any:
        [passage] = passages
        if passage.chunk.start < 10:
            failed.append(passage)
            return [[]]
        return align(self, passages, audio)

    monkeypatch.setitem(stages.aligners._loaded, "en", aligner)
    monkeypatch.setattr(type(aligner), "align", fails_at_first)
    job = options(align="wav2vec2", diarize=False)
    first = transcribe(loaded()[0], "words", sample_audio(), job, folder=tmp_path)
    assert failed
    assert [(warning.code, warning.stage) for warning in first.warnings] == [("alignment_fallback", "align")]
    assert first.models.alignment == aligner.name
    assert all(word.score is not None for segment in first.segments for word in segment.words)

    failed.clear()
    resumed = transcribe(loaded()[0], "words", sample_audio(), job, folder=tmp_path)
    assert failed == []
    assert resumed.segments == first.segments
    assert resumed.warnings == first.warnings
