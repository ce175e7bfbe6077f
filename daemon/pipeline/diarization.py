"""Who speaks when: a pyannote pipeline, from the hub, a folder, or the embedded one that needs no token."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyannote.audio import Pipeline
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.core import Annotation, SlidingWindowFeature

from daemon.catalog import EMBEDDED_DIARIZATION, diarization_name
from daemon.embedded.diarization import embedded_pipeline
from daemon.errors import DeviceFault, ModelUnavailable, TranscriptdError
from daemon.pipeline import long_recordings, speaker_embeddings
from daemon.pipeline.devices import Device, Failure, classify, exact_float32
from daemon.pipeline.lanes import Lanes
from daemon.pipeline.pieces import SAMPLE_RATE, Diarization, Turn
from daemon.pipeline.quiet import quietly
from daemon.pipeline.windows import SEGMENTATION, batch_size_of, hear_in_lanes, reuse_segmentation

EMBEDDING_DECIMALS = 6

# The share of the time that pyannote's two long steps take; each counts its own progress from 0.
STEP_SHARES = {"segmentation": (0.0, 0.3), "embeddings": (0.3, 0.95)}


class Diarizer:
    """`model` is `embedded`, a pyannote pipeline's hub id or folder, or `auto`: the hub's best with a token, else embedded.

    `segmentation` is the model of voice activity detection.

    Raises ModelUnavailable with what to do about it.
    """

    def __init__(self, model: str, segmentation: Any, device: Device, lanes: Lanes, hf_token: str | None) -> None:
        self._reuses_segmentation = False
        self.batch_size = batch_size_of(device)
        self.name = diarization_name(model, has_token=bool(hf_token))
        with quietly():
            self._pipeline = (
                embedded_pipeline(segmentation) if self.name == EMBEDDED_DIARIZATION else _load(self.name, hf_token)
            )
            self._pipeline.to(torch.device(device.type))
            if isinstance(self._pipeline, SpeakerDiarization):
                long_recordings.bound(self._pipeline)
                speaker_embeddings.stack_masks(self._pipeline, lanes)
                hear_in_lanes(self._pipeline._segmentation, lanes)
                self._reuses_segmentation = reuse_segmentation(self._pipeline, segmentation)

    def diarize(
        self,
        audio: np.ndarray,
        segmentation: SlidingWindowFeature | None,
        on_progress: Callable[[float], None],
        *,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        batch_size: int | None = None,
    ) -> Diarization:
        """Turns in `audio` (float32, mono, 16 kHz). `segmentation` is the VAD stage's, reused where the model is the same."""

        def hook(step: str, _: Any, *, completed: int | None = None, total: int | None = None, **__: Any) -> None:
            if completed is not None and total and step in STEP_SHARES:
                low, high = STEP_SHARES[step]
                on_progress(low + (high - low) * min(completed / total, 1.0))

        self._pipeline.segmentation_batch_size = batch_size or self.batch_size
        self._pipeline.embedding_batch_size = batch_size or self.batch_size
        with quietly(), exact_float32():
            # torch warns that the memory map is read-only; nothing here writes to it.
            file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE}
            if self._reuses_segmentation and segmentation is not None:
                file[SEGMENTATION] = segmentation
            output: Any = self._pipeline(
                file, num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers, hook=hook
            )
        if isinstance(output, Annotation):  # pipelines made before pyannote.audio 4
            turns = _turns(output)
            return Diarization(turns, turns, {})
        diarization = output.speaker_diarization
        return Diarization(
            _turns(diarization),
            _turns(output.exclusive_speaker_diarization),
            _voices(diarization.labels(), output.speaker_embeddings),
        )


def _load(name: str, hf_token: str | None) -> Any:
    if name.startswith(("/", ".", "~")) and not (Path(name) / "config.yaml").is_file():
        raise ModelUnavailable(
            f"TRANSCRIPTD_DIARIZATION_MODEL: {name} is not a folder with a pyannote pipeline's config.yaml"
        )
    advice = (
        f"check the network, accept the conditions at https://huggingface.co/{name} with the account of HF_TOKEN, or set "
        f"TRANSCRIPTD_DIARIZATION_MODEL={EMBEDDED_DIARIZATION}, which needs no token"
    )
    if not hf_token:
        advice = "HF_TOKEN is not set; " + advice
    try:
        pipeline = Pipeline.from_pretrained(name, token=hf_token)
    except TranscriptdError:
        raise
    except Exception as error:  # hub, file, YAML and torch errors share no base class
        if classify(error) is Failure.DEVICE:
            raise DeviceFault(f"CUDA failed while the diarization pipeline {name} was loaded: {error}") from error
        raise ModelUnavailable(f"the diarization pipeline {name} could not be loaded ({error}); {advice}") from error
    if pipeline is None:  # what pyannote returns, after printing why, for a gated repository
        raise ModelUnavailable(f"the diarization pipeline {name} is not accessible; {advice}")
    return pipeline


def _turns(annotation: Annotation) -> list[Turn]:
    return [
        Turn(segment.start, segment.end, str(label)) for segment, _, label in annotation.itertracks(yield_label=True)
    ]


def _voices(labels: Sequence[Any], centroids: np.ndarray | None) -> dict[str, list[float]]:
    """Label → unit-length embedding. pyannote gives zeros or NaN for a speaker of whom it has heard too little."""
    if centroids is None:
        return {}
    lengths = np.linalg.norm(centroids, axis=1)
    return {
        str(label): np.round(centroid / length, EMBEDDING_DECIMALS).tolist()
        for label, centroid, length in zip(labels, centroids, lengths, strict=True)
        if np.isfinite(length) and length > 0
    }
