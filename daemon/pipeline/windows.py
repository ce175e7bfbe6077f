"""What pyannote's segmentation models, which slide windows over a recording, need not compute."""

from math import ceil
from typing import Any

import numpy as np
import torch
from pyannote.audio import Inference

from daemon.pipeline.devices import Device, exact_float32
from daemon.pipeline.lanes import Lanes

SEGMENTATION = "segmentation"  # a file's key, beside pyannote's own

# Windows at once in a lane. On a processor what a filter bank makes of 32 of them, 80 MB for each layer, is no longer in its
# caches: 8 are no slower, on one thread quicker, and take less memory.
BATCH_SIZES = {"cuda": 32, "cpu": 8}


def batch_size_of(device: Device) -> int:
    """Windows at once, in all lanes together."""
    return BATCH_SIZES[device.type] * device.lanes


def hear_in_lanes(inference: Any, lanes: Lanes) -> None:
    """Let pyannote's Inference spread the windows of a batch over the lanes, and hear digital silence, as a call's other
    channel has it, once and not window by window."""
    infer = inference.infer
    with exact_float32():
        of_silence = infer(torch.zeros(1, 1, inference.model.audio.get_num_samples(inference.duration)))

    def infer_sound(windows: torch.Tensor) -> np.ndarray:
        sounding = windows.any(dim=2)[:, 0].numpy()
        scores = np.repeat(of_silence, len(windows), axis=0)
        if sounding.any():
            parts = torch.split(windows[sounding], ceil(sounding.sum() / lanes.count))
            scores[sounding] = np.concatenate(lanes.map(infer, parts))
        return scores

    inference.infer = infer_sound


def reuse_segmentation(pipeline: Any, model: Any) -> bool:
    """Let a SpeakerDiarization pipeline take the segmentation of `model` from the file, where voice activity detection left it.

    False, and nothing is changed, where the pipeline's own model is another one or hears other windows.
    """
    inference = pipeline._segmentation
    windows = Inference(model, skip_aggregation=True)  # as voice activity detection has them
    if (inference.duration, inference.step) != (windows.duration, windows.step) or not _same_weights(
        inference.model, model
    ):
        return False
    compute = pipeline.get_segmentations

    def from_file(file: Any, hook: Any = None) -> Any:
        return file[SEGMENTATION] if SEGMENTATION in file else compute(file, hook=hook)

    pipeline.get_segmentations = from_file
    return True


def _same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name].to(ours[name])) for name in ours)
