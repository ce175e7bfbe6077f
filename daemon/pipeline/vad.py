"""Where there is speech: the pyannote segmentation model that ships inside whisperx, and whisperx's way of cutting."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyannote.audio import Inference, Model
from pyannote.core import Segment, SlidingWindowFeature
from whisperx.vads.pyannote import Pyannote

from daemon.errors import ModelUnavailable
from daemon.pipeline.devices import Device, exact_float32
from daemon.pipeline.lanes import Lanes
from daemon.pipeline.pieces import SAMPLE_RATE, Chunk
from daemon.pipeline.quiet import quietly
from daemon.pipeline.windows import batch_size_of, hear_in_lanes

NAME = "whisperx/pyannote-segmentation"

# whisperx's defaults (whisperx/asr.py, load_model).
ONSET, OFFSET = 0.500, 0.363
CHUNK_SECONDS = 30

MIN_SAMPLES = 400  # one analysis window: less is no sound to speak of


@dataclass(frozen=True, slots=True)
class Speech:
    """`chunks` is empty when nobody speaks.

    `segmentation` holds who of three local speakers is active: (windows, frames, 3), scores from 0 to 1. The embedded
    diarization starts from it, so that the model runs once.
    """

    chunks: list[Chunk]
    segmentation: SlidingWindowFeature | None


class SpeechDetector:
    def __init__(self, device: Device, lanes: Lanes) -> None:
        self.batch_size = batch_size_of(device)
        with quietly():
            model = Model.from_pretrained(Path(str(files("whisperx"))) / "assets" / "pytorch_model.bin")
            if model is None:
                raise ModelUnavailable("the pyannote model inside whisperx cannot be loaded; reinstall whisperx")
            self.model = model
            # Windows of 5 s, one every 0.5 s: what both voice activity detection and diarization are tuned for.
            self.inference: Any = Inference(self.model, skip_aggregation=True, device=torch.device(device.type))
            hear_in_lanes(self.inference, lanes)

    def detect(self, audio: np.ndarray, on_progress: Callable[[float], None], batch_size: int | None = None) -> Speech:
        """Speech in `audio` (float32, mono, 16 kHz), merged to chunks of at most 30 s.

        `batch_size` is in windows of 5 s; the device's own if not given.
        """
        if len(audio) < MIN_SAMPLES:
            return Speech([], None)

        def hook(completed: int, total: int) -> None:
            on_progress(min(completed / total, 1.0))

        self.inference.batch_size = batch_size or self.batch_size
        with quietly(), exact_float32():
            # torch warns that the memory map is read-only; nothing here writes to it.
            file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE}
            segmentation = self.inference(file, hook=hook)
            activity = Inference.aggregate(
                SlidingWindowFeature(segmentation.data.max(axis=-1, keepdims=True), segmentation.sliding_window),
                self.model.receptive_field,
                hamming=True,
                missing=0.0,
            )
            # The last window is padded to 5 s; what lies beyond the recording is not its concern.
            activity.data = activity.crop(Segment(0.0, len(audio) / SAMPLE_RATE), mode="loose")
            merged = Pyannote.merge_chunks(activity, CHUNK_SECONDS, onset=ONSET, offset=OFFSET)
        duration = len(audio) / SAMPLE_RATE
        return Speech([_chunk(chunk, duration) for chunk in merged], segmentation)


def _chunk(merged: dict[str, Any], duration: float) -> Chunk:
    # Frame centres may lie a frame beyond either end.
    regions = [(max(0.0, start), min(end, duration)) for start, end in merged["segments"]]
    return Chunk(start=regions[0][0], end=regions[-1][1], regions=tuple(regions))
