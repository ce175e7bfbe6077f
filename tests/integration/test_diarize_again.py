"""A recording that is diarized again by the real pipeline: its words stay, and only diarization runs."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.reference import sample_audio
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript
from tests.support.pipeline import Recorder, content, loaded, options, transcribe

RATE = 16_000


def diarize_again(audio: np.ndarray, earlier: Transcript, wanted: JobOptions, recorder: Recorder) -> Transcript:
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), lambda _: None)
        return loaded()[0].diarize_again("again", [audio], earlier, wanted, recorder, checkpoints)


def spoken(transcript: Transcript) -> list[tuple[Any, ...]]:
    return [(word.word, word.start, word.end, word.score) for segment in transcript.segments for word in segment.words]


def without_confidence(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript without the confidence of its segments: that of a new one is computed from rounded scores."""
    found = content(transcript)
    for segment in found["segments"]:
        del segment["confidence"]
    return found


@pytest.fixture(scope="module")
def without_speakers() -> Transcript:
    return transcribe(loaded()[0], "first", sample_audio(), options(diarize=False))


def test_speakers_are_those_of_a_job_that_diarizes_at_once(without_speakers: Transcript) -> None:
    at_once = transcribe(loaded()[0], "again", sample_audio(), options(speaker_embeddings=True))
    recorder = Recorder()
    again = diarize_again(sample_audio(), without_speakers, options(speaker_embeddings=True), recorder)
    assert without_confidence(again) == without_confidence(at_once)
    assert set(again.timings_seconds) == set(recorder.done) == {"diarize"}
    assert recorder.batches == [], "Whisper did not run"


def test_other_bounds_give_other_speakers_to_the_same_words(without_speakers: Transcript) -> None:
    bound: dict[str, Any] = {"num_speakers": 1, "own_speaker_bounds": ["num_speakers"]}
    one = diarize_again(sample_audio(), without_speakers, options(**bound), Recorder())
    assert one.speakers == ["SPEAKER_00"]
    assert spoken(one) == spoken(without_speakers)
    two = diarize_again(sample_audio(), one, options(), Recorder())
    assert len(two.speakers) == 2
    assert spoken(two) == spoken(without_speakers)


def test_times_are_those_of_the_recording_also_for_a_part_of_it(without_speakers: Transcript) -> None:
    start_seconds = 1000.0
    moved = without_speakers.moved(start_seconds)
    whole = diarize_again(sample_audio(), without_speakers, options(), Recorder())
    again = diarize_again(sample_audio(), moved, options(), Recorder())
    assert spoken(again) == spoken(moved)
    assert [segment.speaker for segment in again.segments] == [segment.speaker for segment in whole.segments]
    assert again.start_seconds == start_seconds


def test_earlier_speakers_stay_if_diarization_fails(
    without_speakers: Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = diarize_again(sample_audio(), without_speakers, options(), Recorder())

    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("no")

    stages: Any = loaded()[0]._stages
    monkeypatch.setattr(stages.diarizer, "diarize", fail)
    after = diarize_again(sample_audio(), before, options(), Recorder())
    assert after.segments == before.segments
    assert after.speakers == before.speakers
    (warning,) = after.warnings
    assert (warning.code, "those of the earlier job" in warning.message) == ("diarization_failed", True)
