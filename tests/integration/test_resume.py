"""An interrupted job continues where it was and ends with the same transcript as an uninterrupted one.

Groups are short here, so that half a minute of speech has several. The share of a long recording that may be lost is
arithmetic: see the test with two hours.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.reference import sample_audio
from daemon.errors import Interrupted
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript
from tests.support.pipeline import (
    GivesUp,
    Recorder,
    content,
    decode_simply,
    loaded,
    make_wav2vec2,
    options,
    transcribe,
)

RATE = 16_000

# Results that do not depend on the delivery, because all jobs here have the same recording.
HEARD: dict[tuple[int, int], Any] = {}
ENCODED: dict[tuple[int, int, Any], Any] = {}


class Delivery:
    """A delivery that runs a job in one folder and counts the chunks that Whisper decodes."""

    def __init__(self, folder: Path, decoded: list[int]) -> None:
        self._folder = folder
        self._decoded = decoded

    def run(self, job: JobOptions, reporter: Recorder | None = None) -> tuple[Transcript, int]:
        self._decoded.clear()
        transcript = transcribe(loaded()[0], "resumed", sample_audio(), job, reporter or Recorder(), self._folder)
        return transcript, sum(self._decoded)

    def interrupted(self, job: JobOptions, stage: str, fraction: float) -> int:
        self._decoded.clear()
        with pytest.raises(Interrupted):
            transcribe(loaded()[0], "resumed", sample_audio(), job, GivesUp(stage, fraction), self._folder)
        return sum(self._decoded)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.name.startswith(prefix))

    def largest(self) -> int:
        """Return the number of chunks in the largest group."""
        return max(len(json.loads((self._folder / name).read_text())["chunks"]) for name in self.names("asr-"))


@pytest.fixture(scope="module")
def pipeline() -> WhisperXPipeline:
    return loaded()[0]


@pytest.fixture
def stages(pipeline: WhisperXPipeline, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("daemon.pipeline.speech.detector.CHUNK_SECONDS", 3)
    monkeypatch.setattr("daemon.pipeline.job.recognition.GROUP_SECONDS", 6)
    monkeypatch.setattr(pipeline._stages, "batch_size", 2)
    decode_simply(monkeypatch)
    return pipeline._stages


@pytest.fixture
def heard(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache the results of speech detection and of Whisper's encoder, which saves most of the time."""
    from daemon.pipeline.asr import decoding, encoding
    from daemon.pipeline.job import recognition
    from daemon.pipeline.speech import detector as vad

    detect = stages.detector.detect

    def remembered(audio: np.ndarray, *arguments: Any) -> Any:
        key = (len(audio), vad.CHUNK_SECONDS)
        if key not in HEARD:
            HEARD[key] = detect(audio, *arguments)
        return HEARD[key]

    monkeypatch.setattr(stages.detector, "detect", remembered)
    encode = encoding.encode

    def encoded(whisper: Any, audio: np.ndarray, chunks: Any, **padding: bool) -> list[Any]:
        keys = [(id(whisper.about.model), len(audio), chunk) for chunk in chunks]
        for key in keys:
            if key not in ENCODED:
                (ENCODED[key],) = encode(whisper, audio, [key[-1]], **padding)
        return [ENCODED[key] for key in keys]

    for module in (encoding, decoding, recognition):
        monkeypatch.setattr(module, "encode", encoded)


@pytest.fixture
def decoded(stages: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that Whisper decoded."""
    from daemon.pipeline.asr.decoding import WhisperDecoder

    decode = WhisperDecoder.decode
    sizes: list[int] = []

    def counted(self: WhisperDecoder, encoded: Any, audio: np.ndarray, chunks: Any) -> Any:
        sizes.append(len(chunks))
        return decode(self, encoded, audio, chunks)

    monkeypatch.setattr(WhisperDecoder, "decode", counted)
    return sizes


@pytest.fixture
def deliver(decoded: list[int], tmp_path: Path) -> Callable[[str], Delivery]:
    """Create deliveries of a job: those with the same name share a folder, as if it had been stored in between."""

    def make(name: str) -> Delivery:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Delivery(folder, decoded)

    return make


# --- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("heard")
def test_job_killed_in_recognition_resumes_there(deliver: Callable[[str], Delivery]) -> None:
    job = options(model="base", diarize=False)  # detects the language; words by attention
    whole, total = deliver("whole").run(job)
    assert len(deliver("whole").names("asr-")) > 3
    assert whole.language_probability is not None

    first = deliver("killed").interrupted(job, "asr", 0.7)
    assert 0.7 * total <= first < total
    reporter = Recorder()
    resumed, second = deliver("killed").run(job, reporter)

    print(f"\n{total} chunks in all, {first} before the interruption, {second} after it")
    assert content(resumed) == content(whole)
    assert second <= total - first + deliver("whole").largest()
    assert second < total / 2
    # The progress is resumed, too: it starts with the first group, which is available at once.
    fractions = [fraction for stage, fraction in reporter.fractions if stage == "asr"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) > len(deliver("killed").names("asr-"))


@pytest.mark.usefixtures("heard")
def test_job_killed_repeatedly_resumes(
    deliver: Callable[[str], Delivery], stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligner, Aligners

    model = make_wav2vec2(tmp_path)
    monkeypatch.setattr(stages, "aligners", Aligners((f"en={model}",), stages.device))
    align = Aligner.align
    aligned: list[str] = []

    def counted(self: Aligner, passages: Any, audio: np.ndarray) -> Any:
        aligned.extend(passage.text for passage in passages)
        return align(self, passages, audio)

    # Diarization runs alongside the words, so it is held at the point where each delivery is meant to find it.
    diarize = stages.diarizer.diarize
    comes_to = 1.0

    def held(*arguments: Any, **bounds: Any) -> Any:
        *sound, on_progress = arguments

        def on_progress_held(fraction: float) -> None:
            on_progress(fraction)
            while fraction >= comes_to:  # until it is cancelled
                on_progress(fraction)

        return diarize(*sound, on_progress_held, **bounds)

    monkeypatch.setattr(Aligner, "align", counted)
    monkeypatch.setattr(stages.diarizer, "diarize", held)
    job = options(align="wav2vec2", speaker_embeddings=True)
    whole, total = deliver("whole").run(job)
    assert whole.models.alignment == str(model)
    assert whole.speaker_embeddings
    passages = len(aligned)

    comes_to = 0.3
    first = deliver("killed").interrupted(job, "asr", 0.5)
    aligned.clear()
    second = deliver("killed").interrupted(job, "align", 0.6)
    assert first + second <= total + deliver("whole").largest()
    assert 0.6 * passages <= len(aligned) < passages
    third = deliver("killed").interrupted(job, "diarize", 0.3)
    assert third == 0
    assert len(aligned) <= passages + deliver("whole").largest()
    assert "diarize.json" not in deliver("killed").names()
    aligned.clear()
    comes_to = 1.0
    resumed, fourth = deliver("killed").run(job)
    assert (fourth, aligned) == (0, [])
    assert content(resumed) == content(whole)

    # A job that had finished everything but the transcript.
    monkeypatch.setattr(stages.diarizer, "diarize", None)
    again, fifth = deliver("killed").run(job)
    assert fifth == 0
    assert content(again) == content(whole)
    assert deliver("killed").names() == deliver("whole").names()


@pytest.mark.usefixtures("heard")
def test_words_by_attention_instead_of_wav2vec2_are_resumed(
    deliver: Callable[[str], Delivery], stages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.alignment.wav2vec2 import Aligner, Aligners
    from daemon.pipeline.asr.decoding import WhisperDecoder

    model = make_wav2vec2(tmp_path)
    monkeypatch.setattr(stages, "aligners", Aligners((f"en={model}",), stages.device))
    attend = WhisperDecoder.align
    attended: list[str] = []
    tried: list[str] = []

    def fails_late(self: Aligner, passages: Any, audio: np.ndarray) -> Any:
        tried.extend(passage.text for passage in passages)
        if any(passage.chunk.start > 12 for passage in passages):
            raise ValueError("a bug")
        return [[] for _ in passages]

    def counted(self: WhisperDecoder, encoded: Any, audio: np.ndarray, passages: Any) -> None:
        attended.extend(passage.text for passage in passages)
        attend(self, encoded, audio, passages)

    monkeypatch.setattr(Aligner, "align", fails_late)
    monkeypatch.setattr(WhisperDecoder, "align", counted)
    job = options(align="wav2vec2", diarize=False)
    whole, _ = deliver("whole").run(job)
    assert whole.models.alignment == "attention"
    assert [(warning.code, warning.stage) for warning in whole.warnings] == [("alignment_fallback", "align")]
    assert "a bug" in whole.warnings[0].message
    names = deliver("whole").names("attend-")
    assert len(names) > 3

    # As if the job had been killed when the first two groups had their words.
    killed = shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    sizes = [len(json.loads((killed / name).read_text())["passages"]) for name in names]
    for name in names[2:]:
        (killed / name).unlink()
    attended.clear()
    tried.clear()
    resumed, again = deliver("killed").run(job)
    assert (again, tried) == (0, [])
    assert len(attended) == sum(sizes[2:])
    assert content(resumed) == content(whole)
    attended.clear()
    assert content(deliver("killed").run(job)[0]) == content(whole)
    assert attended == []


@pytest.mark.usefixtures("heard")
def test_basic_mode_is_resumed(
    deliver: Callable[[str], Delivery], monkeypatch: pytest.MonkeyPatch, stages: Any, decoded: list[int]
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    monkeypatch.setattr("daemon.pipeline.job.grouping.PLAIN_WINDOW_SECONDS", 10)
    decode, plainly = WhisperDecoder.decode, WhisperDecoder.decode_plainly
    starts: list[float] = []

    def fails_late(self: WhisperDecoder, encoded: Any, audio: np.ndarray, chunks: Any) -> Any:
        if chunks[0].start > 12:
            raise ValueError("a bug")
        return decode(self, encoded, audio, chunks)

    def counted(self: WhisperDecoder, audio: np.ndarray, window: Any, words: bool) -> Any:
        starts.append(window.start)
        return plainly(self, audio, window, words)

    monkeypatch.setattr(WhisperDecoder, "decode", fails_late)
    monkeypatch.setattr(WhisperDecoder, "decode_plainly", counted)
    job = options(diarize=False)
    whole, _ = deliver("whole").run(job)
    windows = list(starts)
    assert len(windows) > 2
    assert [warning.code for warning in whole.warnings] == ["transcription_basic_mode"]

    deliver("killed").interrupted(job, "asr", 0.6)  # of basic mode: batches fail before that
    starts.clear()
    resumed, again = deliver("killed").run(job)
    assert again == 0  # the groups decoded before the failure
    assert windows[0] not in starts
    assert windows[-1] in starts
    assert content(resumed) == content(whole)


# --- warnings of earlier deliveries -------------------------------------------------------------------------------


@pytest.mark.usefixtures("heard")
def test_warnings_of_earlier_deliveries_are_kept(
    deliver: Callable[[str], Delivery], stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.asr.decoding import WhisperDecoder

    decode = WhisperDecoder.decode
    diarize = stages.diarizer.diarize

    def needs_memory(self: WhisperDecoder, encoded: Any, audio: np.ndarray, chunks: Any) -> Any:
        if len(chunks) > 1:
            raise RuntimeError("CUDA failed with error out of memory")
        return decode(self, encoded, audio, chunks)

    def needs_memory_too(*arguments: Any, batch_size: int, **bounds: Any) -> Any:
        if batch_size > 4:
            raise RuntimeError("CUDA out of memory")
        return diarize(*arguments, batch_size=batch_size, **bounds)

    with monkeypatch.context() as patch:
        patch.setattr(WhisperDecoder, "decode", needs_memory)
        patch.setattr(stages.diarizer, "diarize", needs_memory_too)
        first, total = deliver("job").run(options())
    assert [(warning.code, warning.stage) for warning in first.warnings] == [
        ("batch_reduced", "asr"),
        ("batch_reduced", "diarize"),
    ]
    assert total > 0

    resumed, again = deliver("job").run(options())
    assert again == 0
    assert content(resumed) == content(first)


# --- rejected checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("heard")
def test_invalid_checkpoints_are_computed_again(
    deliver: Callable[[str], Delivery], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = options()
    whole, _ = deliver("whole").run(job)
    names = deliver("whole").names("asr-")
    assert len(names) > 4
    spoiled = shutil.copytree(tmp_path / "whole", tmp_path / "spoiled")

    def change(name: str, **values: Any) -> int:
        data = json.loads((spoiled / name).read_text())
        (spoiled / name).write_text(json.dumps({**data, **values}))
        return len(data["chunks"])

    lost = change(names[0], language="de") + change(names[1], compute_type="float16")
    lost += change(names[2], with_words=False) + change(names[3], chunks=[{"secret": 1}])
    turns = json.loads((spoiled / "diarize.json").read_text())
    (spoiled / "diarize.json").write_text(json.dumps({**turns, "diarizer": "another"}))

    resumed, again = deliver("spoiled").run(job)
    assert again == lost
    assert content(resumed) == content(whole)
    assert sum("part will be repeated" in record.message for record in caplog.records) == 5
    assert "secret" not in caplog.text

    # Now all checkpoints are valid again.
    assert deliver("spoiled").run(job)[1] == 0


@pytest.mark.usefixtures("heard")
def test_job_with_different_vad_results_starts_over(
    deliver: Callable[[str], Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = options(diarize=False)
    deliver("job").run(job)
    monkeypatch.setattr("daemon.pipeline.speech.detector.CHUNK_SECONDS", 6)
    whole, total = deliver("whole").run(job)
    resumed, again = deliver("job").run(job)
    assert again == total
    assert content(resumed) == content(whole)


def test_only_new_checkpoints_are_announced(stages: Any, tmp_path: Path) -> None:
    pipeline = loaded()[0]
    announced: list[str] = []
    for _ in range(2):
        pipeline.run(
            "job", [sample_audio()[: 15 * RATE]], options(), Recorder(), Checkpoints(tmp_path, announced.append)
        )
    words = [name for name in announced if name != "diarize.json"]  # diarization runs alongside them
    assert words == sorted(words)
    assert all(name.startswith("asr-") for name in words)
    assert len(announced) == len(set(announced)) == len(words) + 1 > 2


# --- loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shortest", "longest", "pause"),
    [(29, 30, 0.2), (20, 30, 1), (20, 30, 10), (3, 30, 5), (5, 10, 25)],
    ids=["dense", "usual", "slow", "mixed", "sparse"],
)
def test_of_two_hours_killed_at_90_percent_85_are_kept(
    pipeline: WhisperXPipeline, shortest: float, longest: float, pause: float
) -> None:
    from daemon.pipeline.job.grouping import in_groups
    from daemon.pipeline.job.recognition import GROUP_SECONDS
    from daemon.pipeline.types import Chunk

    dice = random.Random(1)
    chunks: list[Chunk] = []
    now = 0.0
    while (end := now + dice.uniform(shortest, longest)) < 2 * 3600:
        chunks.append(Chunk(now, end, ((now, end),)))
        now = end + dice.uniform(0, 2 * pause)
    groups = in_groups(chunks, GROUP_SECONDS)
    assert [chunk for group in groups for chunk in group] == chunks
    assert all(group[-1].end - group[0].start <= 300 for group in groups)

    decoded = int(0.9 * len(chunks))
    kept = 0
    for group in groups:
        if kept + len(group) > decoded:
            break
        kept += len(group)
    print(f"\n{len(chunks)} chunks, {len(groups)} groups, {kept / len(chunks):.1%} kept")
    assert kept >= 0.85 * len(chunks)


def test_groups_respect_their_maximum_length(pipeline: WhisperXPipeline) -> None:
    from daemon.pipeline.job.grouping import in_groups
    from daemon.pipeline.types import Chunk

    chunks = [Chunk(float(start), start + 10.0, ((start, start + 10.0),)) for start in (0, 10, 20, 60, 70)]
    assert [[chunk.start for chunk in group] for group in in_groups(chunks, 30)] == [[0, 10, 20], [60, 70]]
    assert [[chunk.start for chunk in group] for group in in_groups(chunks, 5)] == [[0], [10], [20], [60], [70]]
    assert in_groups([], 30) == []
