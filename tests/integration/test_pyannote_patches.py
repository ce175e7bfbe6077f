"""Upgrades of pyannote.audio must not break our patches silently: each replaces an existing name and is used."""

import ast
import inspect
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import daemon.pipeline
from bench.reference import sample_audio
from tests.support.pipeline import loaded

ADAPTER = "pyannote_adapter"
SECONDS = 12


@pytest.fixture(scope="module", autouse=True)
def stages() -> Any:
    """Load the stages, which prepares the environment in which pyannote is imported."""
    stages = loaded()[0]._stages
    assert stages is not None
    return stages


def adapted(name: str) -> Any:
    """A patch, identified by the name it replaces."""
    from daemon.pipeline.pyannote_adapter.patches import PATCHES

    return next(patch for patch in PATCHES if patch.name == name)


NAMES = ("binarize", "reconstruct", "filter_embeddings", "get_embeddings", "get_segmentations", "infer")


def test_list_of_patches_is_complete() -> None:
    from daemon.pipeline.pyannote_adapter.patches import PATCHES

    assert tuple(patch.name for patch in PATCHES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_replaced_functions_have_the_parameters_we_rely_on(name: str) -> None:
    patch = adapted(name)
    assert tuple(inspect.signature(getattr(patch.owner, name)).parameters) == patch.parameters


def test_every_clustering_is_bounded_by_the_same_method() -> None:
    """They inherit the method; a class with its own could select differently."""
    from pyannote.audio.pipelines import clustering

    owner = adapted("filter_embeddings").owner
    kinds: list[Any] = [it for it in vars(clustering).values() if isinstance(it, type) and issubclass(it, owner)]
    assert len(kinds) > 1
    assert {kind.filter_embeddings for kind in kinds} == {owner.filter_embeddings}


def current(stages: Any) -> dict[str, Callable[..., Any]]:
    """Return what a call of each name reaches now."""
    from pyannote.audio.pipelines import speaker_diarization

    pipeline = stages.diarizer._pipeline
    module: Any = speaker_diarization
    return {
        "binarize": module.binarize,
        "reconstruct": pipeline.reconstruct,
        "filter_embeddings": pipeline.clustering.filter_embeddings,
        "get_embeddings": pipeline.get_embeddings,
        "get_segmentations": pipeline.get_segmentations,
        "infer": pipeline._segmentation.infer,
    }


@pytest.mark.parametrize("name", NAMES)
def test_calls_reach_our_functions(stages: Any, name: str) -> None:
    found = current(stages)[name]
    module = inspect.getmodule(found.func if isinstance(found, partial) else found)
    assert module is not None
    assert module.__name__ == f"daemon.pipeline.{ADAPTER}.{adapted(name).replaced_by}"


@pytest.mark.parametrize("name", NAMES)
def test_our_functions_take_the_same_arguments(stages: Any, name: str) -> None:
    arguments = [parameter for parameter in adapted(name).parameters if parameter != "self"]
    inspect.signature(current(stages)[name]).bind(**dict.fromkeys(arguments))


def test_pyannote_calls_them(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a recording, pyannote itself calls each function under the patched name."""
    from pyannote.audio.pipelines import speaker_diarization

    pipeline = stages.diarizer._pipeline
    calls: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **options)

        return call

    owners = {
        "binarize": speaker_diarization,
        "filter_embeddings": pipeline.clustering,
        "infer": pipeline._segmentation,
    }
    for name, function in current(stages).items():
        monkeypatch.setattr(owners.get(name, pipeline), name, counted(name, function))
    stages.diarizer.diarize(sample_audio()[: SECONDS * 16_000], None, lambda _: None)
    assert {name for name in NAMES if not calls[name]} == set()


def test_vad_also_runs_in_lanes(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inference = stages.detector.inference
    assert inspect.getmodule(inference.infer).__name__ == f"daemon.pipeline.{ADAPTER}.windows"  # type: ignore[union-attr]
    infer, calls = inference.infer, []

    def counted(windows: Any) -> Any:
        calls.append(len(windows))
        return infer(windows)

    monkeypatch.setattr(inference, "infer", counted)
    stages.detector.detect(sample_audio()[: SECONDS * 16_000], lambda _: None)
    assert sum(calls) > 1


def test_nothing_else_patches_pyannote() -> None:
    """No other module of the pipeline sets an attribute of one of these names or uses pyannote's private attributes."""
    (folder,) = daemon.pipeline.__path__
    private = {"_segmentation", "_embedding"}
    found = []
    for path in Path(folder).rglob("*.py"):
        if ADAPTER in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (
                (isinstance(node.ctx, ast.Store) and node.attr in NAMES) or node.attr in private
            ):
                found.append(f"{path.name}:{node.lineno} {node.attr}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
                found.append(f"{path.name}:{node.lineno} setattr")
    assert found == []
