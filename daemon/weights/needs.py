"""Derives the required repositories and files from the settings.

The tables of model names are read from the source of the installed packages, because importing them would import torch.
"""

import ast
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from daemon.config import Settings
from daemon.errors import ConfigError, ModelUnavailable
from daemon.schema.catalog import EMBEDDED_DIARIZATION, EMBEDDED_WHISPER, HUB_DIARIZATION, diarization_name
from daemon.schema.wording import clip, nearest
from daemon.weights.index import NAME, Source
from daemon.weights.packaged import VOICE_ACTIVITY, speaker_encoder, whisper_base

# Groups of patterns. Each group selects the files of its first pattern with a match. `*` does not match across folders.
Groups = tuple[tuple[str, ...], ...]

# As faster_whisper/utils.py, download_model. Without tokenizer.json, faster-whisper downloads another model's tokenizer.
WHISPER_WEIGHTS = "model.bin"
WHISPER_FILES: Groups = (("config.json",), (WHISPER_WEIGHTS,), ("tokenizer.json",), ("vocabulary.*",))
WHISPER_OPTIONAL = ("preprocessor_config.json",)

# As transformers, Wav2Vec2Processor and Wav2Vec2ForCTC: safetensors before pickles, in one file or sharded with an index.
ALIGNMENT_FILES: Groups = (
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),  # transformers 5 writes only the second one
    ("vocab.json",),
    ("model*.safetensors*", "pytorch_model*.bin*"),
)
ALIGNMENT_OPTIONAL = (
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
)

PIPELINE_CONFIG = "config.yaml"
# Defaults of pyannote/audio/pipelines/speaker_diarization.py.
SPEAKER_DIARIZATION = "pyannote.audio.pipelines.SpeakerDiarization"
PLDA_FILES = ("xvec_transform.npz", "plda.npz")
MODEL_FILE = "pytorch_model.bin"
# pyannote/audio/pipelines/speaker_verification.py loads names with one of these, unless they contain `pyannote`, differently.
OTHER_KINDS = ("speechbrain", "nvidia", "wespeaker")


@dataclass(frozen=True, slots=True)
class ModelRequirement:
    """A hub repository or a torchaudio file, and the required files."""

    what: str  # display name
    source: Source
    name: str
    required: Groups
    optional: tuple[str, ...] = ()
    pipeline: bool = False  # its config.yaml names more models

    def pick(self, paths: Iterable[str]) -> list[str]:
        """Select the needed files from `paths`. Raises ModelUnavailable if a required file is missing."""
        known = sorted(paths)
        found: set[str] = set()
        for group in self.required:
            chosen = next((matched for pattern in group if (matched := _matching(known, pattern))), None)
            if chosen is None:
                raise ModelUnavailable(f"{self.what}: {self.name} has no {' or '.join(group)}")
            found.update(chosen)
        for pattern in self.optional:
            found.update(_matching(known, pattern))
        return sorted(found)


def _matching(paths: Sequence[str], pattern: str) -> list[str]:
    return [path for path in paths if path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)]


def resolve(
    settings: Settings, models: Sequence[str] = (), languages: Sequence[str] = (), *, diarization: bool = True
) -> list[ModelRequirement]:
    """Return the models that `settings` need, except the models named in a pipeline's config.yaml.

    `models` replace the Whisper models of the settings (the default model, and TRANSCRIPTD_MODELS if set).
    `languages` add their alignment models to TRANSCRIPTD_ALIGNMENT_MODELS.
    Raises ConfigError.
    """
    wanted = _whisper_models(settings, models)
    needs = [whisper_requirement(model) for model in wanted if model != EMBEDDED_WHISPER and not is_folder(model)]
    if diarization:
        name = diarization_name(settings.diarization_model, has_token=settings.hf_token is not None)
        if name != EMBEDDED_DIARIZATION and not is_folder(name):
            needs.append(diarization_requirement(name))
    configured = dict(_language_and_model(item) for item in settings.alignment_models)
    for language in dict.fromkeys((*configured, *languages)):
        name = configured.get(language) or _whisperx_choice(language)
        if not is_folder(name):
            needs.append(alignment_requirement(language, name))
    for need in needs:
        if not re.fullmatch(NAME, need.name):
            raise ConfigError(f"{need.what}: {clip(need.name)} is not the name of a repository")
    return merged(needs)


def _whisper_models(settings: Settings, models: Sequence[str]) -> Sequence[str]:
    return models or (settings.model, *(settings.models if "models" in settings.model_fields_set else ()))


def packaged_weights(
    settings: Settings, models: Sequence[str] = (), *, diarization: bool = True
) -> list[tuple[str, Callable[[], Path]]]:
    """Return the required weights from Python packages: a display name, and a function that finds and verifies the file.

    `models` replace the Whisper models of the settings, as in `resolve`.
    """
    found: list[tuple[str, Callable[[], Path]]] = [("voice activity detection", VOICE_ACTIVITY.verified)]
    name = diarization_name(settings.diarization_model, has_token=settings.hf_token is not None)
    if diarization and name == EMBEDDED_DIARIZATION:
        found.append(("packaged diarization", lambda: speaker_encoder().path()))
    if EMBEDDED_WHISPER in _whisper_models(settings, models):
        found.append(("packaged Whisper base", lambda: whisper_base() / WHISPER_WEIGHTS))
    return found


def merged(needs: Iterable[ModelRequirement]) -> list[ModelRequirement]:
    """Merge the requirements of each repository into one."""
    found: dict[tuple[str, str], ModelRequirement] = {}
    for need in needs:
        known = found.setdefault((need.source, need.name), need)
        found[need.source, need.name] = replace(
            known,
            required=tuple(dict.fromkeys((*known.required, *need.required))),
            optional=tuple(dict.fromkeys((*known.optional, *need.optional))),
            pipeline=known.pipeline or need.pipeline,
        )
    return list(found.values())


def references(need: ModelRequirement, config: bytes) -> list[ModelRequirement]:
    """Return the models that a pipeline's config.yaml names. Raises ModelUnavailable for one that cannot be fetched."""
    import yaml

    try:
        loaded = yaml.safe_load(config)
        pipeline = loaded["pipeline"]
        parameters: dict[str, Any] = {**pipeline.get("params", {})}
        kind = pipeline["name"]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{need.what}: its {PIPELINE_CONFIG} is not a pyannote pipeline") from error
    if kind != SPEAKER_DIARIZATION:
        raise ModelUnavailable(
            f"{need.what}: pipelines of the class {clip(kind)} cannot be fetched; use a folder instead"
        )
    found = []
    for part in ("segmentation", "embedding", "plda"):
        default = {"checkpoint": HUB_DIARIZATION, "subfolder": part}
        name, folder = _reference(need, part, parameters.get(part, default))
        files = PLDA_FILES if part == "plda" else (MODEL_FILE,)
        required = tuple((f"{folder}/{file}" if folder else file,) for file in files)
        found.append(ModelRequirement(f"{part} of {need.name}", "hub", name, required))
    return found


def _reference(need: ModelRequirement, part: str, value: Any) -> tuple[str, str]:
    """Parse a parameter (`$model/folder`, `owner/name` or a mapping) into a repository and a folder in it."""
    match value:
        case {"checkpoint": str(name)} if not value.get("revision"):
            return name, str(value.get("subfolder") or "")
        case str() if "@" in value:
            pass
        case str() if value.startswith("$model/"):
            return need.name, value.removeprefix("$model/")
        case str() if value.count("/") == 1 and ("pyannote" in value or not any(kind in value for kind in OTHER_KINDS)):
            return value, ""
    raise ModelUnavailable(
        f"{need.what}: its {part} {clip(value)} cannot be fetched; use a folder for the pipeline instead"
    )


def diarization_requirement(name: str) -> ModelRequirement:
    return ModelRequirement(f"diarization {name}", "hub", name, ((PIPELINE_CONFIG,),), pipeline=True)


def whisper_requirement(model: str) -> ModelRequirement:
    """Return the requirement for a name or a hub ID. Raises ConfigError for an unknown name."""
    name = model
    if "/" not in model:
        known = whisper_repositories()
        if model not in known:
            raise ConfigError(f"unknown Whisper model {clip(model)}; {nearest(model, list(known))}")
        name = known[model]
    return ModelRequirement(f"Whisper {model}", "hub", name, WHISPER_FILES, WHISPER_OPTIONAL)


def alignment_requirement(language: str, name: str) -> ModelRequirement:
    what = f"alignment {language}"
    if file := torchaudio_files().get(name):
        return ModelRequirement(what, "torch", file, ((file,),))
    return ModelRequirement(what, "hub", name, ALIGNMENT_FILES, ALIGNMENT_OPTIONAL)


def _language_and_model(item: str) -> tuple[str, str]:
    language, separator, name = item.partition("=")
    if not separator or not language or not name:
        raise ConfigError(f"TRANSCRIPTD_ALIGNMENT_MODELS: {clip(item)} must have the form language=name-or-folder")
    return language, name


def _whisperx_choice(language: str) -> str:
    known = alignment_models()
    if language not in known:
        raise ConfigError(
            f"whisperx has no wav2vec2 model for the language {clip(language)}; "
            f"{nearest(language, list(known))} Or name one in TRANSCRIPTD_ALIGNMENT_MODELS."
        )
    return known[language]


def is_folder(name: str) -> bool:
    """Whether the libraries treat the name as a folder instead of a hub ID."""
    return name.startswith(("/", ".", "~")) or Path(name).is_dir()


@cache
def whisper_repositories() -> dict[str, str]:
    """Return faster-whisper's model names → repositories."""
    return _literal("faster_whisper", "utils.py", "_MODELS")


@cache
def alignment_models() -> dict[str, str]:
    """Return language → whisperx's default: a torchaudio bundle or a repository."""
    tables = (
        "DEFAULT_ALIGN_MODELS_HF",
        "DEFAULT_ALIGN_MODELS_TORCH",
    )  # later entries replace earlier ones: whisperx prefers torchaudio's models
    return {code: name for table in tables for code, name in _literal("whisperx", "alignment.py", table).items()}


@cache
def torchaudio_files() -> dict[str, str]:
    """Return torchaudio bundle → file."""
    found: dict[str, str] = {}
    for name, value in _assignments("torchaudio", "pipelines/_wav2vec2/impl.py"):
        if isinstance(value, ast.Call):
            path = next((item.value for item in value.keywords if item.arg == "_path"), None) or next(
                iter(value.args), None
            )
            if isinstance(path, ast.Constant) and isinstance(path.value, str):
                found[name] = path.value
    return found


def _literal(package: str, file: str, name: str) -> dict[str, str]:
    for found, value in _assignments(package, file):
        if found == name:
            table: dict[str, str] = ast.literal_eval(value)
            return table
    raise ModelUnavailable(f"{package}/{file} has no {name}: the installed version of {package} is not supported")


def _assignments(package: str, file: str) -> list[tuple[str, ast.expr]]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"the package {package} is not installed")
    tree = ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
    return [
        (target.id, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
