"""The local cache, in the layout that the libraries expect: the hub's below HF_HOME, torchaudio's below TORCH_HOME."""

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon.errors import DiskFull, ModelUnavailable
from daemon.weights.index import MAX_INDEX_BYTES, Index, Model, Source, parse_index, sha256_file
from daemon.weights.source import RemoteFile, RemoteModel

MISSING = "missing"
MAIN = "main"  # the branch that the libraries use
# Kept free, because a full root disk breaks more than the cache.
MARGIN_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cache:
    """`hub` is huggingface_hub's cache folder, `torch` torch.hub's checkpoint folder, `index_file` transcriptd's index."""

    hub: Path
    torch: Path
    index_file: Path

    @classmethod
    def from_environment(cls) -> "Cache":
        from huggingface_hub import constants

        # As torch/hub.py, get_dir.
        home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
        return cls(
            Path(constants.HF_HUB_CACHE),
            Path(home).expanduser() / "hub" / "checkpoints",
            Path(constants.HF_HOME) / "transcriptd" / "models.json",
        )

    def path(self, model: Model | RemoteModel, path: str) -> Path:
        """Return the path at which the libraries look for the file."""
        if model.source == "torch":
            return self.torch / path
        return self._folder(model) / "snapshots" / str(model.revision) / path

    def incomplete(self, model: RemoteModel, file: RemoteFile) -> Path:
        """Return the path of the partial download; huggingface_hub uses the same."""
        return (self.torch if model.source == "torch" else self._folder(model) / "blobs") / f"{file.blob}.incomplete"

    def fault(
        self, model: Model | RemoteModel, path: str, size: int, sha256: str | None, sha1: str | None = None
    ) -> str:
        """Describe the fault of the cached file; empty if it is intact."""
        place = self.path(model, path)
        try:
            found = place.resolve(strict=True)
        except (OSError, RuntimeError):  # RuntimeError: a link that points to itself
            return MISSING
        if not self._inside(model, found):
            return "is a link out of the cache"
        if not found.is_file():
            return "is not a file"
        if (actual := found.stat().st_size) != size:
            return f"has {actual} bytes instead of {size}"
        if sha256 is not None and (digest := sha256_file(found)) != sha256:
            return f"has the sha256 {digest} instead of {sha256}"
        if sha256 is None and sha1 is not None and git_blob_digest(found) != sha1:
            return "has a different git hash"
        return ""

    def revision_fault(self, model: Model) -> str:
        """Describe the fault of the reference through which the libraries find the revision; empty if it is correct."""
        if model.revision is None:
            return ""
        try:
            found = self._reference(model).read_text()
        except OSError:
            return MISSING
        return "" if found == model.revision else "names a different revision"

    def remove(self, model: RemoteModel, file: RemoteFile) -> None:
        """Remove the file and its content, whatever their state. Never removes anything outside the cache."""
        for path in (self.path(model, file.path), self.incomplete(model, file).with_name(file.blob)):
            self._make_parent(model, path)
            path.unlink(missing_ok=True)

    def place(self, model: RemoteModel, file: RemoteFile) -> None:
        """Move a complete, verified file to the path at which the libraries find it."""
        grown, place = self.incomplete(model, file), self.path(model, file.path)
        with grown.open("rb") as content:
            os.fsync(content.fileno())
        self._make_parent(model, place)
        grown.replace(place)

    def prepare(self, model: RemoteModel, file: RemoteFile) -> Path:
        """Prepare the partial download: create its folder and remove one that is too long. Returns its path."""
        grown = self.incomplete(model, file)
        self._make_parent(model, grown)
        if grown.is_symlink() or (grown.exists() and grown.stat().st_size > file.size):
            grown.unlink()
        return grown

    def finish(self, model: Model) -> None:
        """Make the revision visible to the libraries. Call once all of its files are present."""
        if model.revision is not None:
            write_atomically(self._reference(model), model.revision.encode())

    def load_index(self) -> Index:
        """Read the index. Raises ModelUnavailable if it is damaged."""
        if not self.index_file.is_file():
            return Index()
        with self.index_file.open("rb") as file:
            return parse_index(file.read(MAX_INDEX_BYTES), str(self.index_file))

    def save_index(self, index: Index) -> None:
        write_atomically(self.index_file, index.to_bytes())

    def require_space(self, needed: dict[Source, int]) -> None:
        """Raise DiskFull if the disks do not have room for so many more bytes."""
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
                    f"{root}: {readable(size)} to fetch, but {readable(free)} free, of which {readable(MARGIN_BYTES)} "
                    "must stay free; free disk space, or set HF_HOME and TORCH_HOME to a larger disk"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Allow one fetch at a time; further ones wait. Raises ModelUnavailable if the lock file cannot be opened.

        A link in place of the lock is not followed: whoever could write to the cache would have any file of the fetching user
        created or truncated.
        """
        self.index_file.parent.mkdir(parents=True, exist_ok=True)
        path = self.index_file.with_suffix(".lock")
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ModelUnavailable(f"{path} cannot be opened ({error.strerror}): remove it") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

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


def git_blob_digest(path: Path) -> str:
    """Return git's blob hash, the hub's digest for files outside LFS, which are limited to 10 MB."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def readable(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file atomically."""
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
