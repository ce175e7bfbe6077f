"""Long recordings: the speakers found with bounded memory are those that pyannote finds without bounds.

Voices are made up here, six hours of them in seconds; what a model makes of real ones is test_accuracy's.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.integration.pipeline_fixture import loaded, sample_audio

WINDOWS_PER_HOUR = 7200
DIMENSION = 64
FRAMES = 10


@pytest.fixture(scope="module", autouse=True)
def pipeline() -> Any:
    """The embedded pyannote pipeline, which the rest of the tests use too; loading it prepares the environment."""
    stages = loaded()[0]._stages
    assert stages is not None
    return stages.diarizer._pipeline


def agglomerative(max_embeddings: int | None) -> Any:
    from pyannote.audio.pipelines.clustering import AgglomerativeClustering

    from daemon.embedded.diarization import PARAMETERS
    from daemon.pipeline.long_recordings import _bound_clustering

    clustering = AgglomerativeClustering(metric="cosine")
    clustering.instantiate(PARAMETERS["clustering"])
    if max_embeddings:
        _bound_clustering(clustering, max_embeddings)
    return clustering


def voices(windows: int, speakers: np.ndarray) -> tuple[np.ndarray, Any]:
    """Embeddings (windows, 3, dimension) and activity of a recording in which one of the speakers speaks per window."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    dice = np.random.default_rng(1)
    centroids = dice.normal(size=(int(speakers.max()) + 1, DIMENSION))
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    embeddings = np.full((windows, 3, DIMENSION), np.nan, np.float32)
    embeddings[:, 0] = centroids[speakers] + dice.normal(0, 0.3 / DIMENSION**0.5, (windows, DIMENSION))
    active = np.zeros((windows, FRAMES, 3), np.float32)
    active[:, :, 0] = 1
    return embeddings, SlidingWindowFeature(active, SlidingWindow(start=0.0, duration=5.0, step=0.5))


def turns_of(speakers: int, windows: int) -> np.ndarray:
    """Who speaks in each window: turns of 10 windows, in no order."""
    turns = np.random.default_rng(2).integers(0, speakers, windows // 10 + 1)
    return np.repeat(turns, 10)[:windows]


def same_partition(found: np.ndarray, truth: np.ndarray) -> bool:
    pairs = set(zip(found.tolist(), truth.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(truth.tolist()))


@pytest.mark.parametrize("bounds", [{"min_clusters": 2, "max_clusters": 20}, {"num_clusters": 9}])
def test_the_speakers_of_six_hours_are_found(bounds: dict[str, int]) -> None:
    windows = 6 * WINDOWS_PER_HOUR
    truth = turns_of(9, windows)
    truth[20_000:20_024] = 8  # and turn 8 into the voice of twelve seconds alone
    truth[(truth == 8) & ~np.isin(np.arange(windows), np.arange(20_000, 20_024))] = 0
    embeddings, active = voices(windows, truth)
    found, _, centroids = agglomerative(2000)(embeddings, active, **bounds)
    assert len(centroids) == 9
    assert same_partition(found[:, 0], truth)


def test_up_to_the_bound_the_result_is_that_of_pyannote() -> None:
    truth = turns_of(4, 600)
    embeddings, active = voices(600, truth)
    bounded = agglomerative(600)
    expected = agglomerative(None)(embeddings.copy(), active, min_clusters=1, max_clusters=10)
    for size in (600, 6000, 600):  # a long recording before it changes nothing
        longer, more_active = voices(size, turns_of(4, size))
        found = bounded(longer, more_active, min_clusters=1, max_clusters=10)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_forced_numbers_of_speakers_hold() -> None:
    embeddings, active = voices(3000, turns_of(6, 3000))
    for number in (1, 3, 6):
        found, _, centroids = agglomerative(500)(embeddings.copy(), active, num_clusters=number)
        assert len(centroids) == number
        assert len(set(found[:, 0].tolist())) == number


@pytest.fixture
def unbounded(pipeline: Any) -> Callable[..., Any]:
    from pyannote.audio.pipelines import SpeakerDiarization

    return lambda *arguments: SpeakerDiarization.reconstruct(pipeline, *arguments)


@pytest.mark.parametrize("seed", range(8))
def test_frames_come_out_as_pyannote_has_them(unbounded: Callable[..., Any], seed: int) -> None:
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    from daemon.pipeline.long_recordings import reconstruct

    dice = np.random.default_rng(seed)
    windows = int(dice.integers(1, 60))
    scores = dice.random((windows, 293, 3)).astype(np.float32)
    segmentation = SlidingWindowFeature(scores, SlidingWindow(start=0.0, duration=5.0, step=0.5))
    clusters = dice.integers(-1, 3, (windows, 3))
    clusters[clusters == -1] = -2
    clusters[0, 0] = 1
    frames = SlidingWindow(start=0.0, duration=0.0619375, step=0.016875)
    total = frames.closest_frame(5 + (windows - 1) * 0.5 + 0.5 * frames.duration) + 1
    count = SlidingWindowFeature(dice.integers(0, 5, (total, 1)).astype(np.int8), frames)
    ours = reconstruct(segmentation, clusters, count)
    theirs = unbounded(segmentation, clusters, count)
    np.testing.assert_array_equal(ours.data, theirs.data)
    assert ours.extent == theirs.extent


def test_thresholds_in_blocks_are_those_of_the_whole() -> None:
    from pyannote.audio.utils.signal import binarize
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    from daemon.pipeline.long_recordings import BLOCK_WINDOWS, binarize_in_blocks

    scores = np.random.default_rng(3).random((BLOCK_WINDOWS * 2 + 1, 20, 3)).astype(np.float32)
    scores[5] = 0.5  # neither above nor below
    segmentation = SlidingWindowFeature(scores, SlidingWindow(start=0.0, duration=5.0, step=0.5))
    ours = binarize_in_blocks(segmentation, onset=0.5, initial_state=False)
    np.testing.assert_array_equal(ours.data, binarize(segmentation, onset=0.5, initial_state=False).data)


def test_a_real_call_comes_out_the_same(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound against pyannote.audio as it is."""
    import torch
    from pyannote.audio.pipelines import speaker_diarization
    from pyannote.audio.utils.signal import binarize

    from daemon.pipeline.quiet import quietly

    def diarize() -> Any:
        with quietly():
            return pipeline({"waveform": torch.tensor(sample_audio())[None], "sample_rate": 16_000}, max_speakers=6)

    ours = diarize()
    clustering = type(pipeline.clustering)
    monkeypatch.setattr(speaker_diarization, "binarize", binarize)
    monkeypatch.delattr(pipeline, "reconstruct")
    monkeypatch.delattr(pipeline.clustering, "filter_embeddings")
    assert clustering.filter_embeddings == pipeline.clustering.filter_embeddings.__func__
    theirs = diarize()
    assert ours.speaker_diarization == theirs.speaker_diarization
    assert ours.exclusive_speaker_diarization == theirs.exclusive_speaker_diarization
    np.testing.assert_array_equal(ours.speaker_embeddings, theirs.speaker_embeddings)


CHILD = """
import resource, sys
import numpy as np
from tests.integration import test_long_recordings as it
embeddings, active = it.voices(int(sys.argv[1]), it.turns_of(6, int(sys.argv[1])))
it.agglomerative(int(sys.argv[2]))(embeddings[:100].copy(), type(active)(active.data[:100], active.sliding_window))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found, _, centroids = it.agglomerative(int(sys.argv[2]))(embeddings, active, min_clusters=2, max_clusters=20)
print(len(centroids), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_is_bounded() -> None:
    """Six hours of voices compared in the memory of 2000; each with every other would take 7.5 GB."""
    windows, kept = 6 * WINDOWS_PER_HOUR, 2000
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(windows), str(kept)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    speakers, peak_bytes = map(int, child.stdout.split())
    all_embeddings = windows * 3 * DIMENSION * 8  # as the doubles that distances are computed on
    print(f"\n{peak_bytes / 1e6:.0f} MB for six hours of voices")
    assert speakers == 6
    assert peak_bytes < 4 * all_embeddings + 4 * 8 * kept**2 / 2
