"""A stereo call from the file to the transcript: each side's words under its channel, also where both speak at once."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.reference import sample_audio
from daemon.errors import Interrupted
from daemon.outputs import markdown
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.schema.transcript import Segment, Transcript
from tests.support.media.decoding import channels_of
from tests.support.media.files import RATE, Sound, make_wav
from tests.support.pipeline import GivesUp, Recorder, content, decode_simply, loaded, options, transcribe

SPLIT = options(channels="split", diarize=False, min_speakers=None, max_speakers=None)


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> WhisperXPipeline:
    found = loaded()[0]
    decode_simply(monkeypatch)
    return found


@pytest.fixture(scope="module")
def sides() -> tuple[Sound, Sound]:
    """The halves of the sample call, as simultaneous channels."""
    middle = 15 * RATE
    return sample_audio()[:middle], sample_audio()[middle : 2 * middle]


@pytest.fixture
def decoded(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that Whisper decoded; chunks and groups are short, so that each channel has several."""
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr("daemon.pipeline.speech.detector.CHUNK_SECONDS", 3)
    monkeypatch.setattr("daemon.pipeline.job.recognition.GROUP_SECONDS", 6)
    monkeypatch.setattr(pipeline._stages, "batch_size", 2)
    decode = WhisperDecoder.decode
    sizes: list[int] = []

    def counted(self: WhisperDecoder, encoded: Any, audio: np.ndarray, chunks: Any) -> Any:
        sizes.append(len(chunks))
        return decode(self, encoded, audio, chunks)

    monkeypatch.setattr(WhisperDecoder, "decode", counted)
    return sizes


def under(transcript: Transcript, channel: str) -> list[Segment]:
    """Return a channel's segments without their speaker."""
    return [
        segment.model_copy(
            update={"speaker": None, "words": [word.model_copy(update={"speaker": None}) for word in segment.words]}
        )
        for segment in transcript.segments
        if segment.speaker == channel
    ]


async def test_each_side_is_transcribed_as_if_it_were_alone(
    pipeline: WhisperXPipeline, sides: tuple[Sound, Sound], tmp_path: Path
) -> None:
    channels = await channels_of(make_wav(tmp_path / "call.wav", np.stack(sides, axis=1)))
    reporter = Recorder()
    both = transcribe(pipeline, "call", channels, SPLIT, reporter)

    for name, side in zip(("CHANNEL_00", "CHANNEL_01"), sides, strict=True):
        alone = transcribe(pipeline, "call", side, options(diarize=False))
        assert len(alone.segments) > 3
        assert under(both, name) == alone.segments
    assert sorted(both.speakers) == ["CHANNEL_00", "CHANNEL_01"]
    assert {word.speaker == segment.speaker for segment in both.segments for word in segment.words} == {True}

    starts = [segment.start for segment in both.segments]
    assert starts == sorted(starts)
    overlapping = [(one, other) for one, other in pairwise(both.segments) if other.start < one.end]
    assert any(one.speaker != other.speaker for one, other in overlapping)
    assert both.duration_seconds == 15
    assert both.models.diarization is None

    for stage in ("vad", "asr", "align"):
        fractions = [fraction for name, fraction in reporter.fractions if name == stage]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0
    assert list(reporter.done) == ["vad", "asr", "align"]

    text = markdown.render(both)
    assert "**CHANNEL_00:** " in text
    assert "(CHANNEL_01)" in text


def test_silent_side(pipeline: WhisperXPipeline, sides: tuple[Sound, Sound]) -> None:
    silent = np.zeros(len(sides[0]), np.float32)
    transcript = transcribe(pipeline, "call", [silent, sides[0]], SPLIT)
    assert transcript.speakers == ["CHANNEL_01"]
    assert transcript.models.alignment == "attention"
    assert transcribe(pipeline, "call", [silent, silent], SPLIT).segments == []


def test_job_killed_in_each_channel_resumes_there(
    pipeline: WhisperXPipeline, sides: tuple[Sound, Sound], tmp_path: Path, decoded: list[int]
) -> None:
    (tmp_path / "whole").mkdir()
    whole = transcribe(pipeline, "call", sides, SPLIT, folder=tmp_path / "whole")
    total = sum(decoded)
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"channel-00-asr-00000.json", "channel-00-asr-00001.json", "channel-01-asr-00001.json"} <= names

    (tmp_path / "killed").mkdir()
    decoded.clear()
    for fraction in (0.25, 0.75):  # half of the first channel, half of the second
        with pytest.raises(Interrupted):
            transcribe(pipeline, "call", sides, SPLIT, GivesUp("asr", fraction), tmp_path / "killed")
    kept = {path.name for path in (tmp_path / "killed").iterdir()}
    assert any(name.startswith("channel-01") for name in kept)
    assert kept < names

    resumed = transcribe(pipeline, "call", sides, SPLIT, folder=tmp_path / "killed")
    assert content(resumed) == content(whole)
    assert sum(decoded) <= total + 4  # each interruption costs at most one group, here two chunks
    assert {path.name for path in (tmp_path / "killed").iterdir()} == names
