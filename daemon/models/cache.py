"""The local cache in the layout that the libraries read: the hub's below HF_HOME, torchaudio's below TORCH_HOME."""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.errors import DiskFull, ModelUnavailable
from daemon.models.index import MAX_INDEX_BYTES, Index, Model, Source, parse_index

MAIN = "main"  # the libraries ask for this branch
# Left free on the disk: a cache that fills the root disk of an instance takes down more than itself.
MARGIN_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source announces it. `blob` names its content; one digest at least, but for torchaudio's."""

    path: str
    size: int
    blob: str
    sha256: str | None = None
    git_sha1: str | None = None  # of git's blob: what the hub tells of a file outside LFS


@dataclass(frozen=True, slots=True)
class RemoteModel:
    source: Source
    name: str
    revision: str | None
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True, slots=True)
class Cache:
    """`hub` is huggingface_hub's cache folder, `torch` that of torch.hub's checkpoints, `index_file` our own beside them."""

    hub: Path
    torch: Path
    index_file: Path

    @classmethod
    def from_environment(cls) -> "Cache":
        from huggingface_hub import constants

        # torch/hub.py, get_dir.
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
        return cls(
            Path(constants.HF_HUB_CACHE),
            Path(home).expanduser() / "hub" / "checkpoints",
            Path(constants.HF_HOME) / "transcriptd" / "models.json",
        )

    def path(self, model: Model | RemoteModel, path: str) -> Path:
        """Where the libraries look for the file."""
        if model.source == "torch":
            return self.torch / path
        return self._folder(model) / "snapshots" / str(model.revision) / path

    def incomplete(self, model: RemoteModel, file: RemoteFile) -> Path:
        """Where the file grows; huggingface_hub uses the same place."""
        return (self.torch if model.source == "torch" else self._folder(model) / "blobs") / f"{file.blob}.incomplete"

    def fault(
        self, model: Model | RemoteModel, path: str, size: int, sha256: str | None, sha1: str | None = None
    ) -> str:
        """What is wrong with the cached file, in a few words; empty when nothing is."""
        place = self.path(model, path)
        try:
            found = place.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a link to itself
            return "missing"
        if not self._inside(model, found):
            return "a link out of the cache"
        if not found.is_file():
            return "not a file"
        if (actual := found.stat().st_size) != size:
            return f"has {actual} bytes instead of {size}"
        if sha256 is not None and digest_of(found) != sha256:
            return "has another sha256"
        if sha256 is None and sha1 is not None and git_digest_of(found) != sha1:
            return "has another git hash"
        return ""

    def revision_fault(self, model: Model) -> str:
        """What is wrong with the reference by which the libraries find the revision; empty when nothing is."""
        if model.revision is None:
            return ""
        try:
            found = self._reference(model).read_text()
        except OSError:
            return "missing"
        return "" if found == model.revision else "names another revision"

    def remove(self, model: RemoteModel, file: RemoteFile) -> None:
        """Take the file away, and its content, whatever state they are in; nothing outside the cache."""
        place = self.path(model, file.path)
        self._make_parent(model, place)
        with suppress(OSError, RuntimeError):  # a link to nowhere or to itself: there is no content
            content = place.resolve(strict=True)
            if self._inside(model, content):
                content.unlink()
        place.unlink(missing_ok=True)
        if model.source == "hub":
            (self._folder(model) / "blobs" / file.blob).unlink(missing_ok=True)

    def place(self, model: RemoteModel, file: RemoteFile) -> None:
        """Move what has grown whole, and was verified, to where the libraries find it."""
        grown, place = self.incomplete(model, file), self.path(model, file.path)
        with grown.open("rb") as content:
            os.fsync(content.fileno())
        if model.source == "torch":
            grown.replace(place)
            return
        blob = grown.with_name(file.blob)
        grown.replace(blob)
        self._make_parent(model, place)
        link = place.with_name(f".{secrets.token_hex(8)}")
        link.symlink_to(os.path.relpath(blob, place.parent))
        link.replace(place)

    def prepare(self, model: RemoteModel, file: RemoteFile) -> Path:
        """The growing file's path, with a folder around it and no more in it than the file will have."""
        grown = self.incomplete(model, file)
        self._make_parent(model, grown)
        if grown.is_symlink() or (grown.exists() and grown.stat().st_size > file.size):
            grown.unlink()
        return grown

    def finish(self, model: Model) -> None:
        """Let the libraries find the revision: to be called when all of its files are there."""
        if model.revision is not None:
            _write(self._reference(model), model.revision.encode())

    def load_index(self) -> Index:
        """Raises ModelUnavailable when it is damaged."""
        if not self.index_file.is_file():
            return Index()
        with self.index_file.open("rb") as file:
            return parse_index(file.read(MAX_INDEX_BYTES), str(self.index_file))

    def save_index(self, index: Index) -> None:
        _write(self.index_file, index.to_bytes())

    def require_space(self, needed: dict[Source, int]) -> None:
        """Raises DiskFull when the disks have no room for so many bytes more."""
        by_disk: dict[int, tuple[Path, int]] = {}
        for source, size in needed.items():
            root = self.torch if source == "torch" else self.hub
            root.mkdir(parents=True, exist_ok=True)
            disk = root.stat().st_dev
            by_disk[disk] = (root, by_disk.get(disk, (root, 0))[1] + size)
        for root, size in by_disk.values():
            if size and shutil.disk_usage(root).free < size + MARGIN_BYTES:
                free = shutil.disk_usage(root).free
                raise DiskFull(
                    f"{root}: {readable(size)} are to be fetched and {readable(free)} are free, of which "
                    f"{readable(MARGIN_BYTES)} stay free; make room, or set HF_HOME and TORCH_HOME to a larger disk"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One fetch at a time; another one waits."""
        self.index_file.parent.mkdir(parents=True, exist_ok=True)
        with self.index_file.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _folder(self, model: Model | RemoteModel) -> Path:
        return self.hub / f"models--{model.name.replace('/', '--')}"

    def _reference(self, model: Model) -> Path:
        return self._folder(model) / "refs" / MAIN

    def _inside(self, model: Model | RemoteModel, resolved: Path) -> bool:
        root = self.torch if model.source == "torch" else self.hub
        return resolved.is_relative_to(root.resolve())

    def _make_parent(self, model: RemoteModel, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._inside(model, path.parent.resolve()):
            raise ModelUnavailable(f"{path.parent} leads out of the cache: remove that link")


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_digest_of(path: Path) -> str:
    """What git calls the content: the hub's id of a file outside LFS."""
    with path.open("rb") as file:
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        while block := file.read(1024 * 1024):
            digest.update(block)
        return digest.hexdigest()


def readable(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _write(path: Path, content: bytes) -> None:
    """Replace the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
