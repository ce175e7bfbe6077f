"""Which models a configuration needs, and an index that is not trusted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.errors import ConfigError, DiskFull, ModelUnavailable
from daemon.schema.catalog import HUB_DIARIZATION
from daemon.weights import needs
from daemon.weights.cache import Cache
from daemon.weights.index import Index, parse_index
from daemon.weights.needs import ModelRequirement, packaged_weights, references, resolve
from tests.support.builders import some_settings
from tests.support.models.hub import COMMIT

SHA = "a" * 64


def names(found: list[ModelRequirement]) -> list[str]:
    return [need.name for need in found]


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"model": "base"}, {}, ["Systran/faster-whisper-base"]),
        ({"model": "large-v3-turbo"}, {}, ["mobiuslabsgmbh/faster-whisper-large-v3-turbo"]),
        ({"model": "me/mine"}, {}, ["me/mine"]),
        ({"model": "/opt/models/mine"}, {}, []),
        ({"model": "embedded"}, {}, []),
        ({"model": "tiny"}, {"models": ["embedded"]}, []),
        (
            {"model": "base", "models": ("base", "tiny")},
            {},
            ["Systran/faster-whisper-base", "Systran/faster-whisper-tiny"],
        ),
        ({"model": "base"}, {"models": ["tiny"]}, ["Systran/faster-whisper-tiny"]),
        ({"hf_token": "hf_x"}, {"models": ["/m"]}, [HUB_DIARIZATION]),
        ({"hf_token": "hf_x"}, {"models": ["/m"], "diarization": False}, []),
        ({"diarization_model": "me/pipeline"}, {"models": ["/m"]}, ["me/pipeline"]),
        ({"diarization_model": "embedded", "hf_token": "hf_x"}, {"models": ["/m"]}, []),
        (
            {"alignment_models": ("nl=me/dutch", "pl=/folder")},
            {"models": ["/m"], "languages": ["en", "nl", "pl"]},
            ["me/dutch", "wav2vec2_fairseq_base_ls960_asr_ls960.pth"],
        ),
        ({}, {"models": ["/m"], "languages": ["nl"]}, ["jonatasgrosman/wav2vec2-large-xlsr-53-dutch"]),
    ],
)
def test_required_models_follow_from_the_settings(
    settings: dict[str, Any], options: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    defaults = some_settings(**settings)
    if "models" not in settings:
        defaults.model_fields_set.discard("models")  # set by the tests' default settings
    assert names(resolve(defaults, **options)) == expected


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({}, {"models": ["larg-v3"]}, 'did you mean "large-v3"'),
        ({}, {"languages": ["tlh"]}, "no wav2vec2 model"),
        ({"diarization_model": "../../etc"}, {}, ""),
        ({"alignment_models": ("en",)}, {}, "language=name-or-folder"),
        ({"diarization_model": "a/b/c"}, {}, "not the name of a repository"),
    ],
)
def test_unavailable_models_are_reported(settings: dict[str, Any], options: dict[str, Any], words: str) -> None:
    if not words:  # a folder: nothing to fetch
        assert names(resolve(some_settings(models=("base",), **settings), **options)) == ["Systran/faster-whisper-base"]
        return
    with pytest.raises(ConfigError, match=words):
        resolve(some_settings(**settings), **options)


@pytest.fixture(scope="module")
def packages() -> dict[str, Any]:
    """The values in the packages that the daemon reads from source. Imported in a separate process, because importing
    them is slow."""
    code = """
import inspect, json, torch, torchaudio, faster_whisper.utils as f, whisperx.alignment as w
from pyannote.audio.pipelines import SpeakerDiarization as s
def choice(code):
    return next(t[code] for t in (w.DEFAULT_ALIGN_MODELS_TORCH, w.DEFAULT_ALIGN_MODELS_HF) if code in t)
codes = {*w.DEFAULT_ALIGN_MODELS_TORCH, *w.DEFAULT_ALIGN_MODELS_HF}
parameters = inspect.signature(s.__init__).parameters
print(json.dumps({
    "whisper": f._MODELS,
    "alignment": {c: choice(c) for c in codes},
    "bundles": {n: getattr(torchaudio.pipelines, n)._path for n in w.DEFAULT_ALIGN_MODELS_TORCH.values()},
    "torch folder": torch.hub.get_dir(),
    "diarization": {n: parameters[n].default for n in ("segmentation", "embedding", "plda")},
}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_tables_match_those_of_the_packages(packages: dict[str, Any]) -> None:
    """The daemon parses the tables without importing the packages; this test imports them."""
    assert needs.whisper_repositories() == packages["whisper"]
    assert needs.alignment_models() == packages["alignment"]
    assert packages["bundles"].items() <= needs.torchaudio_files().items()
    assert Cache.from_environment().torch == Path(packages["torch folder"]) / "checkpoints"


def test_default_diarization_models_are_known(packages: dict[str, Any]) -> None:
    assert packages["diarization"] == {
        part: {"checkpoint": HUB_DIARIZATION, "subfolder": part} for part in ("segmentation", "embedding", "plda")
    }


def pipeline(**parameters: Any) -> bytes:
    return json.dumps({"pipeline": {"name": needs.SPEAKER_DIARIZATION, "params": parameters}}).encode()


PIPELINE = ModelRequirement("diarization", "hub", "me/pipeline", (("config.yaml",),), pipeline=True)


@pytest.mark.parametrize(
    ("settings", "models", "wanted"),
    [
        ({"model": "embedded"}, (), True),
        ({"model": "base", "models": ("embedded",)}, (), True),
        ({"model": "base"}, ("embedded",), True),
        ({"model": "embedded"}, ("base",), False),
        ({"model": "base"}, (), False),
    ],
)
def test_embedded_model_is_one_of_the_packaged_weights(
    settings: dict[str, Any], models: tuple[str, ...], wanted: bool
) -> None:
    found = [what for what, _ in packaged_weights(some_settings(**settings), models)]
    assert ("packaged Whisper base" in found) == wanted


def test_a_pipeline_names_its_parts() -> None:
    """speaker-diarization-3.1 does not mention the PLDA, which pyannote.audio 4 loads anyway."""
    found = references(
        PIPELINE, pipeline(segmentation="pyannote/segmentation-3.0", embedding="$model/deep/embedding", clustering="x")
    )
    assert [(need.name, need.required) for need in found] == [
        ("pyannote/segmentation-3.0", (("pytorch_model.bin",),)),
        ("me/pipeline", (("deep/embedding/pytorch_model.bin",),)),
        (HUB_DIARIZATION, (("plda/xvec_transform.npz",), ("plda/plda.npz",))),
    ]


@pytest.mark.parametrize(
    "config",
    [
        b"{",
        b"[]",
        b"pipeline: 1",
        b"pipeline: {name: some.other.Class}",
        b"!!python/object/apply:os.system [id]",
        pipeline(embedding="speechbrain/spkrec-ecapa-voxceleb"),
        pipeline(embedding="nvidia/titanet"),
        pipeline(segmentation="$model/x@branch"),
        pipeline(segmentation={"checkpoint": "a/b", "revision": "c"}),
        pipeline(segmentation="/etc/passwd"),
        pipeline(plda=7),
    ],
)
def test_pipeline_that_cannot_be_fetched_is_rejected(config: bytes) -> None:
    with pytest.raises(ModelUnavailable, match="diarization"):
        references(PIPELINE, config)


def test_safetensors_are_preferred_to_pickles() -> None:
    need = resolve(some_settings(), ["/m"], ["nl"])[-1]
    files = ["config.json", "vocab.json", "preprocessor_config.json", "pytorch_model.bin", "flax_model.msgpack"]
    assert "pytorch_model.bin" in need.pick(files)
    assert "flax_model.msgpack" not in need.pick(files)
    shards = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert set(need.pick(files + shards)) == {*files[:3], *shards}
    with pytest.raises(ModelUnavailable, match=r"has no vocab\.json"):
        need.pick(["config.json", "preprocessor_config.json", "model.safetensors"])


@pytest.mark.parametrize("processor", ["preprocessor_config.json", "processor_config.json"])
def test_either_configuration_of_the_processor_is_enough(processor: str) -> None:
    need = resolve(some_settings(), ["/m"], ["nl"])[-1]
    files = ["config.json", "model.safetensors", processor, "vocab.json"]
    assert need.pick(files) == files
    with pytest.raises(ModelUnavailable, match=r"has no preprocessor_config\.json or processor_config\.json"):
        need.pick(["config.json", "vocab.json", "model.safetensors"])


# --- an index that is not trusted


def index(**changes: Any) -> bytes:
    file = {"path": "model.bin", "size": 3, "sha256": SHA}
    model: dict[str, Any] = {"source": "hub", "name": "a/b", "revision": COMMIT, "files": [file]}
    for name, value in changes.items():
        (file if name in file else model)[name] = value
    return json.dumps({"version": 1, "models": [model]}).encode()


def test_valid_index_is_read() -> None:
    assert parse_index(index(path="deep/er/model.bin"), "x").models[0].files[0].path == "deep/er/model.bin"


@pytest.mark.parametrize(
    "content",
    [
        *(
            index(path=path)
            for path in (
                "../model.bin",
                "a/../../model.bin",
                "/etc/cron.d/x",
                "a//b",
                "a/.",
                "./a",
                ".hidden",
                "a\\..\\b",
                "a\0b",
                "a\n",
                "",
                "a/",
                "~/x",
                "x" * 201,
            )
        ),
        *(index(name=name) for name in ("../b", "a/../b", "/a", "a/b/c", "a--b", "a/..", "", "a\n", ".a/b")),
        *(index(revision=value) for value in ("main", "../" + "a" * 37, None, COMMIT + "\n", "A" * 40)),
        *(index(size=value) for value in (-1, 2**60, 1.5, "3", True)),
        *(index(sha256=value) for value in ("", "../x", "A" * 64, SHA + "\n", None)),
        index(source="torch", name="b.pth", revision=None),
        index(source="elsewhere"),
        index(files=[{"path": "a", "size": 1, "sha256": SHA}] * 2),
        json.dumps({"version": 2, "models": []}).encode(),
        json.dumps({"version": 1, "models": [], "more": 1}).encode(),
        b"",
        b"[]",
        b"\xff",
        b'{"version": 1',
    ],
)
def test_harmful_index_is_rejected_with_a_message(content: bytes) -> None:
    with pytest.raises(ModelUnavailable, match=r"the index s3://x is invalid: ") as refused:
        parse_index(content, "s3://x")
    assert len(str(refused.value)) < 500


def test_index_can_grow_and_change() -> None:
    first = parse_index(index(), "x").models[0]
    more = parse_index(index(path="other"), "x").models[0]
    moved = more.model_copy(update={"revision": "b" * 40})
    assert [file.path for file in Index().updated([first]).updated([more]).models[0].files] == ["model.bin", "other"]
    assert Index().updated([first]).updated([moved]).models == (moved,)


def test_too_little_disk_space_is_reported_before_fetching(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    cache.require_space({"hub": 0, "torch": 0})
    with pytest.raises(DiskFull, match="HF_HOME"):
        cache.require_space({"hub": 2**59, "torch": 2**59})


def test_fetching_does_not_import_torch() -> None:
    code = (
        "import sys, daemon.cli.models, daemon.weights.hub, daemon.weights.mirror, daemon.weights.needs as n; "
        "n.whisper_repositories(), n.alignment_models(), n.torchaudio_files(); "
        "print({'torch', 'transformers', 'ctranslate2', 'whisperx', 'torchaudio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    """Fetching as root into the daemon's cache, such a link made root truncate a file."""
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "transcriptd" / "models.json")
    (tmp_path / "transcriptd").mkdir()
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "transcriptd" / "models.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ModelUnavailable, match=r"models\.lock cannot be opened"), cache.lock():
        pass
    assert (tmp_path / "precious").read_text() == "kept"
    (tmp_path / "transcriptd" / "models.lock").unlink()
    (tmp_path / "transcriptd" / "models.lock").symlink_to(tmp_path / "new")
    with pytest.raises(ModelUnavailable, match=r"models\.lock cannot be opened"), cache.lock():
        pass
    assert not (tmp_path / "new").exists()
