"""Speaker diarization without a hub token: pyannote's pipeline with models from Python packages.

Segmentation uses the pyannote model inside whisperx. Speaker embeddings use CAM++ where its package can be installed, and
GE2E elsewhere.
"""

from typing import Any

import numpy as np
from pyannote.audio import Model
from pyannote.audio.core.plda import PLDA
from pyannote.audio.pipelines import SpeakerDiarization
from pyannote.audio.pipelines.clustering import BaseClustering
from pyannote.core import SlidingWindowFeature

from daemon.pipeline.diarization.clustering import (
    MOST_SPEAKERS,
    Similarities,
    SpeakerBounds,
    cluster_speakers,
    mean_voices,
    unit,
)
from daemon.pipeline.pyannote_adapter.campplus import CamPlusPlus
from daemon.pipeline.pyannote_adapter.ge2e import Ge2e
from daemon.weights.packaged import CAMPPLUS, GE2E, SpeakerEncoder, speaker_encoder

# Key in the file dict, in addition to pyannote's own: the fewest and the most speakers that are expected, each or None.
EXPECTED_SPEAKERS = "expected_speakers"

# The spectral clustering compares all pairs of embeddings and takes half a second for this many.
MAX_EMBEDDINGS = 2_000

SIMILARITIES = {
    CAMPPLUS.name: Similarities(unrelated=0.4, too_many=0.5, several=0.65, few=0.8),
    GE2E.name: Similarities(unrelated=0.7, too_many=0.78, several=0.84, few=0.905),
}


class SpectralClustering(BaseClustering):
    """pyannote's interface to `cluster_speakers`."""

    expects_num_clusters = False

    def __init__(self, similarities: Similarities) -> None:
        super().__init__(metric="cosine")
        self._similarities = similarities

    def __call__(  # type: ignore[override]  # pyannote declares one array and returns three
        self,
        embeddings: np.ndarray,
        segmentations: SlidingWindowFeature,
        num_clusters: int | None = None,
        min_clusters: int | None = None,
        max_clusters: float | None = None,
        file: Any = None,
        **_: Any,
    ) -> tuple[np.ndarray, None, np.ndarray]:
        """Return the speaker of each local speaker, (windows, local speakers), -2 without an embedding; None; and the
        speakers' mean embeddings, (speakers, dimension).

        embeddings: (windows, local speakers, dimension), NaN where there is too little speech.
        """
        heard = self.filter_embeddings(embeddings, segmentations=segmentations)[0]
        if not len(heard):  # no one speaks for long; what there is must do
            heard = self.filter_embeddings(embeddings, segmentations=segmentations, min_active_ratio=0.0)[0]
        if not len(heard):
            return np.zeros(embeddings.shape[:2], dtype=int), None, np.full((1, embeddings.shape[2]), np.nan)
        fewest, most = (file or {}).get(EXPECTED_SPEAKERS) or (None, None)
        bounds = SpeakerBounds(
            low=num_clusters or min_clusters or 1,
            high=int(min(num_clusters or max_clusters or len(heard), len(heard))),
            expected_low=fewest or 1,
            expected_high=most or MOST_SPEAKERS,
        )
        means = mean_voices(unit(heard), cluster_speakers(heard, self._similarities, bounds))
        similarity = unit(embeddings) @ means.T
        missing = np.isnan(embeddings).any(axis=2)
        speakers = np.where(missing, -2, np.argmax(np.nan_to_num(similarity, nan=-1.0), axis=2))
        return speakers, None, means


class PackagedDiarization(SpeakerDiarization):
    """pyannote's pipeline with this clustering.

    `window_hop`: use every so many windows of the segmentation. Windows of 5 s every 0.5 s overlap by 90 %; with every
    second one, half of the embeddings are computed, and the speakers are the same.
    """

    window_hop = 1

    def __init__(self, segmentation: Any, encoder: SpeakerEncoder) -> None:
        network: Model = CamPlusPlus() if encoder == CAMPPLUS else Ge2e()
        super().__init__(
            segmentation=segmentation,
            embedding=network,
            embedding_exclude_overlap=True,
            clustering="AgglomerativeClustering",  # replaced below
            # Required by the constructor even for a clustering that never uses it.
            plda=object.__new__(PLDA),
            segmentation_batch_size=32,
            embedding_batch_size=32,
        )
        self.clustering = SpectralClustering(SIMILARITIES[encoder.name])
        self.window_hop = 2 if encoder == CAMPPLUS else 1


def embedded_pipeline(segmentation: Any, encoder: SpeakerEncoder | None = None) -> PackagedDiarization:
    """Build the pipeline around a loaded segmentation model (pyannote/segmentation, from whisperx).

    `encoder` is the best installed one by default. Raises ModelUnavailable when no encoder's package is installed.
    """
    pipeline = PackagedDiarization(segmentation, encoder or speaker_encoder())
    pipeline.instantiate({"segmentation": {"threshold": 0.5, "min_duration_off": 0.0}, "clustering": {}})
    return pipeline
