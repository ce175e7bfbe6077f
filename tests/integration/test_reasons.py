"""The reason of a failure in the pipeline is never empty, although libraries raise exceptions without a message."""

from typing import Any

import pytest

from daemon.errors import ModelUnavailable, OutOfMemory
from daemon.pipeline.runtime.device import ComputeDevice
from daemon.pipeline.runtime.fallback import FallbackPolicy

CPU = ComputeDevice("cpu", "test", "int8", lanes=1)


def raises(error: Exception) -> Any:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_whisper_model_that_is_not_fetched_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.asr import whisper_models

    monkeypatch.setattr(whisper_models, "WhisperModel", raises(TimeoutError()))
    models = whisper_models.WhisperModels(("org/slow",), 1, CPU, None)
    with (
        pytest.raises(ModelUnavailable, match="Whisper model org/slow: TimeoutError: no response in time; check its"),
        models.borrowed("org/slow", None),
    ):
        pass


def test_diarization_pipeline_that_is_not_fetched_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.pipeline.diarization import diarizer

    monkeypatch.setattr("pyannote.audio.Pipeline.from_pretrained", raises(TimeoutError()))
    with pytest.raises(ModelUnavailable, match=r"pipeline org/slow \(TimeoutError: no response in time\); HF_TOKEN"):
        diarizer._load("org/slow", None)


def test_memory_error() -> None:
    with pytest.raises(OutOfMemory, match=r"not enough memory for asr even at batch size 1: MemoryError$"):
        FallbackPolicy().with_memory("asr", 1, raises(MemoryError()))


def test_warning_of_a_stage_that_failed() -> None:
    fallback = FallbackPolicy()
    assert fallback.or_none(raises(ValueError()), "align_failed", "align", "times are rough") is None
    assert [warning.message for warning in fallback.warnings()] == ["align failed (ValueError); times are rough"]
