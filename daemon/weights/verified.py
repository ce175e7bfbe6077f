"""Weights are verified before a library opens them: by the pins, or else by the index of what was fetched.

One instance serves a runner process. Each model is hashed once per process.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from daemon.environment import is_offline
from daemon.errors import ConfigError, ModelUnavailable
from daemon.schema.catalog import EMBEDDED_DIARIZATION, EMBEDDED_WHISPER
from daemon.weights.cache import MISSING, Cache
from daemon.weights.fetch import fetch
from daemon.weights.index import Index, Model
from daemon.weights.needs import (
    PIPELINE_CONFIG,
    ModelRequirement,
    alignment_requirement,
    diarization_requirement,
    is_folder,
    merged,
    references,
    whisper_requirement,
)
from daemon.weights.packaged import whisper_base
from daemon.weights.pins import Pins, load_pins
from daemon.weights.source import TransferInterrupted

log = logging.getLogger("transcriptd.pipeline")

ADVICE = (
    "do not use this file: fetch it again with `transcriptd models fetch`. If it was changed on purpose, pin it with "
    "`transcriptd models pin`"
)
# Files that no library loads. Any other file in a pinned model's folder must be pinned, or a library could prefer it.
HARMLESS_NAMES = ("readme", "license", "notice", ".git")
HARMLESS_SUFFIXES = (".md", ".png", ".jpg", ".svg", ".pdf")


class VerifiedWeights:
    """Locates models in the local cache and verifies their files. Models in folders are their owner's concern."""

    def __init__(self, cache: Cache, pins: Pins, *, require_pins: bool = False, hf_token: str | None = None) -> None:
        self._cache = cache
        self._pins = pins
        self._require_pins = require_pins
        self._hf_token = hf_token
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._found: dict[tuple[str, str, tuple[str, ...]], Path | None] = {}

    @classmethod
    def from_environment(
        cls, manifest: str | None = None, *, require_pins: bool = False, hf_token: str | None = None
    ) -> "VerifiedWeights":
        """Use the cache that the libraries use. Raises ModelUnavailable for an invalid manifest."""
        pins = load_pins(Path(manifest) if manifest else None)
        return cls(Cache.from_environment(), pins, require_pins=require_pins, hf_token=hf_token)

    def verify_at_start(self, whisper: str, diarization: str, alignment: Sequence[tuple[str, str]]) -> None:
        """Verify the models that a runner loads at its start. Raises ModelUnavailable."""
        self.whisper(whisper)
        if diarization != EMBEDDED_DIARIZATION:
            self.diarization(diarization)
        for language, name in alignment:
            self.alignment(language, name)

    def whisper(self, source: str) -> Path | None:
        """Return the verified folder of a Whisper model; None if the library finds it (`locate`). Raises ModelUnavailable."""
        if source == EMBEDDED_WHISPER:
            return self._whisper_base
        if is_folder(source):
            return None
        try:
            return self.locate(whisper_requirement(source))
        except ConfigError as error:
            raise ModelUnavailable(error.message) from error

    @cached_property
    def _whisper_base(self) -> Path:
        return whisper_base()

    def alignment(self, language: str, name: str, *, download: bool = True) -> Path | None:
        """Return the verified folder or file of an alignment model, as `whisper` does."""
        return None if is_folder(name) else self.locate(alignment_requirement(language, name), download=download)

    def diarization(self, name: str) -> str | None:
        """Return the verified revision of a pipeline and of all models that it names, as `whisper` does."""
        if is_folder(name):
            return None
        need = diarization_requirement(name)
        folder = self.locate(need)
        if folder is None:
            return None
        for part in merged([need, *references(need, (folder / PIPELINE_CONFIG).read_bytes())]):
            self.locate(part)
            model = self._expected(part)
            # The libraries find the parts of other repositories by their reference.
            if model is not None and part.name != name and (fault := self._cache.revision_fault(model)):
                raise ModelUnavailable(f"{part.what}: the reference to its revision is wrong ({fault}); {ADVICE}")
        return folder.name

    def locate(self, need: ModelRequirement, *, download: bool = True) -> Path | None:
        """Return the verified folder of a repository, or file of torchaudio.

        None for a model that is neither pinned nor in the index: the library finds it, and nothing verifies it. A pinned model
        that is missing is fetched, if `download` and the settings allow it. Raises ModelUnavailable.
        """
        key = need.source, need.name, tuple(pattern for group in need.required for pattern in group)
        with self._lock:
            if key not in self._found:
                self._found[key] = self._locate(need, download and not is_offline())
            return self._found[key]

    def _locate(self, need: ModelRequirement, download: bool) -> Path | None:
        pinned = self._pins.find(need.source, need.name)
        if pinned is None:
            return self._locate_unpinned(need)
        if download and any(not self._cache.path(pinned, path).exists() for path in _picked(need, pinned)):
            self._fetch(need)
        folder = self._verify(need, pinned, "the manifest of pinned weights")
        self._reject_unpinned_files(need, pinned, folder)
        return folder

    def _locate_unpinned(self, need: ModelRequirement) -> Path | None:
        if self._require_pins:
            raise ModelUnavailable(
                f"{need.what}: {need.name} is not pinned, and TRANSCRIPTD_REQUIRE_PINNED_WEIGHTS is set; fetch it and pin it with "
                "`transcriptd models pin`"
            )
        log.warning("weights not pinned", extra={"weights": need.name})
        fetched = self._fetched.find(need.source, need.name)
        return self._verify(need, fetched, "the index of fetched models") if fetched is not None else None

    @property
    def _fetched(self) -> Index:
        if self._index is None:
            self._index = self._cache.load_index()
        return self._index

    def _expected(self, need: ModelRequirement) -> Model | None:
        return self._pins.find(need.source, need.name) or self._fetched.find(need.source, need.name)

    def _verify(self, need: ModelRequirement, model: Model, by: str) -> Path:
        for path in _picked(need, model):
            file = model.file(path)
            if file is not None and (fault := self._cache.fault(model, path, file.size, file.sha256)):
                place = self._cache.path(model, path)
                if fault == MISSING:
                    raise ModelUnavailable(f"{need.what}: {place} is missing; fetch it with `transcriptd models fetch`")
                raise ModelUnavailable(f"{need.what}: {place} {fault}, according to {by}; {ADVICE}")
        return self._cache.path(model, model.name if model.source == "torch" else ".")

    def _reject_unpinned_files(self, need: ModelRequirement, model: Model, folder: Path) -> None:
        if model.source == "torch":
            return
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            lower = path.name.lower()
            if path.is_dir() or lower.startswith(HARMLESS_NAMES) or lower.endswith(HARMLESS_SUFFIXES):
                continue
            if model.file(name) is None:
                raise ModelUnavailable(
                    f"{need.what}: {path} is not in the manifest of pinned weights: remove it, or pin it with "
                    "`transcriptd models pin`"
                )

    def _fetch(self, need: ModelRequirement) -> None:
        from daemon.weights.hub import Hub

        self._index = None
        try:
            fetch([need], Hub(self._hf_token, self._pins.revisions), self._cache, _log_progress, self._pins)
        except TransferInterrupted as error:
            raise ModelUnavailable(f"{need.what} could not be fetched: {error}; check the network") from error


def _log_progress(line: str) -> None:
    log.info("fetching weights", extra={"detail": line})


def _picked(need: ModelRequirement, model: Model) -> list[str]:
    return need.pick(file.path for file in model.files)


@contextmanager
def cached_only() -> Iterator[None]:
    """Have huggingface_hub take models from the cache without asking the hub for a newer revision."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
