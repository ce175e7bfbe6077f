"""Short chunks without Whisper's padding to 30 s, for the models that the settings name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from daemon.pipeline.engine import Encoding, Session
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from tests.integration.pipeline_fixture import loaded, options, sample_audio, transcribe

RATE = 16_000
JOB = options(model="base", language="en", diarize=False)


@pytest.fixture(scope="module")
def pipeline() -> WhisperXPipeline:
    return loaded()[0]


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each chunk that is encoded, in frames of the spectrogram: 100 a second."""
    encode = Session.encode
    seen: list[int] = []

    def counted(self: Session, features: Sequence[Any]) -> list[Encoding]:
        seen.extend(it.shape[1] for it in features)
        return encode(self, features)

    monkeypatch.setattr(Session, "encode", counted)
    return seen


@pytest.fixture
def speech() -> np.ndarray:
    part: np.ndarray = sample_audio()[int(12.4 * RATE) : int(20.2 * RATE)]
    return part


def texts(pipeline: WhisperXPipeline, audio: np.ndarray) -> Any:
    transcript = transcribe(pipeline, "short", audio, JOB)
    return [(segment.text, segment.words) for segment in transcript.segments]


def test_a_short_chunk_is_heard_with_a_few_seconds_of_silence(
    pipeline: WhisperXPipeline, speech: np.ndarray, frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = texts(pipeline, speech)
    assert frames == [3000]
    frames.clear()
    monkeypatch.setattr(pipeline._stages, "short_context_models", {"base"})
    short = texts(pipeline, speech)
    assert frames == [1500]
    assert "New Jersey" in short[0][0]
    assert "Chicago" in short[-1][0]
    (first, *_), (same, *_) = padded[0][1], short[0][1]
    assert first.start == pytest.approx(same.start, abs=0.2), "words are timed by what they were decoded from"


def test_where_that_is_unsure_it_is_heard_in_full(
    pipeline: WhisperXPipeline, speech: np.ndarray, frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = texts(pipeline, speech)
    frames.clear()
    monkeypatch.setattr(pipeline._stages, "short_context_models", {"base"})
    monkeypatch.setattr("daemon.pipeline.gates.SURE_AVG_LOGPROB", 0.0)
    assert texts(pipeline, speech) == padded, "text and times are those of the padded chunk"
    assert frames == [1500, 3000]
