"""What a configuration needs, and an index that is not trusted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.catalog import HUB_DIARIZATION
from daemon.errors import ConfigError, DiskFull, ModelUnavailable
from daemon.models import needs
from daemon.models.cache import Cache
from daemon.models.index import Index, parse_index
from daemon.models.needs import Need, references, resolve
from tests.conftest import settings_with
from tests.hub import COMMIT

SHA = "a" * 64


def names(found: list[Need]) -> list[str]:
    return [need.name for need in found]


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"model": "base"}, {}, ["Systran/faster-whisper-base"]),
        ({"model": "large-v3-turbo"}, {}, ["mobiuslabsgmbh/faster-whisper-large-v3-turbo"]),
        ({"model": "me/mine"}, {}, ["me/mine"]),
        ({"model": "/opt/models/mine"}, {}, []),
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
def test_needs_follow_from_the_settings(
    settings: dict[str, Any], options: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    defaults = settings_with(**settings)
    if "models" not in settings:
        defaults.model_fields_set.discard("models")  # which the tests' settings give
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
def test_what_cannot_be_had_is_said(settings: dict[str, Any], options: dict[str, Any], words: str) -> None:
    if not words:  # a folder: nothing to fetch
        assert names(resolve(settings_with(models=("base",), **settings), **options)) == ["Systran/faster-whisper-base"]
        return
    with pytest.raises(ConfigError, match=words):
        resolve(settings_with(**settings), **options)


def test_the_tables_are_those_that_the_packages_use() -> None:
    """Read from their source without importing them; here they are imported."""
    code = """
import json, torch, torchaudio, faster_whisper.utils as f, whisperx.alignment as w
def choice(code):
    return next(t[code] for t in (w.DEFAULT_ALIGN_MODELS_TORCH, w.DEFAULT_ALIGN_MODELS_HF) if code in t)
codes = {*w.DEFAULT_ALIGN_MODELS_TORCH, *w.DEFAULT_ALIGN_MODELS_HF}
bundles = {n: getattr(torchaudio.pipelines, n)._path for n in w.DEFAULT_ALIGN_MODELS_TORCH.values()}
print(json.dumps([f._MODELS, {c: choice(c) for c in codes}, bundles, torch.hub.get_dir()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whisper, alignment, bundles, torch_folder = json.loads(done.stdout.splitlines()[-1])
    assert needs.whisper_repositories() == whisper
    assert needs.alignment_models() == alignment
    assert bundles.items() <= needs.torchaudio_files().items()
    assert Cache.from_environment().torch == Path(torch_folder) / "checkpoints"


def test_what_speaker_diarization_takes_by_default_is_known() -> None:
    code = """
import inspect; from pyannote.audio.pipelines import SpeakerDiarization as s
p = inspect.signature(s.__init__).parameters
print("defaults", *(f"{n}={p[n].default['checkpoint']}:{p[n].default['subfolder']}" for n in ("segmentation", "embedding", "plda")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"segmentation={HUB_DIARIZATION}:segmentation embedding={HUB_DIARIZATION}:embedding" in done.stdout
    assert f"plda={HUB_DIARIZATION}:plda" in done.stdout


def pipeline(**parameters: Any) -> bytes:
    return json.dumps({"pipeline": {"name": needs.SPEAKER_DIARIZATION, "params": parameters}}).encode()


PIPELINE = Need("diarization", "hub", "me/pipeline", (("config.yaml",),), pipeline=True)


def test_a_pipeline_names_its_parts() -> None:
    """As speaker-diarization-3.1 does, which says nothing of the PLDA that pyannote.audio 4 loads all the same."""
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
def test_a_pipeline_that_cannot_be_fetched_is_refused(config: bytes) -> None:
    with pytest.raises(ModelUnavailable, match="diarization"):
        references(PIPELINE, config)


def test_safetensors_go_before_pickles() -> None:
    need = resolve(settings_with(), ["/m"], ["nl"])[-1]
    files = ["config.json", "vocab.json", "preprocessor_config.json", "pytorch_model.bin", "flax_model.msgpack"]
    assert "pytorch_model.bin" in need.pick(files)
    assert "flax_model.msgpack" not in need.pick(files)
    shards = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert set(need.pick(files + shards)) == {*files[:3], *shards}
    with pytest.raises(ModelUnavailable, match=r"has no vocab\.json"):
        need.pick(["config.json", "preprocessor_config.json", "model.safetensors"])


# --- an index that is not trusted


def index(**changes: Any) -> bytes:
    file = {"path": "model.bin", "size": 3, "sha256": SHA}
    model: dict[str, Any] = {"source": "hub", "name": "a/b", "revision": COMMIT, "files": [file]}
    for name, value in changes.items():
        (file if name in file else model)[name] = value
    return json.dumps({"version": 1, "models": [model]}).encode()


def test_a_proper_index_is_read() -> None:
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
def test_an_index_that_could_do_harm_is_refused_in_words(content: bytes) -> None:
    with pytest.raises(ModelUnavailable, match=r"the index s3://x is not to be trusted: ") as refused:
        parse_index(content, "s3://x")
    assert len(str(refused.value)) < 500


def test_the_index_grows_and_changes() -> None:
    first = parse_index(index(), "x").models[0]
    more = parse_index(index(path="other"), "x").models[0]
    moved = more.model_copy(update={"revision": "b" * 40})
    assert [file.path for file in Index().updated([first]).updated([more]).models[0].files] == ["model.bin", "other"]
    assert Index().updated([first]).updated([moved]).models == (moved,)


def test_too_small_a_disk_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    cache.require_space({"hub": 0, "torch": 0})
    with pytest.raises(DiskFull, match="HF_HOME"):
        cache.require_space({"hub": 2**59, "torch": 2**59})


def test_fetching_imports_no_torch() -> None:
    code = (
        "import sys, daemon.models.command, daemon.models.hub, daemon.models.mirror, daemon.models.needs as n; "
        "n.whisper_repositories(), n.alignment_models(), n.torchaudio_files(); "
        "print({'torch', 'transformers', 'ctranslate2', 'whisperx', 'torchaudio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
