"""Save work in pyannote's sliding-window segmentation: skip silence, and reuse the output of speech detection."""

from math import ceil
from typing import Any

import numpy as np
import torch
from pyannote.audio import Inference
from pyannote.core import SlidingWindow, SlidingWindowFeature

from daemon.pipeline.runtime.device import ComputeDevice, exact_float32
from daemon.pipeline.runtime.worker_pool import WorkerPool

SEGMENTATION = "segmentation"  # key in the file dict, in addition to pyannote's own

# Windows per batch in a lane. On a CPU, a filter bank's output for 32 windows, 80 MB per layer, exceeds the caches: 8
# are no slower, faster on one thread, and need less memory.
BATCH_SIZES = {"cuda": 32, "cpu": 8}


def choose_batch_size(device: ComputeDevice) -> int:
    """Return the number of windows per batch, over all lanes."""
    return BATCH_SIZES[device.type] * device.lanes


def segment_in_parallel(inference: Any, lanes: WorkerPool) -> None:
    """Make pyannote's Inference distribute a batch's windows over the lanes, and compute digital silence only once.

    The other channel of a telephone call often contains digital silence.
    """
    infer = inference.infer
    with exact_float32():
        of_silence = infer(torch.zeros(1, 1, inference.model.audio.get_num_samples(inference.duration)))

    def infer_sound(chunks: torch.Tensor) -> np.ndarray:
        sounding = chunks.any(dim=2)[:, 0].numpy()
        scores = np.repeat(of_silence, len(chunks), axis=0)
        if sounding.any():
            parts = torch.split(chunks[sounding], ceil(sounding.sum() / lanes.count))
            scores[sounding] = np.concatenate(lanes.map(infer, parts))
        return scores

    inference.infer = infer_sound


def reuse_segmentation(pipeline: Any, model: Any) -> bool:
    """Make a SpeakerDiarization pipeline reuse the segmentation that voice activity detection stored in the file.

    Return False and change nothing if the pipeline's own model differs from `model` or uses other windows. A packaged
    pipeline uses only some of the windows.
    """
    inference = pipeline._segmentation
    windows = Inference(model, skip_aggregation=True)  # as in voice activity detection
    if (inference.duration, inference.step) != (windows.duration, windows.step) or not _same_weights(
        inference.model, model
    ):
        return False
    compute, hop = pipeline.get_segmentations, getattr(pipeline, "window_hop", 1)

    def from_file(file: Any, hook: Any = None) -> Any:
        return every(hop, file[SEGMENTATION] if SEGMENTATION in file else compute(file, hook=hook))

    pipeline.get_segmentations = from_file
    return True


def every(hop: int, segmentation: SlidingWindowFeature) -> SlidingWindowFeature:
    """Return every `hop`-th window: (windows / hop, frames, local speakers).

    Where that would leave out the end of the recording, add a window with the end of the last one.
    """
    windows, data = segmentation.sliding_window, segmentation.data
    beyond = -(len(data) - 1) % hop
    if beyond:
        shift = round(beyond * windows.step / windows.duration * data.shape[1])
        last = np.zeros_like(data[-1:])
        last[:, :-shift] = data[-1:, shift:]
        data = np.concatenate([data, np.repeat(last, beyond, axis=0)])
    step = SlidingWindow(start=windows.start, duration=windows.duration, step=windows.step * hop)
    return SlidingWindowFeature(data[::hop], step)


def _same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name].to(ours[name])) for name in ours)
