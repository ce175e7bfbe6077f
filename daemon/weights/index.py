"""The index lists the files of each model, with size and sha256.

The local index is written when models are fetched. A mirror's index is untrusted: no name in it can lead out of the cache.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from daemon.errors import ModelUnavailable
from daemon.schema.wording import clip

GIB = 1024**3
MAX_INDEX_BYTES = 4 * 1024 * 1024
MAX_FILE_BYTES = 64 * GIB

# Each part of a path begins with a letter, a digit or an underscore: no `..`, `.`, absolute path or empty part.
_PART = r"[A-Za-z0-9_][A-Za-z0-9._+ -]{0,199}"
PATH = rf"^{_PART}(/{_PART}){{0,7}}$"
NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?$"
COMMIT = r"^[0-9a-f]{40}$"
SHA256 = r"^[0-9a-f]{64}$"

Source = Literal["hub", "torch"]


class File(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    path: Annotated[str, Field(pattern=PATH)]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]
    sha256: Annotated[str, Field(pattern=SHA256)]


class Model(BaseModel):
    """A hub repository at one commit, or a torchaudio file (`torch`), which has no revision."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    source: Source
    name: Annotated[str, Field(pattern=NAME)]
    revision: Annotated[str, Field(pattern=COMMIT)] | None
    files: Annotated[tuple[File, ...], Field(max_length=1000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "--" in self.name:  # the cache's replacement for a slash: two names could share a folder
            raise ValueError('a name may not contain "--"')
        if (self.revision is None) != (self.source == "torch"):
            raise ValueError("a hub model must have a revision, a torchaudio model must not")
        if self.source == "torch" and [file.path for file in self.files] != [self.name]:
            raise ValueError("a torchaudio model must be one file with the model's name")
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("a path is listed twice")
        return self

    def file(self, path: str) -> File | None:
        return next((file for file in self.files if file.path == path), None)


class Index(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    version: Literal[1] = 1
    models: Annotated[tuple[Model, ...], Field(max_length=1000)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({(model.source, model.name) for model in self.models}) != len(self.models):
            raise ValueError("a model is listed twice")
        return self

    def find(self, source: Source, name: str) -> Model | None:
        return next((model for model in self.models if (model.source, model.name) == (source, name)), None)

    def updated(self, models: Iterable[Model]) -> "Index":
        """Return this index with `models` merged: files of the same revision are added, another revision is replaced."""
        found = {(model.source, model.name): model for model in self.models}
        for model in models:
            known = found.get((model.source, model.name))
            if known is not None and known.revision == model.revision:
                files = {file.path: file for file in (*known.files, *model.files)}
                model = model.model_copy(update={"files": tuple(files[path] for path in sorted(files))})
            found[model.source, model.name] = model
        return Index(models=tuple(found[key] for key in sorted(found)))

    def replaced_by(self, other: "Index") -> Self:
        """Return this index with the models of `other`, which replace those of the same name."""
        found = {(model.source, model.name): model for model in (*self.models, *other.models)}
        return self.model_copy(update={"models": tuple(found[key] for key in sorted(found))})

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


def parse_index(content: bytes, where: str) -> Index:
    """Parse an index. Raises ModelUnavailable with `where` and the first fault."""
    try:
        return Index.model_validate_json(content)
    except ValidationError as error:
        raise ModelUnavailable(f"the index {where} is invalid: {first_fault(error)}") from None


def first_fault(error: ValidationError) -> str:
    """Describe the first fault of a document."""
    problem = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "the document"
    return f"{place}: {problem['msg']}: {clip(problem['input'])}"


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
