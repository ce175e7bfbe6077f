"""Short chunks without Whisper's padding to 30 s, for the models listed in `unpadded_models`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bench.reference import sample_audio
from daemon.pipeline.asr.engine import Encoding, WhisperSession
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from tests.support.pipeline import loaded, options, transcribe

RATE = 16_000
JOB = options(model="base", language="en", diarize=False)


@pytest.fixture(scope="module")
def pipeline() -> WhisperXPipeline:
    return loaded()[0]


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of each encoded chunk in spectrogram frames, 100 per second."""
    encode = WhisperSession.encode
    seen: list[int] = []

    def counted(self: WhisperSession, features: Sequence[Any]) -> list[Encoding]:
        seen.extend(it.shape[1] for it in features)
        return encode(self, features)

    monkeypatch.setattr(WhisperSession, "encode", counted)
    return seen


@pytest.fixture
def speech() -> np.ndarray:
    part: np.ndarray = sample_audio()[int(12.4 * RATE) : int(20.2 * RATE)]
    return part


def texts(pipeline: WhisperXPipeline, audio: np.ndarray) -> Any:
    transcript = transcribe(pipeline, "short", audio, JOB)
    return [(segment.text, segment.words) for segment in transcript.segments]


def test_short_chunk_is_encoded_with_a_few_seconds_of_silence(
    pipeline: WhisperXPipeline, speech: np.ndarray, frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = texts(pipeline, speech)
    assert frames == [3000]
    frames.clear()
    monkeypatch.setattr(pipeline._stages, "unpadded_models", {"base"})
    short = texts(pipeline, speech)
    assert frames == [1500]
    assert "New Jersey" in short[0][0]
    assert "Chicago" in short[-1][0]
    (first, *_), (same, *_) = padded[0][1], short[0][1]
    assert first.start == pytest.approx(same.start, abs=0.2), (
        "words are timed with the same encoding they were decoded from"
    )


def test_unsure_chunk_is_decoded_again_with_full_padding(
    pipeline: WhisperXPipeline, speech: np.ndarray, frames: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = texts(pipeline, speech)
    frames.clear()
    monkeypatch.setattr(pipeline._stages, "unpadded_models", {"base"})
    monkeypatch.setattr("daemon.pipeline.asr.filters.SURE_AVG_LOGPROB", 0.0)
    assert texts(pipeline, speech) == padded, "text and times come from the padded chunk"
    assert frames == [1500, 3000]
