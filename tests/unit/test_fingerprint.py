"""Checkpoints are reused only if everything that determines a transcript is the same."""

import ast
from collections.abc import Callable
from dataclasses import fields, replace
from importlib import metadata
from importlib.metadata import packages_distributions
from pathlib import Path
from sys import stdlib_module_names
from typing import Any, get_args, get_origin

import pytest

import daemon.pipeline
from daemon.config import Settings
from daemon.jobs.fingerprint import checkpoint_fingerprint
from daemon.pipeline.checkpoints import fingerprint as module
from daemon.pipeline.checkpoints.fingerprint import IRRELEVANT_SETTINGS, LIBRARIES, fingerprint
from daemon.protocol.runner_settings import RunnerSettings
from daemon.schema.manifest import InputObject
from daemon.schema.options import JobOptions, SubtitleOptions
from daemon.supervisor.devices import Device
from daemon.supervisor.process import runner_settings
from tests.support.pipeline import SETTINGS, options

WEIGHTS = {"weights_manifest", "require_pinned_weights"}  # which weights are accepted
MODELS = {"vad": "pyannote", "asr": "base", "align": "attention", "diarize": "embedded"}
FOUND = InputObject(bucket="media", key="a.wav", etag="etag", version_id="version", size_bytes=1)

# Imported by the pipeline, but not used to compute a transcript.
NO_LIBRARY_OF_A_TRANSCRIPT = {"huggingface_hub", "omegaconf", "pydantic"}


def other(value: Any) -> Any:
    """Return a different value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case None:
            return "x"
        case tuple():
            return (*value, "x")
    raise TypeError(type(value))


# --- pipeline fingerprint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in fields(RunnerSettings)])
def test_every_setting_counts_except_those_that_change_no_transcript(name: str) -> None:
    changed = replace(SETTINGS, **{name: other(getattr(SETTINGS, name))})
    same = fingerprint(changed, MODELS) == fingerprint(SETTINGS, MODELS)
    assert same == (name in {"max_loaded_models", "device", "batch_size", "cpu_threads", "hf_token", *WEIGHTS})


def test_excluded_names_are_settings() -> None:
    assert {field.name for field in fields(RunnerSettings)} > IRRELEVANT_SETTINGS


@pytest.mark.parametrize("stage", MODELS)
def test_every_model_counts(stage: str) -> None:
    assert fingerprint(SETTINGS, {**MODELS, stage: "another"}) != fingerprint(SETTINGS, MODELS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_version_of_every_library_counts(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(SETTINGS, MODELS)
    installed = metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99" if name == library else installed(name))
    assert fingerprint(SETTINGS, MODELS) != before


def test_the_version_of_the_format_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(SETTINGS, MODELS)
    monkeypatch.setattr(module, "CHECKPOINT_VERSION", module.CHECKPOINT_VERSION + 1)
    assert fingerprint(SETTINGS, MODELS) != before


def test_equal_input_keeps_it() -> None:
    assert fingerprint(replace(SETTINGS), dict(reversed(MODELS.items()))) == fingerprint(SETTINGS, MODELS)


def test_every_library_the_pipeline_imports_is_listed() -> None:
    (folder,) = daemon.pipeline.__path__
    imported = {
        name.partition(".")[0]
        for path in Path(folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in _imports(node)
    }
    libraries = imported - stdlib_module_names - {"daemon"} - NO_LIBRARY_OF_A_TRANSCRIPT
    assert {"torch", "whisperx", "faster_whisper", "pyannote"} <= libraries
    distributions = packages_distributions()
    for library in libraries:
        found = {name.lower().replace("_", "-").replace(".", "-") for name in distributions[library]}
        assert found & {name.replace(".", "-") for name in LIBRARIES}, f"{library} is not in LIBRARIES"


def _imports(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(name), level=0):
            return [name]
    return []


def test_all_devices_of_a_machine_have_the_same_fingerprint(make_settings: Callable[..., Settings]) -> None:
    devices = [Device("cuda:0", "cuda", 4, {"CUDA_VISIBLE_DEVICES": "0"}), Device("cuda:1", "cuda", 3)]
    given = make_settings()
    one, other = (fingerprint(runner_settings(given, device), MODELS) for device in devices)
    assert one == other
    with_another_model = runner_settings(make_settings(model="tiny"), devices[0])
    assert fingerprint(with_another_model, MODELS) != one


# --- job fingerprint ----------------------------------------------------------------------------------------------


def of(pipeline: str = "pipeline", found: InputObject = FOUND, job: JobOptions | None = None) -> str:
    return checkpoint_fingerprint(pipeline, found, job or options())


def changed_option(name: str) -> Any:
    """Return a different valid value of the option."""
    value = getattr(options(), name)
    if isinstance(value, SubtitleOptions):
        return value.model_copy(update={"max_lines": value.max_lines + 1})
    annotation = JobOptions.model_fields[name].annotation
    choices = [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return next(choice for choice in choices if choice != value)
    if get_origin(annotation) is list:
        item = get_args(annotation)[0]
        return [*value, *[choice for choice in get_args(item) if choice not in value][:1]] if get_args(item) else ["x"]
    if isinstance(value, bool | int | str):
        return other(value)
    return 3 if int in get_args(annotation) or "int" in str(annotation) else "x"


def in_the_digest() -> list[str]:
    """Return all options but the audio URL, which does not affect the runner's work."""
    return [name for name in options().model_dump() if name != "audio_url"]


@pytest.mark.parametrize("name", in_the_digest())
def test_every_option_counts(name: str) -> None:
    changed = options().model_copy(update={name: changed_option(name)})
    assert getattr(changed, name) != getattr(options(), name)
    assert of(job=changed) != of()


@pytest.mark.parametrize(
    "changes", [{"etag": "other"}, {"version_id": "other"}, {"version_id": None}, {"size_bytes": 2}]
)
def test_the_version_of_the_recording_counts(changes: dict[str, Any]) -> None:
    assert of(found=FOUND.model_copy(update=changes)) != of()


def test_the_pipeline_counts() -> None:
    assert of("another") != of()


def test_equal_jobs_keep_it_wherever_the_recording_is_stored() -> None:
    assert of(found=FOUND.model_copy(), job=options()) == of()
    assert of(found=FOUND.model_copy(update={"key": "b.wav"})) == of()
