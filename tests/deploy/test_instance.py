"""The path of an instance: Terraform's user data as rendered, install.sh with the locked packages, the unit, and a job.

Real: the module's validations and template, the boot script from its settings on, the release archive, the
installation, the settings, the daemon and its packaged diarization. Replaced: AWS and EC2 by servers on loopback, the
hub by one whose large models are Whisper base, the system by a root folder, and systemd by a process started as the
unit specifies.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.waiting import wait_for
from daemon.demo.aws import EmbeddedAws
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from daemon.weights.index import File, Model
from daemon.weights.needs import WHISPER_FILES, WHISPER_OPTIONAL, ModelRequirement, whisper_repositories
from daemon.weights.pins import Pins
from tests.support.aws.ec2 import FakeEc2
from tests.support.deploy.other_user import path_with_setpriv
from tests.support.deploy.releases import commit_working_tree, make_archive
from tests.support.deploy.rendering import (
    ACCOUNT_ID,
    REGION,
    RELEASE_SHA256,
    deploy_page_call,
    example_call,
    readme_call,
    render_user_data,
)
from tests.support.media.decoding import descendants
from tests.support.models import weights
from tests.support.models.hub import FakeHub, serving
from tests.support.programs import require_program

REPOSITORY = Path(__file__).parents[2]
QUEUES = ("jobs", "jobs-dlq", "outbox", "outbox-dlq")
MAX_RECEIVE_COUNT = 10
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

SERVICE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the PATH that systemd gives a unit
# Not part of the rendered settings: long polls and webhook retries without a receiver would delay the shutdown.
IMPATIENT = {"TRANSCRIPTD_RECEIVE_WAIT_TIME_SECONDS": "1", "TRANSCRIPTD_WEBHOOK_ATTEMPTS": "1"}
# Not part of the unit: it counts on the bytecode of the installation, which takes a minute. Each process would compile
# all that it imports, instead of once for both instances.
KEEPS_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
INSTALL_TIMEOUT_SECONDS = 1200
START_TIMEOUT_SECONDS = 300
WITHHELD_PREFIXES = ("AWS_", "TRANSCRIPTD_", "WEBHOOK_", "HF_", "HUGGING_FACE_", "TORCH_HOME", "XDG_DATA_")
WITHHELD = {"UV", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}

# Replaces the AWS CLI: returns the release archive and, for either store, the secret.
AWS_COMMAND = f"""
aws() {{
  case "$1 $2" in
    's3 cp') cp "$ARCHIVE" "${{@: -1}}" ;;
    'ssm get-parameter' | 'secretsmanager get-secret-value') printf '%s\\n' '{SECRET}' ;;
    *) echo "unexpected call: aws $*" >&2 && return 1 ;;
  esac
}}
"""

CALLS = pytest.mark.parametrize("call", [example_call, readme_call], ids=["example", "readme"])


# --- boot script


def run_boot_script(script: str, root: Path, **environment: str) -> None:
    """Run a part of the rendered user data against the system tree below `root`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(WITHHELD_PREFIXES) and name not in WITHHELD
    }
    path = root / "boot.sh"
    path.write_text(AWS_COMMAND + re.sub(r"(?<![\w$}/])/etc/", f"{root}/etc/", script))
    done = subprocess.run(
        ["bash", "-Eeuo", "pipefail", str(path)],
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def section(user_data: str, begin: str, end: str) -> str:
    """Return the lines of the boot script from the heading `begin` up to the heading `end`."""
    return user_data[user_data.index(f"# --- {begin}") : user_data.index(f"# --- {end}")]


def environment_file(text: str) -> dict[str, str]:
    """Parse a file as systemd's EnvironmentFile= does: within double quotes, a backslash escapes the characters special
    to sh."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        quoted = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', value)
        assert quoted, f"not a quoted value: {name}"
        found[name] = re.sub(r'\\(["\\`$])', r"\1", quoted[1])
    return found


@pytest.mark.parametrize("call", [example_call, readme_call, deploy_page_call], ids=["example", "readme", "docs"])
def test_rendered_settings_load(call: Callable[[], str], tmp_path: Path) -> None:
    queue_urls = {key: f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT_ID}/transcriptd-{key}" for key in QUEUES}
    (tmp_path / "terraform").mkdir()
    user_data = render_user_data(call(), queue_urls, tmp_path / "terraform")
    run_boot_script(section(user_data, "Settings", "Release"), tmp_path)
    written = tmp_path / "etc/transcriptd/transcriptd.env"
    assert written.stat().st_mode & 0o777 == 0o600
    settings = environment_file(written.read_text())
    assert SECRET not in written.read_text()
    secrets = tmp_path / "etc/transcriptd/credentials"
    assert (secrets / "WEBHOOK_SECRET").read_text() == f"{SECRET}\n"
    assert [path.stat().st_mode & 0o777 for path in (secrets, secrets / "WEBHOOK_SECRET")] == [0o700, 0o600]
    load = (
        "from daemon.config import load_settings; print(load_settings().model_dump_json(include={'model', 'models'}))"
    )
    command = [sys.executable, "-c", load]
    done = subprocess.run(
        command,
        env={"PATH": SERVICE_PATH, "CREDENTIALS_DIRECTORY": str(secrets), **settings},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["models"] == [loaded["model"]], "jobs may request the models that the instance has"


# --- instance


def pinned(hub: FakeHub) -> tuple[Model, ...]:
    """Return pins of what a hub serves and the daemon loads."""
    found = []
    for name, content in hub.repositories.items():
        need = ModelRequirement("", "hub", name, WHISPER_FILES, WHISPER_OPTIONAL)
        files = tuple(
            File(path=path, size=len(content[path]), sha256=hashlib.sha256(content[path]).hexdigest())
            for path in need.pick(content)
        )
        found.append(Model(source="hub", name=name, revision=hub.commit, files=files))
    return tuple(found)


def environment_of(pid: int) -> bytes:
    """Return the environment of a process; empty if it has ended, as a decoder may at any time."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


@dataclass
class Fleet:
    """Resources that the instances of a deployment share (AWS, a hub and a release), and one root to install into."""

    aws: EmbeddedAws
    hub: FakeHub
    archive: Path
    root: Path
    queue_urls: dict[str, str]

    def boot(self, user_data: str) -> None:
        """Run the boot script from its settings to the installation. The hub's models are pinned in an operator's manifest."""
        manifest = self.root / "etc/weights.json"
        manifest.parent.mkdir(exist_ok=True)
        manifest.write_bytes(Pins(models=pinned(self.hub)).to_bytes())
        script = section(user_data, "Settings", "Start")
        settings = f'TRANSCRIPTD_WEIGHTS_MANIFEST="{manifest}"\nTRANSCRIPTD_REQUIRE_PINNED_WEIGHTS="true"\n'
        script = re.sub(r"(?m)^(?=TRANSCRIPTD_QUEUE_URL=)", settings, script)
        arguments = f" --root {self.root} --python {getattr(sys, '_base_executable', sys.executable)}"
        script = script.replace(RELEASE_SHA256, hashlib.sha256(self.archive.read_bytes()).hexdigest())
        script, found = re.subn(r'(?m)^(bash "\$installer" .*)$', rf"\1{arguments}", script)
        assert found == 1
        # Compiling every package takes a minute on two cores; what the daemon imports is compiled at its start instead.
        environment = {"ARCHIVE": str(self.archive), "HF_ENDPOINT": self.hub.base_url, "UV_COMPILE_BYTECODE": "0"}
        interpreter = getattr(sys, "_base_executable", sys.executable)
        environment["PATH"] = path_with_setpriv(self.archive.parent / "bin", interpreter, self.root)
        run_boot_script(script, self.root, **environment)

    def unit(self) -> dict[str, list[str]]:
        """Return the options of the installed unit's section [Service]."""
        text = (self.root / "usr/lib/systemd/system/transcriptd.service").read_text()
        found: dict[str, list[str]] = {}
        for line in text.partition("[Service]")[2].partition("[Install]")[0].splitlines():
            if line and line[0] not in "#;":
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
        return found

    def below_root(self, value: str) -> str:
        return f"{self.root}{value}" if value.startswith(("/opt/", "/var/", "/etc/")) else value

    def service(self, log_path: Path, endpoints: Mapping[str, str]) -> DaemonProcess:
        """Start the daemon as the unit does; `endpoints` are the addresses of AWS, EC2 and the hub."""
        unit = self.unit()
        given = {"PATH": SERVICE_PATH}
        for line in unit["Environment"]:
            given.update(dict(assignment.split("=", 1) for assignment in line.split()))
        for file in unit["EnvironmentFile"]:
            given.update(environment_file(Path(self.below_root(file)).read_text()))
        credentials = {"CREDENTIALS_DIRECTORY": str(self.load_credentials(unit["LoadCredential"]))}
        environment = {**credentials, **{name: self.below_root(value) for name, value in given.items()}}
        (command,) = unit["ExecStart"]
        return DaemonProcess(
            {**environment, **endpoints, **IMPATIENT, **KEEPS_BYTECODE, "TRANSCRIPTD_HTTP_PORT": "0"},
            log_path,
            [self.below_root(word) for word in command.split()],
            inherit=False,
        )

    def load_credentials(self, options: list[str]) -> Path:
        """Copy the credentials to a folder of the service, as systemd does."""
        folder = self.archive.parent / "credentials"
        folder.mkdir(exist_ok=True)
        for name, _, path in (option.partition(":") for option in options):
            shutil.copyfile(self.below_root(path), folder / name)
        return folder

    def create_bucket(self, name: str) -> None:
        if name not in {bucket["Name"] for bucket in self.aws.s3.list_buckets()["Buckets"]}:
            self.aws.create_bucket(name)

    def depth(self, queue: str) -> int:
        """Return the number of messages of a queue: visible, in flight and delayed."""
        names: Any = [f"ApproximateNumberOfMessages{suffix}" for suffix in ("", "NotVisible", "Delayed")]
        answer = self.aws.sqs.get_queue_attributes(QueueUrl=self.queue_urls[queue], AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)

    def outputs(self, bucket: str, prefix: str) -> set[str]:
        """Return the names of the objects below a prefix."""
        listed = self.aws.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {item["Key"].removeprefix(prefix) for item in listed}

    def read(self, bucket: str, key: str) -> bytes:
        return self.aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def installation_folder() -> str | None:
    """Return an installation folder on the filesystem of uv's cache if possible, because packages are then linked
    instead of copied."""
    cache = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache" / "uv"))
    if cache.is_dir() and cache.stat().st_dev != Path(tempfile.gettempdir()).stat().st_dev:
        return str(cache.parent)
    return None


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    for program in ("terraform", "systemd-sysusers", "systemd-tmpfiles", "systemctl"):
        require_program(program)
    if os.getuid() != 0:
        pytest.skip("install.sh must be run as root")
    folder = tmp_path_factory.mktemp("release")
    commit_working_tree(folder / "checkout")
    archive, _ = make_archive(folder / "checkout", folder)
    names = whisper_repositories()
    hub = FakeHub({names[model]: weights.whisper() for model in ("large-v3-turbo", "large-v3")})
    with (
        tempfile.TemporaryDirectory(prefix="transcriptd-root-", dir=installation_folder()) as root,
        EmbeddedAws(region=REGION) as aws,
        serving(hub),
    ):
        queue_urls = {key: aws.sqs.create_queue(QueueName=f"transcriptd-{key}")["QueueUrl"] for key in QUEUES}
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:transcriptd-jobs-dlq"
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
        aws.sqs.set_queue_attributes(
            QueueUrl=queue_urls["jobs"], Attributes={"VisibilityTimeout": "120", "RedrivePolicy": redrive}
        )
        Path(root).chmod(0o755)  # the user who fetches the models must reach it
        yield Fleet(aws, hub, archive, Path(root), queue_urls)


@CALLS
def test_an_instance_boots_and_transcribes(
    call: Callable[[], str], fleet: Fleet, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    terraform = tmp_path / "terraform"
    terraform.mkdir()
    fleet.boot(render_user_data(call(), fleet.queue_urls, terraform))
    drop_in = fleet.root / "etc/systemd/system/transcriptd.service.d/50-deadlines.conf"
    (stop_timeout,) = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", drop_in.read_text())

    settings = environment_file((fleet.root / "etc/transcriptd/transcriptd.env").read_text())
    input_bucket, output_bucket = settings["TRANSCRIPTD_INPUT_BUCKETS"], settings["TRANSCRIPTD_OUTPUT_BUCKET"]
    fleet.create_bucket(input_bucket)
    fleet.create_bucket(output_bucket)
    assert not IMPATIENT.keys() & settings.keys()
    job_id = request.node.callspec.id
    prefix = f"{settings['TRANSCRIPTD_OUTPUT_PREFIX']}{job_id}/"

    # The job waits for the instance, as in a fleet that scales from zero.
    fleet.aws.s3.upload_file(str(sample_call()), input_bucket, f"{job_id}.wav")
    job = {"job_id": job_id, "input": {"bucket": input_bucket, "key": f"{job_id}.wav"}}
    fleet.aws.sqs.send_message(QueueUrl=fleet.queue_urls["jobs"], MessageBody=json.dumps(job))
    events_before = fleet.depth("outbox")

    with FakeEc2() as ec2:
        ec2.attach_role()
        endpoints = {
            "AWS_ENDPOINT_URL": fleet.aws.endpoint_url,
            "AWS_ENDPOINT_URL_AUTO_SCALING": ec2.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": ec2.url,
            "HF_ENDPOINT": fleet.hub.base_url,
        }
        with fleet.service(tmp_path / "daemon.log", endpoints) as daemon:
            assert daemon.wait_until_ready(START_TIMEOUT_SECONDS), daemon.log_tail()
            assert SECRET.encode() not in b"".join(
                map(environment_of, [daemon.process.pid, *descendants(daemon.process.pid)])
            )
            assert json.loads(daemon.get("/readyz"))["checks"]["sandbox"]["runner_network"] is False
            wait_for(lambda: bool(ec2.call_names()), "the launch hook is completed")

            def published_or_refused() -> bool:
                assert daemon.process.poll() is None, daemon.log_tail()
                return "manifest.json" in fleet.outputs(output_bucket, prefix) or fleet.depth("jobs-dlq") > 0

            wait_for(published_or_refused, "the manifest is written")
            assert fleet.depth("jobs-dlq") == 0, daemon.log_tail()
            transcript = json.loads(fleet.read(output_bucket, f"{prefix}transcript.json"))
            assert transcript["models"]["asr"] == settings.get("TRANSCRIPTD_MODEL", "large-v3")
            assert len(transcript["speakers"]) == 2, transcript["warnings"]
            assert transcript["segments"]
            assert all(segment["text"] and segment["speaker"] for segment in transcript["segments"])
            # No receiver is reachable, so the job's last event waits for its next retry.
            wait_for(lambda: fleet.depth("outbox") > events_before, "the event is in the outbox")
            wait_for(lambda: fleet.depth("jobs") == 0, "the message is deleted")
            assert daemon.stop(timeout_seconds=float(stop_timeout)) == 0, daemon.log_tail()
    assert ec2.call_names() == [f"complete {settings['TRANSCRIPTD_LAUNCH_HOOK']} CONTINUE"]
