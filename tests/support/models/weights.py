"""Model repositories as on the hub, for tests: real formats and real loaders with random weights."""

import json
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from daemon.weights.packaged import whisper_base

LETTERS = "abcdefghijklmnopqrstuvwxyz'"

CONFIG = """
dependencies:
  pyannote.audio: 4.0.0
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: VBxClustering
    segmentation: $model/segmentation
    segmentation_batch_size: 32
    embedding: $model/embedding
    embedding_batch_size: 32
    embedding_exclude_overlap: true
    plda: $model/plda
params:
  clustering:
    threshold: 0.6
    Fa: 0.07
    Fb: 0.8
  segmentation:
    min_duration_off: 0.0
    threshold: 0.5
"""


def whisper() -> dict[str, bytes]:
    """Return Whisper base with the other files of its repository."""
    return {**_folder(whisper_base()), "README.md": b"# Whisper base", ".gitattributes": b"*.bin filter=lfs"}


@cache
def wav2vec2() -> dict[str, bytes]:
    """Return a wav2vec2 model with one small layer, as safetensors and as a pickle."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
    config = Wav2Vec2Config(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        tokenizer = Wav2Vec2CTCTokenizer(  # type: ignore[no-untyped-call]
            str(folder / "vocab.json"), unk_token="<unk>", pad_token="<pad>", word_delimiter_token="|"
        )
        features = Wav2Vec2FeatureExtractor()  # type: ignore[no-untyped-call]
        Wav2Vec2Processor(features, tokenizer).save_pretrained(folder)  # type: ignore[no-untyped-call]
        Wav2Vec2ForCTC(config).save_pretrained(folder, safe_serialization=True)
        return {**_folder(folder), "pytorch_model.bin": b"pickle" * 50_000, "README.md": b"# Dutch"}


@cache
def diarization() -> dict[str, bytes]:
    """Return a pyannote pipeline with the segmentation model that whisperx ships and untrained models for the rest."""
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import WeSpeakerResNet34

    segmentation = Path(str(files("whisperx"))) / "assets" / "pytorch_model.bin"
    embedding = WeSpeakerResNet34()
    embedding.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["a", "b"]
    )
    checkpoint: dict[str, Any] = {"state_dict": embedding.state_dict(), "hyper_parameters": dict(embedding.hparams)}
    checkpoint["pytorch-lightning_version"] = "2.0.0"
    embedding.on_save_checkpoint(checkpoint)  # type: ignore[no-untyped-call]
    written = BytesIO()
    torch.save(checkpoint, written)
    random = np.random.default_rng(0)
    return {
        "config.yaml": CONFIG.encode(),
        "README.md": b"# Pipeline",
        "segmentation/pytorch_model.bin": segmentation.read_bytes(),
        "embedding/pytorch_model.bin": written.getvalue(),
        "plda/xvec_transform.npz": _npz(mean1=np.zeros(256), mean2=np.zeros(128), lda=random.normal(size=(256, 128))),
        "plda/plda.npz": _npz(mu=np.zeros(128), tr=np.eye(128), psi=np.linspace(2, 1, 128)),
    }


def _npz(**arrays: np.ndarray) -> bytes:
    written = BytesIO()
    np.savez(written, **arrays)  # type: ignore[arg-type]
    return written.getvalue()


def _folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
