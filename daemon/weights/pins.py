"""Pinned weights: the revision of each model, and the SHA-256 and size of each of its files.

`pins.json` pins the default models, those from Python packages included. Operators can pin further models, or other revisions,
in a manifest of their own (TRANSCRIPTD_WEIGHTS_MANIFEST). A pin is a promise: files that differ are never loaded.

The digests in `pins.json` were computed from the packages, and for models from the hub compared with the digests that several
independent projects publish for the same revision; docs/models.md says how to repeat that.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.errors import ModelUnavailable
from daemon.weights.index import MAX_INDEX_BYTES, PATH, SHA256, Index, first_fault, sha256_file

OWN_PINS = Path(__file__).with_name("pins.json")


class PackagedFile(BaseModel):
    """A file of weights in a Python package."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,100}$")]
    path: Annotated[str, Field(pattern=PATH)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=SHA256)]

    def locate(self) -> Path:
        """Return the file, without reading it. Raises ModelUnavailable if the package is not installed."""
        return package_folder(self.package) / self.path

    def as_installed(self) -> "PackagedFile":
        path = self.locate()
        return self.model_copy(update={"size": path.stat().st_size, "sha256": sha256_file(path)})

    def verified(self) -> Path:
        """Return the file after it was verified. Raises ModelUnavailable if it is missing or differs."""
        path = self.locate()
        actual = sha256_file(path) if path.is_file() else "nothing"
        if actual != self.sha256:
            raise ModelUnavailable(
                f"{path} is missing or damaged: sha256 {actual}, expected {self.sha256}; reinstall the package {self.package}"
            )
        return path


class Pins(Index):
    """A manifest of pinned weights: an index, and the files from Python packages."""

    packages: Annotated[tuple[PackagedFile, ...], Field(max_length=100)] = ()

    @property
    def revisions(self) -> dict[str, str]:
        """Repository → pinned revision."""
        return {model.name: model.revision for model in self.models if model.revision is not None}

    def with_installed_packages(self) -> "Pins":
        """Return these pins with the digests of the installed packages. Raises ModelUnavailable if one is missing."""
        return self.model_copy(update={"packages": tuple(file.as_installed() for file in self.packages)})

    def without(self, names: set[str]) -> "Pins":
        return self.model_copy(update={"models": tuple(model for model in self.models if model.name not in names)})


NO_PINS = Pins()


def load_pins(manifest: Path | None = None) -> Pins:
    """Return the pins of the package, replaced and extended by those of an operator's manifest. Raises ModelUnavailable."""
    return own_pins().replaced_by(read_pins(manifest)) if manifest is not None else own_pins()


@cache
def own_pins() -> Pins:
    return read_pins(OWN_PINS)


def read_pins(path: Path) -> Pins:
    """Read a manifest. Raises ModelUnavailable if it is missing or invalid."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_INDEX_BYTES)
        return Pins.model_validate_json(content)
    except OSError as error:
        raise ModelUnavailable(
            f"the manifest of weights {path} cannot be read ({error.strerror}); correct TRANSCRIPTD_WEIGHTS_MANIFEST"
        ) from None
    except ValidationError as error:
        raise ModelUnavailable(f"the manifest of weights {path} is invalid: {first_fault(error)}") from None


def packaged_file(package: str, path: str) -> PackagedFile:
    """Return the pin of a file in a Python package. Raises ModelUnavailable if it is not pinned."""
    for file in own_pins().packages:
        if (file.package, file.path) == (package, path):
            return file
    raise ModelUnavailable(f"{package}/{path} is not pinned in {OWN_PINS}")


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it. Raises ModelUnavailable."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(
            f"the package {package} is not installed: run deploy/install.sh or make setup, "
            "or install transcriptd[embedded]"
        )
    return Path(spec.origin).parent
