"""Diarize with a pyannote pipeline: from the hub, from a folder, or the embedded one, which needs no token."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyannote.audio import Pipeline
from pyannote.core import Annotation, SlidingWindowFeature

from daemon.errors import DeviceFault, ModelUnavailable, TranscriptdError
from daemon.pipeline.pyannote_adapter.packaged import EXPECTED_SPEAKERS, PackagedDiarization, embedded_pipeline
from daemon.pipeline.pyannote_adapter.patches import patch_diarization
from daemon.pipeline.pyannote_adapter.windows import SEGMENTATION, choose_batch_size
from daemon.pipeline.runtime.device import ComputeDevice, Failure, classify, exact_float32
from daemon.pipeline.runtime.library_output import suppress_library_output
from daemon.pipeline.runtime.worker_pool import WorkerPool
from daemon.pipeline.types import SAMPLE_RATE, Diarization, Turn
from daemon.schema.catalog import EMBEDDED_DIARIZATION, diarization_name
from daemon.telemetry.redaction import describe
from daemon.weights.verified import VerifiedWeights, cached_only

EMBEDDING_DECIMALS = 6

# Range of the overall progress covered by pyannote's two long steps; each reports its own progress from 0.
STEP_SHARES = {"segmentation": (0.0, 0.3), "embeddings": (0.3, 0.95)}


class Diarizer:
    """A loaded diarization pipeline.

    `model` is `embedded`, a pyannote pipeline's hub ID or folder, or `auto`: the best one on the hub if there is a
    token, else the embedded one. `segmentation` is the model of voice activity detection.

    Raises ModelUnavailable; the message says how to fix it.
    """

    def __init__(
        self,
        model: str,
        segmentation: Any,
        device: ComputeDevice,
        lanes: WorkerPool,
        hf_token: str | None,
        weights: VerifiedWeights | None = None,
    ) -> None:
        self.batch_size = choose_batch_size(device)
        self.name = diarization_name(model, has_token=bool(hf_token))
        with suppress_library_output():
            self._pipeline = (
                embedded_pipeline(segmentation)
                if self.name == EMBEDDED_DIARIZATION
                else _load(self.name, hf_token, weights)
            )
            self._pipeline.to(torch.device(device.type))
            self._reuses_segmentation = patch_diarization(self._pipeline, segmentation, lanes)

    def diarize(
        self,
        audio: np.ndarray,
        segmentation: SlidingWindowFeature | None,
        on_progress: Callable[[float], None],
        *,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        expected_speakers: tuple[int | None, int | None] = (None, None),
        batch_size: int | None = None,
    ) -> Diarization:
        """Diarize `audio` (float32, mono, 16 kHz). Reuses the VAD stage's `segmentation` if the model is the same.

        `expected_speakers` are the fewest and the most. The embedded pipeline needs clearer evidence for other numbers.
        Any other pipeline is only given the most, as its bound.
        """

        def hook(step: str, _: Any, *, completed: int | None = None, total: int | None = None, **__: Any) -> None:
            if completed is not None and total and step in STEP_SHARES:
                low, high = STEP_SHARES[step]
                on_progress(low + (high - low) * min(completed / total, 1.0))
                choose_sizes()  # a job that ran in the callback may have needed others

        def choose_sizes() -> None:
            self._pipeline.segmentation_batch_size = batch_size or self.batch_size
            self._pipeline.embedding_batch_size = batch_size or self.batch_size

        choose_sizes()
        with suppress_library_output(), exact_float32():
            # torch warns about the read-only memory map; nothing here writes to it.
            file = {"waveform": torch.from_numpy(audio)[None], "sample_rate": SAMPLE_RATE}
            if isinstance(self._pipeline, PackagedDiarization):
                file[EXPECTED_SPEAKERS] = expected_speakers
            elif max_speakers is None and num_speakers is None:
                max_speakers = expected_speakers[1]
            if self._reuses_segmentation and segmentation is not None:
                file[SEGMENTATION] = segmentation
            output: Any = self._pipeline(
                file, num_speakers=num_speakers, min_speakers=min_speakers, max_speakers=max_speakers, hook=hook
            )
        if isinstance(output, Annotation):  # from pipelines made for pyannote.audio before 4
            turns = _turns(output)
            return Diarization(turns, turns, {})
        diarization = output.speaker_diarization
        return Diarization(
            _turns(diarization),
            _turns(output.exclusive_speaker_diarization),
            _speaker_embeddings(diarization.labels(), output.speaker_embeddings),
        )


def _load(name: str, hf_token: str | None, weights: VerifiedWeights | None = None) -> Any:
    if name.startswith(("/", ".", "~")) and not (Path(name) / "config.yaml").is_file():
        raise ModelUnavailable(
            f"TRANSCRIPTD_DIARIZATION_MODEL: {name} is not a folder with a pyannote pipeline's config.yaml"
        )
    advice = (
        f"check the network, accept the conditions at https://huggingface.co/{name} with the account of HF_TOKEN, or "
        f"set TRANSCRIPTD_DIARIZATION_MODEL={EMBEDDED_DIARIZATION}, which needs no token"
    )
    if not hf_token:
        advice = "HF_TOKEN is not set; " + advice
    verified = weights or VerifiedWeights.from_environment(hf_token=hf_token)
    try:
        revision = verified.diarization(name)
        with cached_only() if revision is not None else nullcontext():
            pipeline = Pipeline.from_pretrained(name, revision=revision, token=hf_token)
    except TranscriptdError:
        raise
    except Exception as error:  # hub, file, YAML and torch errors share no base class
        if classify(error) is Failure.DEVICE:
            raise DeviceFault(
                f"CUDA failed while loading the diarization pipeline {name}: {describe(error)}"
            ) from error
        raise ModelUnavailable(f"cannot load the diarization pipeline {name} ({describe(error)}); {advice}") from error
    if pipeline is None:  # pyannote returns None for a gated repository, after printing the reason
        raise ModelUnavailable(f"no access to the diarization pipeline {name}; {advice}")
    return pipeline


def _turns(annotation: Annotation) -> list[Turn]:
    return [
        Turn(segment.start, segment.end, str(label)) for segment, _, label in annotation.itertracks(yield_label=True)
    ]


def _speaker_embeddings(labels: Sequence[Any], centroids: np.ndarray | None) -> dict[str, list[float]]:
    """Map labels to unit-length embeddings. pyannote returns zeros or NaN for a speaker with too little speech."""
    if centroids is None:
        return {}
    lengths = np.linalg.norm(centroids, axis=1)
    return {
        str(label): np.round(centroid / length, EMBEDDING_DECIMALS).tolist()
        for label, centroid, length in zip(labels, centroids, lengths, strict=True)
        if np.isfinite(length) and length > 0
    }
