"""Common interface of the model sources: the hub and a mirror."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from daemon.weights.index import Source
from daemon.weights.needs import ModelRequirement

if TYPE_CHECKING:
    from daemon.weights.cache import Cache


class TransferInterrupted(Exception):
    """Raised when a transfer failed and a retry may succeed."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as announced by its source. `blob` identifies its content; only torchaudio files have no digest."""

    path: str
    size: int
    blob: str
    sha256: str | None = None
    git_sha1: str | None = None  # git's blob hash: the hub's digest of a file outside LFS


@dataclass(frozen=True, slots=True)
class RemoteModel:
    source: Source
    name: str
    revision: str | None
    files: tuple[RemoteFile, ...]


class ModelSource(Protocol):
    @property
    def revisions(self) -> Mapping[str, str]:
        """Repository → requested revision. For other repositories, the source chooses the revision."""

    def describe(self, need: ModelRequirement) -> RemoteModel:
        """Return the model's revision and its needed files. Raises ModelUnavailable or TransferInterrupted."""

    def download(self, model: RemoteModel, file: RemoteFile, cache: "Cache") -> None:
        """Download one file into the cache, resuming a partial one, and verify it.

        Raises ModelUnavailable or TransferInterrupted.
        """
