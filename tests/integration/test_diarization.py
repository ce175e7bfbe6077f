"""Our replacements of parts of pyannote.audio give its results: embeddings, speaker turns, and the TF32 state
afterwards."""

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.reference import reference_turns, sample_audio
from daemon.weights.packaged import GE2E
from tests.support.models import weights
from tests.support.pipeline import loaded

EMBEDDINGS = "embedded", "ge2e", "wespeaker"
RATE = 16_000
TOLERANCE = 1e-6

both_embeddings = pytest.mark.parametrize("name", EMBEDDINGS)


@pytest.fixture(scope="module")
def stages() -> Any:
    stages = loaded()[0]._stages
    assert stages is not None
    return stages


@cache
def dialogue() -> np.ndarray:
    """A part of the call in which both speak. The cost of pyannote's own embeddings rises with each window of half a
    second."""
    return sample_audio()[6 * RATE : 20 * RATE]


@pytest.fixture(scope="module")
def segmentation(stages: Any) -> Any:
    return stages.detector.detect(dialogue(), lambda _: None).segmentation


@pytest.fixture(scope="module")
def pipelines(stages: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The embedded pipeline with either encoder, and one like the hub's: WeSpeaker's ResNet, here a small untrained one,
    and VBx."""
    from pyannote.audio.core.plda import PLDA
    from pyannote.audio.pipelines import SpeakerDiarization

    from daemon.pipeline.pyannote_adapter import long_recordings, speaker_embeddings
    from daemon.pipeline.pyannote_adapter.packaged import embedded_pipeline
    from daemon.pipeline.pyannote_adapter.patches import patch_diarization
    from daemon.pipeline.pyannote_adapter.windows import reuse_segmentation

    folder: Path = tmp_path_factory.mktemp("plda")
    for path, content in weights.diarization().items():
        if path.startswith("plda/"):
            (folder / path.removeprefix("plda/")).write_bytes(content)
    plda = PLDA.from_pretrained(folder)
    assert plda is not None
    wespeaker: Any = SpeakerDiarization(
        segmentation=stages.detector.model,
        embedding=small_resnet(),
        embedding_exclude_overlap=True,
        plda=plda,
        embedding_batch_size=32,
    )
    wespeaker.instantiate(
        {
            "segmentation": {"threshold": 0.5, "min_duration_off": 0.0},
            "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
        }
    )
    long_recordings.bound(wespeaker)
    speaker_embeddings.stack_masks(wespeaker, stages.lanes)
    assert reuse_segmentation(wespeaker, stages.detector.model)
    ge2e = embedded_pipeline(stages.detector.model, GE2E)
    assert patch_diarization(ge2e, stages.detector.model, stages.lanes)
    return {"embedded": stages.diarizer._pipeline, "ge2e": ge2e, "wespeaker": wespeaker}


def small_resnet() -> Any:
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding.wespeaker import BaseWeSpeakerResNet
    from pyannote.audio.models.embedding.wespeaker.resnet import BasicBlock, ResNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BaseWeSpeakerResNet()
        model.resnet = ResNet(  # type: ignore[no-untyped-call]
            BasicBlock, [1, 1, 1, 1], m_channels=4, feat_dim=80, embed_dim=256, two_emb_layer=False
        )
    model.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["a", "b"]
    )
    return model.eval()


def recording(segmentation: Any = None) -> dict[str, Any]:
    import torch

    file: dict[str, Any] = {"waveform": torch.tensor(dialogue())[None], "sample_rate": RATE, "uri": "call"}
    return file if segmentation is None else {**file, "segmentation": segmentation}


def binary(segmentation: Any, change: Callable[[np.ndarray], None] = lambda _: None) -> Any:
    """Return who speaks in each frame of the call, after a change to it."""
    from pyannote.audio.utils.signal import binarize
    from pyannote.core import SlidingWindowFeature

    scores = binarize(segmentation, onset=0.5, initial_state=False).data.copy()
    change(scores)
    return SlidingWindowFeature(scores, segmentation.sliding_window)


def assert_as_pyannote(pipeline: Any, masks: Any, exclude_overlap: bool) -> np.ndarray:
    from pyannote.audio.pipelines import SpeakerDiarization

    from daemon.pipeline.runtime.library_output import suppress_library_output

    with suppress_library_output():
        ours: np.ndarray = pipeline.get_embeddings(recording(), masks, exclude_overlap=exclude_overlap)
        theirs = SpeakerDiarization.get_embeddings(pipeline, recording(), masks, exclude_overlap=exclude_overlap)
    assert ours.dtype == theirs.dtype
    assert np.isfinite(ours).any()
    print(f"\nlargest difference {np.nanmax(np.abs(ours - theirs)):.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, equal_nan=True)
    return ours


@both_embeddings
@pytest.mark.parametrize("exclude_overlap", [False, True])
def test_embeddings_are_those_of_pyannote(
    pipelines: dict[str, Any], segmentation: Any, name: str, exclude_overlap: bool
) -> None:
    assert_as_pyannote(pipelines[name], binary(segmentation), exclude_overlap)


@both_embeddings
def test_silence_gaps_and_overlap_are_those_of_pyannote(
    pipelines: dict[str, Any], segmentation: Any, name: str
) -> None:
    def change(scores: np.ndarray) -> None:
        scores[10:] = 0  # no one speaks
        scores[3, :, 1] = scores[3, :, 0] = 1  # both speak all the time: without the overlap nothing remains of them
        scores[5, 40:60] = np.nan  # unknown
        scores[6] = 0
        scores[6, 100, 2] = 1  # one frame

    assert_as_pyannote(pipelines[name], binary(segmentation, change), exclude_overlap=True)


def test_speech_too_short_without_overlap_uses_the_overlap(
    pipelines: dict[str, Any], segmentation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(scores: np.ndarray) -> None:
        scores[4:] = 0
        scores[:4] = [1, 1, 0]
        scores[:4, 200:, 1] = 0  # 93 frames, 1.6 s, of the first speaker alone

    pipeline, masks = pipelines["wespeaker"], binary(segmentation, change)
    found = []
    for seconds in (0.1, 2.0):
        monkeypatch.setitem(vars(pipeline._embedding), "min_num_samples", round(seconds * 16_000))
        found.append(assert_as_pyannote(pipeline, masks, exclude_overlap=True)[0, 0])
    assert np.abs(found[0] - found[1]).max() > 100 * TOLERANCE


@both_embeddings
def test_each_window_is_embedded_once_and_silence_never(
    pipelines: dict[str, Any], segmentation: Any, name: str
) -> None:
    pipeline = pipelines[name]

    def change(scores: np.ndarray) -> None:
        scores[:8] = 0

    masks = binary(segmentation, change)
    heard: list[int] = []
    progress: list[tuple[int, int]] = []
    handle = pipeline._embedding.model_.register_forward_pre_hook(lambda _, inputs: heard.append(len(inputs[0])))
    try:
        pipeline.get_embeddings(
            recording(), masks, hook=lambda _, __, total, completed: progress.append((completed, total))
        )
    finally:
        handle.remove()
    spoken = int(masks.data[8:].any(axis=(1, 2)).sum())
    assert 0 < spoken <= len(masks.data) - 8
    assert sum(heard) == 1 + spoken  # one embedding is shared by all silent speakers
    batches = math.ceil(spoken / pipeline.embedding_batch_size)
    assert progress == [(completed, batches) for completed in range(batches + 1)]


@both_embeddings
@pytest.mark.parametrize("bounds", [{}, {"num_speakers": 1}, {"min_speakers": 3, "max_speakers": 4}])
def test_turns_are_those_of_pyannote(
    pipelines: dict[str, Any], segmentation: Any, name: str, bounds: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.pipeline.runtime.library_output import suppress_library_output

    pipeline = pipelines[name]
    with suppress_library_output():
        ours = pipeline(recording(segmentation), **bounds)
        monkeypatch.delattr(pipeline, "get_embeddings")
        theirs = pipeline(recording(segmentation), **bounds)
    assert ours.speaker_diarization.labels()
    assert ours.speaker_diarization == theirs.speaker_diarization
    assert ours.exclusive_speaker_diarization == theirs.exclusive_speaker_diarization
    np.testing.assert_allclose(ours.speaker_embeddings, theirs.speaker_embeddings, rtol=0, atol=TOLERANCE)


def test_digital_silence_is_segmented_once_with_the_same_scores(stages: Any) -> None:
    from daemon.pipeline.runtime.library_output import suppress_library_output

    inference = stages.detector.inference
    silence = np.zeros(16_000 * 12, np.float32)
    audio = np.concatenate([sample_audio()[96_000:208_000], silence, sample_audio()[80_000:176_000], silence])
    file = {**recording(), "waveform": recording()["waveform"].new_tensor(audio)[None]}
    heard: list[int] = []
    handle = inference.model.register_forward_pre_hook(lambda _, inputs: heard.append(len(inputs[0])))
    try:
        with suppress_library_output():
            ours = inference(file)
            windows, heard[:] = sum(heard), []
            without = type(inference)(inference.model, skip_aggregation=True, batch_size=inference.batch_size)
            theirs = without(file)
    finally:
        handle.remove()
    assert windows <= sum(heard) - 2 * (12 - 5)  # at least: windows start every half second
    np.testing.assert_allclose(ours.data, theirs.data, rtol=0, atol=TOLERANCE)


def test_pipeline_with_the_vad_model_does_not_run_it_again(stages: Any, segmentation: Any, tmp_path: Path) -> None:
    from daemon.pipeline.diarization.diarizer import Diarizer

    for path, content in weights.diarization().items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    diarizer = Diarizer(str(tmp_path), stages.detector.model, stages.device, stages.lanes, None)
    audio = sample_audio()[112_000:208_000]
    found = stages.detector.detect(audio, lambda _: None).segmentation
    heard: list[int] = []
    handle = diarizer._pipeline._segmentation.model.register_forward_pre_hook(lambda *_: heard.append(1))
    try:
        reused = diarizer.diarize(audio, found, lambda _: None)
        assert heard == []
        assert diarizer.diarize(audio, None, lambda _: None) == reused
        assert heard != []
    finally:
        handle.remove()
    assert reused.turns


def test_pipeline_with_another_model_runs_its_own(stages: Any) -> None:
    from copy import deepcopy

    import torch

    from daemon.pipeline.pyannote_adapter.windows import reuse_segmentation

    def pipeline(model: Any, step: float) -> Any:
        return SimpleNamespace(
            _segmentation=SimpleNamespace(model=model, duration=5.0, step=step), get_segmentations=None
        )

    own = stages.detector.model
    other = deepcopy(own)
    with torch.no_grad():
        other.classifier.bias[0] += 1e-3
    assert reuse_segmentation(pipeline(deepcopy(own), step=0.5), own)
    for different in (pipeline(other, step=0.5), pipeline(own, step=1.0), pipeline(own.sincnet, step=0.5)):
        assert not reuse_segmentation(different, own)
        assert different.get_segmentations is None


def test_other_models_use_pyannote() -> None:
    from daemon.pipeline.pyannote_adapter.speaker_embeddings import stack_masks
    from daemon.pipeline.runtime.worker_pool import WorkerPool

    for pipeline in (SimpleNamespace(), SimpleNamespace(_embedding=object())):
        stack_masks(pipeline, WorkerPool(1))
        assert not hasattr(pipeline, "get_embeddings")


@pytest.fixture
def tf32() -> Iterator[Callable[[], tuple[bool, bool]]]:
    """Switch TF32 on, as a process that prefers speed does, and return a function that reads the current state."""
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    yield lambda: (matmul.allow_tf32, cudnn.allow_tf32)
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.parametrize("stage", ["detect", "diarize"])
@pytest.mark.parametrize("fails", [False, True])
def test_pyannotes_change_of_tf32_is_undone(
    stages: Any, segmentation: Any, tf32: Callable[[], tuple[bool, bool]], stage: str, fails: bool
) -> None:
    import torch
    from pyannote.audio.utils.reproducibility import fix_reproducibility

    seen: list[tuple[bool, bool]] = []

    def on_progress(_: float) -> None:
        seen.append(tf32())
        fix_reproducibility(torch.device("cuda"))  # as pyannote does before it uses a GPU
        if fails:
            raise InterruptedError("the test gave up")

    def run() -> None:
        if stage == "detect":
            stages.detector.detect(sample_audio()[: 6 * 16_000], on_progress)
        else:
            stages.diarizer.diarize(dialogue(), segmentation, on_progress)

    if fails:
        with pytest.raises(InterruptedError):
            run()
    else:
        run()
    assert set(seen) == {(False, False)}
    assert tf32() == (True, True)


def test_progress_is_reported_step_by_step(stages: Any, segmentation: Any) -> None:
    seen: list[float] = []
    stages.diarizer.diarize(dialogue(), segmentation, seen.append, batch_size=8)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


def test_campplus_gives_the_values_of_3d_speaker() -> None:
    """The first values of their implementation, with unit length, for 4.9 s of the call."""
    import torch

    from daemon.pipeline.pyannote_adapter.campplus import CamPlusPlus

    expected = [-0.001824, -0.170925, -0.076032, -0.100402, 0.094541, -0.020955, -0.031347, 0.133358]
    sound = torch.tensor(sample_audio()[int(12.4 * RATE) :][: 5 * RATE])
    with torch.inference_mode():
        found = CamPlusPlus().eval()(sound[None, None])[0, :8]
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


# --- who speaks, by default ---------------------------------------------------------------------------------------


def speakers_of(stages: Any, audio: np.ndarray, **bounds: Any) -> list[str]:
    """Diarize as a job without bounds of its own does."""
    speech = stages.detector.detect(audio, lambda _: None)
    found = stages.diarizer.diarize(audio, speech.segmentation, lambda _: None, expected_speakers=(2, 6), **bounds)
    return sorted({turn.speaker for turn in found.turns})


def parts_of(speaker: str) -> np.ndarray:
    """Join what only this speaker says in the call."""
    alone = np.zeros(len(sample_audio()), bool)
    for own in (True, False):
        for turn in reference_turns():
            if (turn.speaker == speaker) is own:
                alone[int(turn.start * RATE) : int(turn.end * RATE)] = own
    return sample_audio()[alone]


@pytest.mark.parametrize("repeats", [1, 6])
def test_the_call_has_two_speakers_at_any_length(stages: Any, repeats: int) -> None:
    """Three minutes of the call were five speakers."""
    assert len(speakers_of(stages, np.tile(sample_audio(), repeats))) == 2


@pytest.mark.parametrize("speaker", sorted({turn.speaker for turn in reference_turns()}))
def test_one_voice_is_one_speaker(stages: Any, speaker: str) -> None:
    voice = parts_of(speaker)
    assert speakers_of(stages, voice) == ["SPEAKER_00"]
    assert len(speakers_of(stages, voice, num_speakers=2)) == 2, "the job's own number is binding"


@pytest.mark.parametrize(("windows", "kept"), [(1, 1), (2, 2), (7, 4), (8, 5)])
def test_every_second_window_covers_the_whole_recording(windows: int, kept: int) -> None:
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    from daemon.pipeline.pyannote_adapter.windows import every

    frames = 100
    scores = np.arange(windows * frames, dtype=np.float32).reshape(windows, frames, 1)
    all_of_them = SlidingWindowFeature(scores, SlidingWindow(start=0.0, duration=5.0, step=0.5))
    np.testing.assert_array_equal(every(1, all_of_them).data, scores)
    some = every(2, all_of_them)
    assert (len(some.data), some.sliding_window.step, some.sliding_window.duration) == (kept, 1.0, 5.0)
    np.testing.assert_array_equal(some.data[: (windows + 1) // 2], scores[::2])
    if windows % 2 == 0:  # the added window starts half a second after the last one
        np.testing.assert_array_equal(some.data[-1, :90], scores[-1, 10:])
        assert not some.data[-1, 90:].any()
