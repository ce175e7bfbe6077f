"""`transcriptd check` as users run it: in a separate process, against an AWS that works, is incomplete, or denies
access."""

import io
import json
import os
import re
import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import pytest

from bench.world import SECRET
from daemon.cli.check.command import check
from daemon.demo.aws import EmbeddedAws
from daemon.demo.receiver import SeenEvent, WebhookReceiver
from daemon.weights.packaged import whisper_base
from tests.support.aws.ec2 import INSTANCE_ID, FakeEc2
from tests.support.aws.gate import Gate
from tests.support.command_line import TIMEOUT_SECONDS, environment, run_tool, start_tool

TOKEN = "hf_planted-in-the-environment"


@dataclass
class Site:
    """A complete and correct environment for a daemon."""

    aws: EmbeddedAws
    gate: Gate
    ec2: FakeEc2
    receiver: WebhookReceiver
    folder: Path
    posted: list[SeenEvent] = field(default_factory=list)

    def environment(self, **changes: str | None) -> dict[str, str]:
        variables: dict[str, str | None] = {
            **self.aws.environment,
            **self.ec2.environment,
            "AWS_ENDPOINT_URL": self.gate.url,
            "TRANSCRIPTD_CHECKPOINT_TAG": "transcriptd=checkpoint",
            "TRANSCRIPTD_MODEL": str(whisper_base()),
            "TRANSCRIPTD_DIARIZATION_MODEL": "embedded",
            "TRANSCRIPTD_SCRATCH_DIR": str(self.folder / "made" / "scratch"),
            "TRANSCRIPTD_MIN_FREE_BYTES": "1000",
            "WEBHOOK_URL": self.receiver.url,
            "WEBHOOK_SECRET": SECRET,
            "TRANSCRIPTD_WEBHOOK_ALLOW_HTTP": "true",
            **changes,
        }
        return {name: value for name, value in variables.items() if value is not None}

    def run(self, *words: str, **changes: str | None) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """Run the command in a separate process and return its exit status and the findings by check."""
        done = run_tool(self.environment(**changes), "check", "--json", *words)
        assert done.stderr == ""
        return done.returncode, findings_of(done.stdout)

    def check(self, *names: str, **changes: str | None) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """Run only these checks, in this process, which saves a second each time."""
        printed = io.StringIO()
        variables = environment(self.environment(**changes))
        with mock.patch.dict(os.environ, variables, clear=True), redirect_stdout(printed):
            status = check(Namespace(only=list(names), skip=None, json=True))
        return status, findings_of(printed.getvalue())

    def keys(self) -> list[str]:
        listed = self.aws.s3.list_objects_v2(Bucket=self.aws.output_bucket)
        return [item["Key"] for item in listed.get("Contents", [])]


def findings_of(text: str) -> dict[str, list[dict[str, Any]]]:
    report = json.loads(text)
    assert set(report) == {"status", "version", "checks"}
    found: dict[str, list[dict[str, Any]]] = {}
    for each in report["checks"]:
        assert set(each) == {"check", "status", "found", "fix"}
        assert (each["fix"] is None) == (each["status"] == "pass"), each
        assert each["fix"] is None or each["fix"].endswith((".", "…", "32)")), each
        found.setdefault(each["check"], []).append(each)
    worst = [status for status in ("fail", "warn", "pass") if any(e["status"] == status for e in report["checks"])]
    assert report["status"] == (worst or ["skipped"])[0]
    return found


def statuses(findings: list[dict[str, Any]]) -> list[str]:
    return [each["status"] for each in findings]


def only_failure(findings: list[dict[str, Any]]) -> str:
    (failure,) = (each for each in findings if each["status"] == "fail")
    return f"{failure['found']} → {failure['fix']}"


@pytest.fixture(scope="module")
def module_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        aws = stack.enter_context(EmbeddedAws())
        posted: list[SeenEvent] = []
        receiver = stack.enter_context(WebhookReceiver(SECRET, posted.append))
        gate = stack.enter_context(Gate(aws.endpoint_url))
        yield Site(aws, gate, stack.enter_context(FakeEc2()), receiver, tmp_path_factory.mktemp("check"), posted)


@pytest.fixture
def site(module_site: Site, tmp_path: Path) -> Iterator[Site]:
    """The environment, reset to a correct state before each test."""
    site, aws = replace(module_site, folder=tmp_path), module_site.aws
    site.gate.denied, site.gate.held, site.gate.date_shift_seconds = {}, set(), 0.0
    site.gate.calls.clear()
    site.ec2.members, site.ec2.metadata_down = [INSTANCE_ID], False
    redrive_to(aws, 15)
    aws.sqs.set_queue_attributes(QueueUrl=aws.dlq_url, Attributes={"MessageRetentionPeriod": "1209600"})
    yield site
    assert site.keys() == [], "no object is left behind"
    assert site.posted == [], "nothing is posted"


def redrive_to(aws: EmbeddedAws, receives: int | None) -> None:
    arn = aws.sqs.get_queue_attributes(QueueUrl=aws.dlq_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = "" if receives is None else json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})
    aws.sqs.set_queue_attributes(QueueUrl=aws.queue_url, Attributes={"RedrivePolicy": policy})


# --- everything is correct --------------------------------------------------------------------------------------------


def test_working_machine_passes(site: Site) -> None:
    site.aws.sqs.send_message(QueueUrl=site.aws.queue_url, MessageBody="a job that must not be touched")
    status, found = site.run(HF_HUB_OFFLINE="1")
    assert status == 0
    passes = ("packages", "disk", "models", "diarization", "redrive", "output", "inputs", "clock", "host")
    for name in passes:
        assert set(statuses(found[name])) == {"pass"}, found[name]
    for name in ("queue", "dead-letters", "outbox"):
        assert set(statuses(found[name])) == {"pass", "skipped"}, found[name]
        assert any("not tested" in each["found"] for each in found[name])
    assert statuses(found["decoder"]) == statuses(found["sandbox"]) == ["pass"]
    assert set(statuses(found["webhook"])) == {"pass"}
    assert "501" in found["webhook"][-1]["found"], "the receiver does not support HEAD, and counts as reachable"
    assert statuses(found["settings"]) == ["pass", "warn"]  # plain HTTP in tests
    assert statuses(found["device"])[0] in ("pass", "warn")  # a warning without a GPU
    assert not (site.folder / "made").exists(), "a scratch directory that did not exist is not left behind"
    (job,) = site.aws.sqs.receive_message(QueueUrl=site.aws.queue_url, AttributeNames=["All"])["Messages"]
    assert job["Attributes"]["ApproximateReceiveCount"] == "1"
    site.aws.sqs.delete_message(QueueUrl=site.aws.queue_url, ReceiptHandle=job["ReceiptHandle"])
    conditional = [call for call in site.gate.calls if call.startswith("s3:PUT:.transcriptd-check-")]
    assert len(conditional) == 3


def test_output_is_readable(site: Site) -> None:
    done = run_tool(site.environment(), "check", "--only", "redrive", "host", "clock", "--skip", "clock")
    assert done.returncode == 0
    assert re.fullmatch(
        r"pass    redrive +SQS moves messages to transcriptd-dlq after 15 receives.*\n"
        rf"pass    host +instance {INSTANCE_ID}\n"
        r"pass    host +Auto Scaling group fleet, 1 instances\n3 pass\n",
        done.stdout,
    ), done.stdout
    unknown = run_tool(site.environment(), "check", "--only", "quee")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "did you mean queue?" in unknown.stderr


# --- something is missing -----------------------------------------------------------------------------------------------


def test_invalid_settings_are_reported_as_by_run(site: Site) -> None:
    wrong = site.environment(TRANSCRIPTD_HEARTBEAT_SECONDS="100", TRANSCRIPTD_MAX_ATTEMPTS="0")
    run, checked = run_tool(wrong, "run"), run_tool(wrong, "check", "--json", "--only", "settings", "disk")
    assert (run.returncode, checked.returncode) == (78, 78)
    found = findings_of(checked.stdout)
    entry = json.loads(run.stdout)
    assert (entry["level"], entry["event"], entry["error"]) == (
        "CRITICAL",
        "settings refused",
        found["settings"][0]["found"],
    )
    assert run.stderr == ""
    assert statuses(found["settings"]) == ["fail"]
    assert statuses(found["disk"]) == ["skipped"]


def test_the_region_is_read_where_the_unit_has_it(site: Site) -> None:
    """AWS_REGION alone is enough, as in the unit's environment, and a missing region is reported."""
    alone = run_tool(site.environment(AWS_DEFAULT_REGION=None), "check", "--only", "queue")
    assert alone.returncode == 0, alone.stdout
    run = run_tool(site.environment(AWS_REGION=None, AWS_DEFAULT_REGION=None), "run")
    entry = json.loads(run.stdout.splitlines()[-1])
    assert (run.returncode, entry["event"]) == (78, "settings refused")
    assert "set AWS_REGION" in entry["error"]


def test_missing_bucket_and_queues(site: Site) -> None:
    names = ("queue", "redrive", "dead-letters", "outbox", "output", "inputs")
    status, found = site.run(
        "--only",
        *names,
        TRANSCRIPTD_QUEUE_URL=site.aws.queue_url + "-gone",
        TRANSCRIPTD_DLQ_URL=site.aws.dlq_url + "-gone",
        TRANSCRIPTD_OUTBOX_URL=site.aws.outbox_url + "-gone",
        TRANSCRIPTD_OUTPUT_BUCKET="gone-results",
        TRANSCRIPTD_INPUT_BUCKETS="media,gone-media",
    )
    assert status == 1
    for name in ("queue", "dead-letters", "output", "inputs"):
        assert "does not exist" in only_failure(found[name])
    assert "input bucket media" in found["inputs"][0]["found"]
    assert "gone-media" in only_failure(found["inputs"])
    assert statuses(found["outbox"]) == ["fail"]
    assert statuses(found["redrive"]) == ["skipped"], "each finding is reported by one check only"


@pytest.mark.parametrize(
    ("receives", "status"),
    [(None, "warn"), (3, "fail"), (7, "warn"), (15, "pass")],
)
def test_redrive_policy(site: Site, receives: int | None, status: str) -> None:
    redrive_to(site.aws, receives)
    exit_status, found = site.check("redrive")
    assert statuses(found["redrive"]) == [status]
    assert exit_status == (status == "fail")


def test_full_disk_and_read_only_disk(site: Site, tmp_path: Path) -> None:
    status, found = site.check("disk", TRANSCRIPTD_MIN_FREE_BYTES=str(10**18))
    assert (status, statuses(found["disk"])) == (1, ["fail"])
    assert "the daemon would receive no messages" in only_failure(found["disk"])
    (tmp_path / "file").touch()
    status, found = site.check("disk", TRANSCRIPTD_SCRATCH_DIR=str(tmp_path / "file" / "scratch"))
    assert status == 1
    assert "Not a directory" in only_failure(found["disk"])


PYANNOTE = "pyannote/speaker-diarization-community-1"


def put_in_cache(home: Path, repository: str, file: str) -> None:
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / file).touch()
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")


def test_gated_pipeline_in_the_cache_needs_no_token(site: Site, tmp_path: Path) -> None:
    put_in_cache(tmp_path, PYANNOTE, "config.yaml")
    status, found = site.run("--only", "diarization", TRANSCRIPTD_DIARIZATION_MODEL=PYANNOTE, HF_HOME=str(tmp_path))
    assert (status, statuses(found["diarization"])) == (0, ["pass"])


def test_missing_models(site: Site, tmp_path: Path) -> None:
    put_in_cache(tmp_path, "Systran/faster-whisper-base", "model.bin")
    status, found = site.run(
        *("--only", "models", "diarization"),
        TRANSCRIPTD_MODEL=str(tmp_path),
        TRANSCRIPTD_MODELS="base,tiny,unheard-of",
        TRANSCRIPTD_DIARIZATION_MODEL=PYANNOTE,
        HF_HOME=str(tmp_path),
    )
    assert status == 1
    assert statuses(found["models"]) == ["fail", "pass", "warn", "fail"]
    assert "not a folder with a model.bin" in found["models"][0]["found"]
    assert "Systran/faster-whisper-tiny" in found["models"][2]["found"]
    assert "unheard-of" in found["models"][3]["found"]
    assert "HF_TOKEN is not set" in only_failure(found["diarization"])


def test_cuda_required_but_missing(site: Site) -> None:
    status, found = site.check("device", TRANSCRIPTD_DEVICES="cuda", CUDA_VISIBLE_DEVICES="")
    assert status == 1
    assert "TRANSCRIPTD_DEVICES=cpu" in only_failure(found["device"])


def test_instance_without_metadata_and_group_without_the_instance(site: Site) -> None:
    site.ec2.members = []
    assert statuses(site.check("host")[1]["host"]) == ["pass", "warn"]
    site.ec2.members = None
    assert "does not exist" in only_failure(site.check("host")[1]["host"])
    site.ec2.metadata_down = True
    assert "TRANSCRIPTD_HOST=none" in only_failure(site.check("host")[1]["host"])


# --- access denied ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "action", "expected"),
    [
        ("s3:PUT:*", "s3:PutObject", "s3:PutObject"),
        ("s3:PUT:*", "kms:GenerateDataKey", "denied by KMS"),
        ("s3:GET:.transcriptd-check-*", "s3:GetObject", "Grant the role s3:GetObject"),
        ("s3:GET:results", "s3:ListBucket", "Grant the role s3:ListBucket"),
    ],
)
def test_denied_s3_call(site: Site, call: str, action: str, expected: str) -> None:
    site.gate.denied[call] = action
    status, found = site.check("output")
    assert status == 1
    assert expected in only_failure(found["output"])
    assert "s3:POST:results" in site.gate.calls, "an object that may have been written is deleted"


def test_s3_that_denies_deleting(site: Site) -> None:
    site.gate.denied["s3:POST:results"] = "s3:DeleteObject"
    status, found = site.check("output")
    assert status == 1
    left = re.search(r"s3://results/(\S+), which may be left behind", only_failure(found["output"]))
    assert left is not None
    assert site.keys() == [left[1]], "it reports the object it leaves behind"
    site.aws.s3.delete_object(Bucket="results", Key=left[1])


def test_input_bucket_that_denies_access(site: Site) -> None:
    site.gate.denied["s3:GET:.transcriptd-check-*"] = "s3:GetObject"
    assert "Grant the role s3:GetObject" in only_failure(site.check("inputs")[1]["inputs"])
    site.gate.denied["s3:HEAD:*"] = "s3:ListBucket"
    assert "Grant the role s3:ListBucket" in only_failure(site.check("inputs")[1]["inputs"])


def test_queues_that_deny_access(site: Site) -> None:
    site.gate.denied |= {f"sqs:{name}": f"sqs:{name}" for name in ("DeleteMessage", "ChangeMessageVisibility")}
    status, found = site.check("queue", "outbox")
    assert status == 1
    for name in ("queue", "outbox"):
        failures = [each for each in found[name] if each["status"] == "fail"]
        assert [each["fix"] for each in failures] == [
            "Grant the role sqs:ChangeMessageVisibility on it.",
            "Grant the role sqs:DeleteMessage on it.",
        ]
    site.gate.denied = {"sqs:GetQueueAttributes": "sqs:GetQueueAttributes"}
    status, found = site.check("queue", "redrive", "dead-letters", "outbox")
    assert status == 1
    assert "Grant the role sqs:GetQueueAttributes" in only_failure(found["queue"])
    # Permissions that the daemon's role does not need are no failure of the daemon.
    assert statuses(found["dead-letters"]) == ["skipped"]
    assert statuses(found["outbox"]) == ["skipped", "pass", "skipped"]


@pytest.mark.parametrize(("shift", "status"), [(120, "warn"), (-3600, "fail")])
def test_wrong_clock(site: Site, shift: float, status: str) -> None:
    site.gate.date_shift_seconds = shift
    exit_status, found = site.check("clock")
    assert statuses(found["clock"]) == [status]
    assert exit_status == (status == "fail")
    assert ("behind" if shift > 0 else "ahead of") in found["clock"][0]["found"]


def test_unreachable_aws(site: Site) -> None:
    status, found = site.check("queue", "inputs", "clock", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert status == 1
    for name in ("queue", "inputs", "clock"):
        assert "no response" in only_failure(found[name])


def test_shell_without_credentials_or_region(site: Site, tmp_path: Path) -> None:
    nothing = {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    found = site.check("queue", **nothing, AWS_ACCESS_KEY_ID=None)[1]
    assert "no AWS credentials" in only_failure(found["queue"])
    found = site.check("queue", **nothing, AWS_REGION=None, AWS_DEFAULT_REGION=None)[1]
    assert "Set AWS_REGION" in only_failure(found["queue"])


def test_unreachable_webhook(site: Site) -> None:
    def webhook(**changes: str | None) -> str:
        return only_failure(site.check("webhook", **changes)[1]["webhook"])

    assert "Check the URL" in webhook(WEBHOOK_URL="http://127.0.0.1:1/hook")
    assert "cannot connect" in webhook(WEBHOOK_URL=site.receiver.url.replace("http:", "https:")), (
        "the port does not speak TLS"
    )
    private = site.receiver.url.replace("http:", "https:")
    assert "not public" in webhook(WEBHOOK_URL=private, TRANSCRIPTD_WEBHOOK_ALLOW_HTTP=None)
    assert "openssl rand" in webhook(WEBHOOK_SECRET="whsec_c2hvcnQ=")


def test_event_bus(site: Site) -> None:
    events: Any = boto3.client(
        "events",
        endpoint_url=site.aws.endpoint_url,
        region_name=site.aws.region,
        aws_access_key_id="tests",
        aws_secret_access_key="tests",
    )
    events.create_event_bus(Name="jobs")
    queue = site.aws.sqs.create_queue(QueueName="consumer")["QueueUrl"]
    arn = site.aws.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventBusName="jobs", EventPattern='{"source": ["transcriptd"]}')
    events.put_targets(Rule="all", EventBusName="jobs", Targets=[{"Id": "consumer", "Arn": arn}])

    def bus(name: str | None = "jobs") -> list[dict[str, Any]]:
        return site.check("event-bus", TRANSCRIPTD_EVENT_BUS=name)[1]["event-bus"]

    assert statuses(bus(None)) == ["skipped"]
    assert statuses(bus()) == ["pass", "pass"]
    assert "accepts its events and drops them" in only_failure(bus("jobz"))
    site.gate.denied = {"events:DescribeEventBus": "events:DescribeEventBus"}
    assert statuses(bus()) == ["pass", "skipped"], "the daemon needs no such permission"
    site.gate.denied = {"events:PutEvents": "events:PutEvents"}
    assert "Grant the role events:PutEvents" in only_failure(bus())
    refused = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "AccessDeniedException", "ErrorMessage": "no"}]}
    site.gate.denied = {}
    site.gate.answers = {"events:PutEvents": (200, "application/x-amz-json-1.1", json.dumps(refused).encode())}
    assert "AccessDeniedException: no" in only_failure(bus())
    site.gate.answers = {}
    assert "Messages" not in site.aws.sqs.receive_message(QueueUrl=queue), "no event is put"


# --- stopped, and secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_check_leaves_nothing_behind(site: Site, number: signal.Signals) -> None:
    site.gate.held = {"s3:GET:.transcriptd-check-*"}
    process = start_tool(site.environment(), "check", "--only", "output")
    assert site.gate.wait_for("s3:GET:.transcriptd-check-*", TIMEOUT_SECONDS)
    assert len(site.keys()) == 1
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 130
    assert errors == "transcriptd check: stopped\n"


def test_no_secret_is_printed(site: Site) -> None:
    planted = {
        "HF_TOKEN": TOKEN,
        "AWS_SECRET_ACCESS_KEY": "planted/aws/secret/key",
        "AWS_SESSION_TOKEN": "planted-session-token",
        "WEBHOOK_URL": "http://user:planted-password@127.0.0.1:1/planted-in-the-path?token=planted-in-the-query",
        "TRANSCRIPTD_DIARIZATION_MODEL": TOKEN,  # an invalid value that the check mentions
    }
    done = run_tool(site.environment(**planted), "check", "--skip", "device", "models")
    assert done.returncode == 1
    _, found = site.check("diarization", "webhook", **planted)
    for text in (done.stdout + done.stderr, json.dumps(found)):
        assert "http://127.0.0.1:1" in text
        assert "***" in text, "the invalid setting is reported without its value"
        assert not re.search(f"planted|{re.escape(SECRET)}|{re.escape(SECRET[6:])}", text)
