"""A Whisper model of a given shape with random weights: its text is meaningless, but each step takes as long as in a
real one."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from daemon.pipeline.runtime.library_output import prepare_environment, suppress_library_output
from daemon.weights.packaged import whisper_base


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int  # layers of the encoder and of the decoder
    width: int
    heads: int
    mels: int
    vocabulary: int


# openai/whisper-large-v3's config.json; the other one is for trial runs.
SHAPES = {"large-v3": Shape(32, 1280, 20, 128, 51_866), "tiny": Shape(1, 64, 2, 80, 51_865)}


def make_random_whisper(folder: Path, shape: Shape, compute_type: str) -> Path:
    """Create a model in CTranslate2's format inside `folder`, with the tokenizer of Whisper base, and return its
    folder.

    `compute_type` is CTranslate2's type of the stored weights. Large-v3 takes two minutes, 8 GB of memory and,
    temporarily, 6 GB of disk.
    """
    prepare_environment(None)
    with tempfile.TemporaryDirectory(dir=folder) as name, suppress_library_output():
        import torch
        from ctranslate2.converters import TransformersConverter
        from transformers import WhisperConfig, WhisperForConditionalGeneration

        config = WhisperConfig(
            vocab_size=shape.vocabulary,
            num_mel_bins=shape.mels,
            d_model=shape.width,
            encoder_layers=shape.layers,
            decoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=4 * shape.width,
            decoder_ffn_dim=4 * shape.width,
        )
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config).half()  # type: ignore[no-untyped-call]
        model.save_pretrained(name)
        del model
        tokenizer = whisper_base() / "tokenizer.json"
        shutil.copy(tokenizer, name)
        target = folder / "random"
        TransformersConverter(name, load_as_float16=True).convert(str(target), quantization=compute_type)
    shutil.copy(tokenizer, target)
    return target
