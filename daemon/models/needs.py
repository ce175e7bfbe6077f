"""What a configuration needs: which repositories, and which of their files, from the settings alone.

The tables of names are read from the source of the installed packages, because importing those would import torch.
"""

import ast
import importlib.util
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from daemon.catalog import EMBEDDED_DIARIZATION, HUB_DIARIZATION, diarization_name
from daemon.config import Settings
from daemon.errors import ConfigError, ModelUnavailable
from daemon.models.index import NAME, Source
from daemon.wording import clip, nearest

# Groups of patterns: of each group, the files of the first pattern that matches any. `*` stays within a folder.
Groups = tuple[tuple[str, ...], ...]

# faster_whisper/utils.py, download_model. Without tokenizer.json faster-whisper would ask the hub for another's.
WHISPER_FILES: Groups = (("config.json",), ("model.bin",), ("tokenizer.json",), ("vocabulary.*",))
WHISPER_OPTIONAL = ("preprocessor_config.json",)

# transformers, Wav2Vec2Processor and Wav2Vec2ForCTC: safetensors before pickles, in one file or in shards with an index.
ALIGNMENT_FILES: Groups = (
    ("config.json",),
    ("preprocessor_config.json",),
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
# pyannote/audio/pipelines/speaker_diarization.py: what its class takes where the configuration names nothing.
SPEAKER_DIARIZATION = "pyannote.audio.pipelines.SpeakerDiarization"
PLDA_FILES = ("xvec_transform.npz", "plda.npz")
MODEL_FILE = "pytorch_model.bin"
# pyannote/audio/pipelines/speaker_verification.py: names with one of these, and without `pyannote`, load in ways of their own.
OTHER_KINDS = ("speechbrain", "nvidia", "wespeaker")


@dataclass(frozen=True, slots=True)
class Need:
    """A repository of the hub, or a file of torchaudio's, and which of its files are needed."""

    what: str  # for people
    source: Source
    name: str
    required: Groups
    optional: tuple[str, ...] = ()
    pipeline: bool = False  # its config.yaml names further models

    def pick(self, paths: Iterable[str]) -> list[str]:
        """The needed ones of the files that there are. Raises ModelUnavailable when a required one is not among them."""
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
) -> list[Need]:
    """What `settings` need, without what a pipeline's config.yaml will name.

    `models` take the place of the settings' Whisper models: the default, and TRANSCRIPTD_MODELS where it is set.
    `languages` add the alignment models of these languages to TRANSCRIPTD_ALIGNMENT_MODELS.
    Raises ConfigError.
    """
    if not models:
        models = (settings.model, *(settings.models if "models" in settings.model_fields_set else ()))
    needs = [_whisper(model) for model in models if not _is_folder(model)]
    if diarization:
        name = diarization_name(settings.diarization_model, has_token=settings.hf_token is not None)
        if name != EMBEDDED_DIARIZATION and not _is_folder(name):
            needs.append(Need(f"diarization {name}", "hub", name, ((PIPELINE_CONFIG,),), pipeline=True))
    configured = dict(_language_and_model(item) for item in settings.alignment_models)
    for language in dict.fromkeys((*configured, *languages)):
        name = configured.get(language) or _whisperx_choice(language)
        if not _is_folder(name):
            needs.append(_alignment(language, name))
    for need in needs:
        if not re.fullmatch(NAME, need.name):
            raise ConfigError(f"{need.what}: {clip(need.name)} is not the name of a repository")
    return merged(needs)


def merged(needs: Iterable[Need]) -> list[Need]:
    """One need for each repository."""
    found: dict[tuple[str, str], Need] = {}
    for need in needs:
        known = found.setdefault((need.source, need.name), need)
        found[need.source, need.name] = replace(
            known,
            required=tuple(dict.fromkeys((*known.required, *need.required))),
            optional=tuple(dict.fromkeys((*known.optional, *need.optional))),
            pipeline=known.pipeline or need.pipeline,
        )
    return list(found.values())


def references(need: Need, config: bytes) -> list[Need]:
    """What a pipeline's config.yaml names. Raises ModelUnavailable where it names what cannot be fetched."""
    import yaml

    try:
        loaded = yaml.safe_load(config)
        pipeline = loaded["pipeline"]
        parameters: dict[str, Any] = {**pipeline.get("params", {})}
        kind = pipeline["name"]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ModelUnavailable(f"{need.what}: its {PIPELINE_CONFIG} is not one of a pyannote pipeline") from error
    if kind != SPEAKER_DIARIZATION:
        raise ModelUnavailable(
            f"{need.what}: what a {clip(kind)} needs is not known; give the pipeline as a folder instead"
        )
    found = []
    for part in ("segmentation", "embedding", "plda"):
        default = {"checkpoint": HUB_DIARIZATION, "subfolder": part}
        name, folder = _reference(need, part, parameters.get(part, default))
        files = PLDA_FILES if part == "plda" else (MODEL_FILE,)
        required = tuple((f"{folder}/{file}" if folder else file,) for file in files)
        found.append(Need(f"{part} of {need.name}", "hub", name, required))
    return found


def _reference(need: Need, part: str, value: Any) -> tuple[str, str]:
    """The repository and the folder in it that a parameter names: `$model/folder`, `owner/name`, or a mapping."""
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
        f"{need.what}: its {part} {clip(value)} is of a kind that is not fetched; give the pipeline as a folder instead"
    )


def _whisper(model: str) -> Need:
    name = model
    if "/" not in model:
        known = whisper_repositories()
        if model not in known:
            raise ConfigError(f"there is no Whisper model {clip(model)}; {nearest(model, list(known))}")
        name = known[model]
    return Need(f"Whisper {model}", "hub", name, WHISPER_FILES, WHISPER_OPTIONAL)


def _alignment(language: str, name: str) -> Need:
    what = f"alignment {language}"
    if file := torchaudio_files().get(name):
        return Need(what, "torch", file, ((file,),))
    return Need(what, "hub", name, ALIGNMENT_FILES, ALIGNMENT_OPTIONAL)


def _language_and_model(item: str) -> tuple[str, str]:
    language, separator, name = item.partition("=")
    if not separator or not language or not name:
        raise ConfigError(f"TRANSCRIPTD_ALIGNMENT_MODELS: {clip(item)} is not of the form language=name-or-folder")
    return language, name


def _whisperx_choice(language: str) -> str:
    known = alignment_models()
    if language not in known:
        raise ConfigError(
            f"whisperx has no wav2vec2 model for the language {clip(language)}; "
            f"{nearest(language, list(known))} Or name one in TRANSCRIPTD_ALIGNMENT_MODELS."
        )
    return known[language]


def _is_folder(name: str) -> bool:
    """As the libraries decide: what is a folder is not looked for on the hub."""
    return name.startswith(("/", ".", "~")) or Path(name).is_dir()


@cache
def whisper_repositories() -> dict[str, str]:
    """faster-whisper's names of models → repositories."""
    return _literal("faster_whisper", "utils.py", "_MODELS")


@cache
def alignment_models() -> dict[str, str]:
    """Language → whisperx's choice: a bundle of torchaudio's, or a repository."""
    tables = (
        "DEFAULT_ALIGN_MODELS_HF",
        "DEFAULT_ALIGN_MODELS_TORCH",
    )  # the latter go first with whisperx, so last here
    return {code: name for table in tables for code, name in _literal("whisperx", "alignment.py", table).items()}


@cache
def torchaudio_files() -> dict[str, str]:
    """Name of a bundle of torchaudio's → its file."""
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
