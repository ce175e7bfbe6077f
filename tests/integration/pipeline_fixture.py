"""The real pipeline and the real recording that the tests of this folder share."""

import json
import tempfile
import wave
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from daemon.embedded.models import whisper_base, whisper_tiny_en
from daemon.options import JobOptions
from daemon.pipeline.checkpoints import Checkpoints
from daemon.pipeline.reporter import Reporter
from daemon.pipeline.settings import RunnerSettings
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
from daemon.protocol import Ready
from daemon.transcript import Transcript

SETTINGS = RunnerSettings(
    model="",
    models=(),
    models_resident=2,
    device="cpu",
    compute_type="auto",
    batch_size=8,
    short_context_models=(),
    cpu_threads=0,
    diarization_model="embedded",
    alignment_models=(),
    hf_token=None,
)


def settings(**changes: Any) -> RunnerSettings:
    """The packaged models on the CPU, with the given fields changed."""
    values = {name: getattr(SETTINGS, name) for name in RunnerSettings.__slots__}
    return RunnerSettings(**{**values, "model": str(whisper_base()), "models": (str(whisper_tiny_en()),), **changes})


@cache
def loaded() -> tuple[WhisperXPipeline, Ready]:
    """A loaded pipeline; cached rather than a fixture, because a fixture would load it once per module."""
    pipeline = WhisperXPipeline(settings())
    return pipeline, pipeline.load()


def options(**changes: Any) -> JobOptions:
    """Job options with the fields changed; Whisper tiny.en, because it is the quicker one."""
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
    """Run a job on the mix, or on channels; `folder` is its checkpoints', to begin with a new one each time."""
    channels = [audio] if isinstance(audio, np.ndarray) else audio
    with tempfile.TemporaryDirectory() as empty:
        checkpoints = Checkpoints(folder or Path(empty), lambda _: None)
        return pipeline.run(job_id, channels, options, reporter or Recorder(), checkpoints)


class Recorder:
    """A reporter that remembers; gives the job up at the given number of checks."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.fractions: list[tuple[str, float]] = []
        self.done: dict[str, float] = {}
        self.batches: list[tuple[int, int]] = []
        self.chunks: list[tuple[int, int, int]] = []
        self.checks = 0
        self._cancel_at = cancel_at

    def progress(self, stage: str, fraction: float) -> None:
        self.fractions.append((stage, fraction))

    def stage_done(self, stage: str, seconds: float) -> None:
        self.done[stage] = seconds

    def batch(self, chunks: int, room: int) -> None:
        self.batches.append((chunks, room))

    def heard(self, chunks: int, gated: int, dismissed: int) -> None:
        self.chunks.append((chunks, gated, dismissed))

    def alive(self) -> None: ...

    def check_cancelled(self) -> None:
        from daemon.errors import Interrupted

        self.checks += 1
        if self._cancel_at is not None and self.checks >= self._cancel_at:
            raise Interrupted("the test gave the job up")


def sample_file(name: str) -> Path:
    """A file of pyannote.audio's sample, a real telephone call of two people.

    Found by path: importing pyannote.audio.sample would decode it with an FFmpeg that need not be there.
    """
    spec = find_spec("pyannote")
    assert spec is not None
    folders = [Path(path) / "audio" / "sample" for path in spec.submodule_search_locations or ()]
    return next(folder / name for folder in folders if (folder / name).is_file())


@cache
def sample_audio() -> np.ndarray:
    """The 30 s call: float32, mono, 16 kHz, read-only as the runner's memory map is."""
    with wave.open(str(sample_file("sample.wav"))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        audio = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768
    audio.setflags(write=False)
    return audio


def make_wav2vec2(folder: Path, **changes: Any) -> Path:
    """A wav2vec2 model that hears noise, but has the shape of a real one; its configuration may be changed. The pipeline
    must be loaded: it sets transformers' environment up."""
    import transformers

    library: Any = transformers  # typed in part only
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
