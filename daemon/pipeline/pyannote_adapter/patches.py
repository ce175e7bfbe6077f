"""List of all patches to pyannote.audio. tests/integration/test_pyannote_patches.py fails if an upgrade breaks one.

Patches apply to objects, not classes, except `binarize`, which pyannote calls as a module-level function.
"""

from dataclasses import dataclass
from typing import Any

from pyannote.audio import Inference
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.audio.pipelines.clustering import BaseClustering
from pyannote.audio.utils import signal

from daemon.pipeline.pyannote_adapter import long_recordings, speaker_embeddings, windows
from daemon.pipeline.pyannote_adapter.packaged import MAX_EMBEDDINGS, PackagedDiarization
from daemon.pipeline.runtime.worker_pool import WorkerPool


@dataclass(frozen=True, slots=True)
class Patch:
    """A pyannote function that is replaced, and the parameters that the replacement relies on."""

    owner: Any  # class or module that defines it
    name: str
    parameters: tuple[str, ...]
    replaced_by: str  # module of this package


PATCHES = (
    Patch(signal, "binarize", ("scores", "onset", "offset", "initial_state"), "long_recordings"),
    Patch(SpeakerDiarization, "reconstruct", ("self", "segmentations", "hard_clusters", "count"), "long_recordings"),
    Patch(
        BaseClustering,
        "filter_embeddings",
        ("self", "embeddings", "segmentations", "min_active_ratio"),
        "long_recordings",
    ),
    Patch(
        SpeakerDiarization,
        "get_embeddings",
        ("self", "file", "binary_segmentations", "exclude_overlap", "hook"),
        "speaker_embeddings",
    ),
    Patch(SpeakerDiarization, "get_segmentations", ("self", "file", "hook"), "windows"),
    Patch(Inference, "infer", ("self", "chunks"), "windows"),
)


def patch_diarization(pipeline: Any, segmentation: Any, lanes: WorkerPool) -> bool:
    """Patch an instantiated SpeakerDiarization pipeline; leave any other pipeline unchanged.

    Return True if it reuses the output of speech detection with the model `segmentation` (windows.SEGMENTATION).
    """
    if not isinstance(pipeline, SpeakerDiarization):
        return False
    packaged = isinstance(pipeline, PackagedDiarization)
    long_recordings.bound(pipeline, MAX_EMBEDDINGS if packaged else long_recordings.MAX_EMBEDDINGS)
    speaker_embeddings.stack_masks(pipeline, lanes)
    windows.segment_in_parallel(pipeline._segmentation, lanes)
    return windows.reuse_segmentation(pipeline, segmentation)


def patch_speech_detection(inference: Inference, lanes: WorkerPool) -> None:
    """Patch the inference that detects speech."""
    windows.segment_in_parallel(inference, lanes)
