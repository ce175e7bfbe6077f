"""Emissions of a wav2vec2 model: log probabilities per frame and token, batched where that does not change them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

MIN_SAMPLES = 400  # wav2vec2's minimum for one frame
MIN_FILLED = 0.5  # minimum length relative to the longest item of the batch: padding costs as much as speech


def takes_padding(model: torch.nn.Module) -> bool:
    """Whether padding to the length of a longer item in the batch leaves an item's result unchanged.

    Only Hugging Face models with layer norm and an attention mask guarantee this. Group norm, used by the base models
    and by all of torchaudio's defaults, averages over the whole time axis including the padding. torchaudio's large
    models normalize the batch as one waveform. (Items of equal length could share a batch, but are rare.)
    """
    config = getattr(model, "config", None)
    return getattr(config, "feat_extract_norm", None) == "layer" and not getattr(config, "add_adapter", False)


def batches(lengths: Sequence[float], size: int) -> Iterator[list[int]]:
    """Yield the indices of the lengths in batches of at most `size` items of similar length.

    The longest come first, so that a batch that does not fit into memory fails at once.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) == size or lengths[index] < MIN_FILLED * lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def log_probabilities(model: torch.nn.Module, device: str, spans: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compute a float32 array, frames × vocabulary, for each span of 16 kHz audio.

    Pass more than one span only if `takes_padding(model)`.
    """
    lengths = [max(len(span), MIN_SAMPLES) for span in spans]
    padded = np.zeros((len(spans), max(lengths)), np.float32)
    for row, span in zip(padded, spans, strict=True):
        row[: len(span)] = span
    waveforms = torch.from_numpy(padded).to(device)
    mask: dict[str, torch.Tensor] = {}
    if len(spans) > 1:
        mask["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(device)
    logits = model(waveforms, **mask)[0]  # the first output, both in torchaudio and in Hugging Face models
    log_probs = torch.log_softmax(logits, dim=-1).cpu().numpy()
    if len(spans) == 1:
        return [log_probs[0]]
    return [item[: _frames(model.config, length)] for item, length in zip(log_probs, lengths, strict=True)]


def _frames(config: Any, samples: int) -> int:
    """Number of frames that wav2vec2's convolutions produce from this many samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples
