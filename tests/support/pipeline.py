"""The real pipeline and a real recording, shared by the integration tests."""

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.errors import Interrupted
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.runtime.reporter import Reporter
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.protocol.events import BackgroundProgress, BatchDecoded, ChunksFiltered, PipelineEvent, Progress, StageDone
from daemon.protocol.messages import Ready
from daemon.protocol.priority import ONLY
from daemon.protocol.runner_settings import RunnerSettings
from daemon.schema.options import JobOptions
from daemon.schema.transcript import Transcript
from daemon.weights.packaged import whisper_base, whisper_tiny_en

SETTINGS = RunnerSettings(
    model="",
    models=(),
    max_loaded_models=2,
    device="cpu",
    compute_type="auto",
    batch_size=8,
    unpadded_models=(),
    cpu_threads=0,
    diarization_model="embedded",
    alignment_models=(),
    hf_token=None,
    weights_manifest=None,
    require_pinned_weights=False,
)


def settings(**changes: Any) -> RunnerSettings:
    """Build settings for the packaged models on the CPU, with the given overrides."""
    values = {name: getattr(SETTINGS, name) for name in RunnerSettings.__slots__}
    return RunnerSettings(**{**values, "model": str(whisper_base()), "models": (str(whisper_tiny_en()),), **changes})


@cache
def loaded(compute_type: str = "auto") -> tuple[WhisperXPipeline, Ready]:
    """Return a loaded pipeline. Cached instead of a fixture, which would load it once per module.

    On a CPU `auto` selects int8, whose results differ between processors: without AVX-512 VNNI, sums saturate. Tests of
    how Whisper handles ambiguous sounds use float32.
    """
    pipeline = WhisperXPipeline(settings(compute_type=compute_type))
    return pipeline, pipeline.load()


def options(**changes: Any) -> JobOptions:
    """Build job options with the given overrides, for Whisper tiny.en, the faster model."""
    defaults: dict[str, Any] = {
        "model": "tiny.en",
        "task": "transcribe",
        "language": None,
        "diarize": True,
        "num_speakers": None,
        "min_speakers": 2,
        "max_speakers": 6,
        "formats": ["json"],
        "align": "attention",
        "channels": "mix",
        "audio_track": None,
        "redact": [],
        "profanity": "keep",
        "initial_prompt": None,
        "hotwords": None,
        "vocabulary": [],
        "suppress_numerals": False,
        "multilingual": False,
    }
    return JobOptions(**{**defaults, **changes})


def transcribe(
    pipeline: WhisperXPipeline,
    job_id: str,
    audio: np.ndarray | Sequence[np.ndarray],
    options: JobOptions,
    reporter: Reporter | None = None,
    folder: Path | None = None,
) -> Transcript:
    """Run a job on mixed audio or on channels. Its checkpoints go to `folder`, by default to a new one for each
    call."""
    channels = [audio] if isinstance(audio, np.ndarray) else audio
    with tempfile.TemporaryDirectory() as empty:
        checkpoints = Checkpoints(folder or Path(empty), lambda _: None)
        return pipeline.run(job_id, channels, options, reporter or Recorder(), checkpoints)


def decode_simply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Whisper choose its text greedily and only once, for tests that do not depend on how it searches. Load the
    pipeline first."""
    monkeypatch.setattr("daemon.pipeline.asr.decoding.BEAM_SIZE", 1)
    monkeypatch.setattr("daemon.pipeline.asr.decoding.TEMPERATURES", ())


class Recorder:
    """A reporter that records events and cancels the job at the given number of checks."""

    priority = ONLY

    def __init__(self, cancel_at: int | None = None) -> None:
        self.fractions: list[tuple[str, float]] = []
        self.beside: list[tuple[str, float]] = []  # of stages in the background
        self.done: dict[str, float] = {}
        self.batches: list[tuple[int, int]] = []
        self.chunks: list[tuple[int, int, int]] = []
        self.checks = 0
        self._cancel_at = cancel_at

    def emit(self, event: PipelineEvent) -> None:
        match event:
            case Progress(stage, fraction):
                self.fractions.append((stage, fraction))
            case BackgroundProgress(stage, fraction):
                self.beside.append((stage, fraction))
            case StageDone(stage, seconds):
                self.done[stage] = seconds
            case BatchDecoded(chunks, capacity):
                self.batches.append((chunks, capacity))
            case ChunksFiltered(chunks, rejected, rescan_rejected):
                self.chunks.append((chunks, rejected, rescan_rejected))
            case _:
                pass

    def check_cancelled(self) -> None:
        self.checks += 1
        if self._cancel_at is not None and self.checks >= self._cancel_at:
            raise Interrupted("the test gave the job up")


class GivesUp(Recorder):
    """A reporter that cancels the job once the given fraction of the stage is done."""

    def __init__(self, stage: str, fraction: float) -> None:
        super().__init__()
        self._stage = stage
        self._fraction = fraction

    def check_cancelled(self) -> None:
        if any(stage == self._stage and fraction >= self._fraction for stage, fraction in self.fractions):
            raise Interrupted("the instance is going away")


def content(transcript: Transcript) -> dict[str, Any]:
    """Return the transcript without processing times, which differ between deliveries."""
    return transcript.model_dump(exclude={"timings_seconds"})


def make_wav2vec2(folder: Path, **changes: Any) -> Path:
    """Write a wav2vec2 model with random weights and the shape of a real one; its configuration can be changed. Load
    the pipeline first: it sets up the environment of transformers."""
    import transformers

    library: Any = transformers  # only partly typed
    characters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz'"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({char: index for index, char in enumerate(characters)}))
    tokenizer = library.Wav2Vec2CTCTokenizer(str(vocabulary))
    library.Wav2Vec2Processor(
        feature_extractor=library.Wav2Vec2FeatureExtractor(), tokenizer=tokenizer
    ).save_pretrained(folder)
    config = library.Wav2Vec2Config(
        vocab_size=len(characters),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        **changes,
    )
    library.Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder
