"""Long recordings: diarization with bounded memory finds the same speakers as pyannote without bounds.

Voices are synthetic, six hours in seconds; test_accuracy.py covers what a model makes of real ones.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.reference import sample_audio
from tests.support.partitions import same_partition
from tests.support.pipeline import loaded

WINDOWS_PER_HOUR = 7200
DIMENSION = 64
FRAMES = 10


@pytest.fixture(scope="module", autouse=True)
def pipeline() -> Any:
    """The embedded pyannote pipeline, which the other tests use, too; loading it prepares the environment."""
    stages = loaded()[0]._stages
    assert stages is not None
    return stages.diarizer._pipeline


def agglomerative(max_embeddings: int | None) -> Any:
    from pyannote.audio.pipelines.clustering import AgglomerativeClustering

    from daemon.pipeline.pyannote_adapter.long_recordings import _bound_clustering

    clustering = AgglomerativeClustering(metric="cosine")
    clustering.instantiate({"method": "centroid", "threshold": 0.48, "min_cluster_size": 12})
    if max_embeddings:
        _bound_clustering(clustering, max_embeddings)
    return clustering


def voices(windows: int, speakers: np.ndarray) -> tuple[np.ndarray, Any]:
    """Return embeddings (windows, 3, dimension) and activity of a recording with one speaker per window."""
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
    """Return who speaks in each window: turns of 10 windows in random order."""
    turns = np.random.default_rng(2).integers(0, speakers, windows // 10 + 1)
    return np.repeat(turns, 10)[:windows]


@pytest.mark.parametrize("bounds", [{"min_clusters": 2, "max_clusters": 20}, {"num_clusters": 9}])
def test_speakers_of_six_hours_are_found(bounds: dict[str, int]) -> None:
    windows = 6 * WINDOWS_PER_HOUR
    truth = turns_of(9, windows)
    truth[20_000:20_024] = 8  # and turn 8 is assigned to the speaker with only twelve seconds
    truth[(truth == 8) & ~np.isin(np.arange(windows), np.arange(20_000, 20_024))] = 0
    embeddings, active = voices(windows, truth)
    found, _, centroids = agglomerative(2000)(embeddings, active, **bounds)
    assert len(centroids) == 9
    assert same_partition(found[:, 0], truth)


def test_below_the_bound_the_result_is_that_of_pyannote() -> None:
    truth = turns_of(4, 600)
    embeddings, active = voices(600, truth)
    bounded = agglomerative(600)
    expected = agglomerative(None)(embeddings.copy(), active, min_clusters=1, max_clusters=10)
    for size in (600, 6000, 600):  # an earlier long recording changes nothing
        longer, more_active = voices(size, turns_of(4, size))
        found = bounded(longer, more_active, min_clusters=1, max_clusters=10)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_forced_numbers_of_speakers_are_respected() -> None:
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
def test_frames_are_those_of_pyannote(unbounded: Callable[..., Any], seed: int) -> None:
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    from daemon.pipeline.pyannote_adapter.long_recordings import reconstruct

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
    heard = np.zeros_like(ours.data)  # speakers that no window hears are active in pyannote.audio, if there are too few
    for window, of_window in enumerate(clusters):
        first = frames.closest_frame(window * 0.5 + 0.5 * frames.duration)
        for speaker in set(of_window.tolist()) - {-2}:
            heard[first : first + scores.shape[1], speaker] = 1
    np.testing.assert_array_equal(ours.data, theirs.data * heard)
    assert ours.extent == theirs.extent


def test_thresholds_in_blocks_match_those_of_the_whole() -> None:
    from pyannote.audio.utils.signal import binarize
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    from daemon.pipeline.pyannote_adapter.long_recordings import BLOCK_WINDOWS, binarize_in_blocks

    scores = np.random.default_rng(3).random((BLOCK_WINDOWS * 2 + 1, 20, 3)).astype(np.float32)
    scores[5] = 0.5  # neither above nor below
    segmentation = SlidingWindowFeature(scores, SlidingWindow(start=0.0, duration=5.0, step=0.5))
    ours = binarize_in_blocks(segmentation, onset=0.5, initial_state=False)
    np.testing.assert_array_equal(ours.data, binarize(segmentation, onset=0.5, initial_state=False).data)


def test_real_call_gives_the_same_result(pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare every bound with unmodified pyannote.audio."""
    import torch
    from pyannote.audio.pipelines import speaker_diarization
    from pyannote.audio.utils.signal import binarize

    from daemon.pipeline.runtime.library_output import suppress_library_output

    dialogue = sample_audio()[6 * 16_000 : 20 * 16_000]

    def diarize() -> Any:
        with suppress_library_output():
            return pipeline({"waveform": torch.tensor(dialogue)[None], "sample_rate": 16_000}, max_speakers=6)

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
    """Six hours of voices are clustered in the memory of 2000 embeddings; all pairs would take 7.5 GB."""
    windows, kept = 6 * WINDOWS_PER_HOUR, 2000
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(windows), str(kept)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    speakers, peak_bytes = map(int, child.stdout.split())
    all_embeddings = windows * 3 * DIMENSION * 8  # the distances are computed on doubles
    print(f"\n{peak_bytes / 1e6:.0f} MB for six hours of voices")
    assert speakers == 6
    assert peak_bytes < 4 * all_embeddings + 4 * 8 * kept**2 / 2
