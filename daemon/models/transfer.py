"""What sources of models have in common: the hub and a mirror."""

from collections.abc import Mapping
from typing import Protocol

from daemon.models.cache import Cache, RemoteFile, RemoteModel
from daemon.models.needs import Need


class Interruption(Exception):
    """A transfer that broke off and may succeed when it is tried again. Never leaves this package."""


class Damaged(Interruption):
    """What came is whole and wrong; it was removed."""


class ModelSource(Protocol):
    @property
    def revisions(self) -> Mapping[str, str]:
        """Repository → the revision that was asked for; the others are taken as the source has them."""

    def describe(self, need: Need) -> RemoteModel:
        """The model's revision and those of its files that are needed. Raises ModelUnavailable or Interruption."""

    def download(self, model: RemoteModel, file: RemoteFile, cache: Cache) -> str:
        """Bring one file into the cache, continuing what was begun, and verify it; its sha256.

        Raises ModelUnavailable, Interruption or Damaged.
        """
