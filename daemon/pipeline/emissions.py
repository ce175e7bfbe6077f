"""What a wav2vec2 model hears: log probabilities of its tokens, frame by frame, in batches where that changes nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

MIN_SAMPLES = 400  # what wav2vec2 needs for one frame
MIN_FILLED = 0.5  # of the longest item of a batch: computing silence costs as much as computing speech


def takes_padding(model: torch.nn.Module) -> bool:
    """Whether a longer neighbour in the batch leaves an item's result as it is.

    Only Hugging Face's models with layer norm and an attention mask can say so. Group norm, which the base models and
    all of torchaudio's defaults have, takes its mean over the whole time, the padding included; torchaudio's large ones
    normalise the batch as one waveform. (Items of equal length would do, but speech is hardly ever cut to equal length.)
    """
    config = getattr(model, "config", None)
    return getattr(config, "feat_extract_norm", None) == "layer" and not getattr(config, "add_adapter", False)


def batches(lengths: Sequence[float], size: int) -> Iterator[list[int]]:
    """The indices of the lengths, in batches of at most `size` that are alike in length.

    The longest come first, so that what does not fit into memory shows at once.
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
    """One float32 array, frames × vocabulary, for each span of 16 kHz audio.

    More than one span at a time only for a model that takes padding.
    """
    lengths = [max(len(span), MIN_SAMPLES) for span in spans]
    padded = np.zeros((len(spans), max(lengths)), np.float32)
    for row, span in zip(padded, spans, strict=True):
        row[: len(span)] = span
    waveforms = torch.from_numpy(padded).to(device)
    mask: dict[str, torch.Tensor] = {}
    if len(spans) > 1:
        mask["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).to(device)
    logits = model(waveforms, **mask)[0]  # first of what torchaudio's models return, and Hugging Face's
    log_probs = torch.log_softmax(logits, dim=-1).cpu().numpy()
    if len(spans) == 1:
        return [log_probs[0]]
    return [item[: _frames(model.config, length)] for item, length in zip(log_probs, lengths, strict=True)]


def _frames(config: Any, samples: int) -> int:
    """How many frames wav2vec2's convolutions make of so many samples."""
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples
