"""Speech detection with the pyannote segmentation model shipped in whisperx, cut into chunks at pauses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyannote.audio import Inference, Model
from pyannote.core import Segment, SlidingWindowFeature
from whisperx.vads.pyannote import Pyannote

from daemon.errors import ModelUnavailable
from daemon.pipeline.pyannote_adapter.patches import patch_speech_detection
from daemon.pipeline.pyannote_adapter.windows import choose_batch_size
from daemon.pipeline.runtime.device import ComputeDevice, exact_float32
from daemon.pipeline.runtime.library_output import suppress_library_output
from daemon.pipeline.runtime.worker_pool import WorkerPool
from daemon.pipeline.speech.chunking import merge_regions
from daemon.pipeline.types import SAMPLE_RATE, Chunk
from daemon.weights.packaged import VOICE_ACTIVITY

NAME = "whisperx/pyannote-segmentation"

# whisperx's defaults (whisperx/asr.py, load_model).
ONSET, OFFSET = 0.500, 0.363
CHUNK_SECONDS = 30

MIN_SAMPLES = 400  # one analysis window; shorter audio counts as silence


@dataclass(frozen=True, slots=True)
class Speech:
    """Result of speech detection. `chunks` is empty if there is no speech.

    `segmentation` holds the activity of three local speakers: (windows, frames, 3), scores from 0 to 1. The embedded
    diarization reuses it, so that the model runs only once.
    """

    chunks: list[Chunk]
    segmentation: SlidingWindowFeature | None


class SpeechDetector:
    def __init__(self, device: ComputeDevice, lanes: WorkerPool) -> None:
        self.batch_size = choose_batch_size(device)
        with suppress_library_output():
            model = Model.from_pretrained(VOICE_ACTIVITY.verified())
            if model is None:
                raise ModelUnavailable("cannot load the pyannote model inside whisperx; reinstall whisperx")
            self.model = model
            # Windows of 5 s with a hop of 0.5 s: voice activity detection and diarization are both tuned for them.
            self.inference: Any = Inference(self.model, skip_aggregation=True, device=torch.device(device.type))
            patch_speech_detection(self.inference, lanes)

    def detect(self, audio: np.ndarray, on_progress: Callable[[float], None], batch_size: int | None = None) -> Speech:
        """Detect speech in `audio` (float32, mono, 16 kHz) and merge it into chunks of at most 30 s.

        `batch_size` is in windows of 5 s and defaults to the device's.
        """
        if len(audio) < MIN_SAMPLES:
            return Speech([], None)

        def hook(completed: int, total: int) -> None:
            on_progress(min(completed / total, 1.0))
            self.inference.batch_size = size  # a job that ran in the callback may have needed another one

        size = batch_size or self.batch_size
        self.inference.batch_size = size
        with suppress_library_output(), exact_float32():
            # torch warns about the read-only memory map; nothing here writes to it.
            file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE}
            segmentation = self.inference(file, hook=hook)
            activity = Inference.aggregate(
                SlidingWindowFeature(segmentation.data.max(axis=-1, keepdims=True), segmentation.sliding_window),
                self.model.receptive_field,
                hamming=True,
                missing=0.0,
            )
            # The last window is padded to 5 s; drop the activity beyond the end of the recording.
            activity.data = activity.crop(Segment(0.0, len(audio) / SAMPLE_RATE), mode="loose")
            merged = Pyannote.merge_chunks(activity, CHUNK_SECONDS, onset=ONSET, offset=OFFSET)
        duration = len(audio) / SAMPLE_RATE
        # Frame centers may lie up to one frame outside the recording.
        regions = [(max(0.0, start), min(end, duration)) for chunk in merged for start, end in chunk["segments"]]
        return Speech(merge_regions(regions, CHUNK_SECONDS), segmentation)
