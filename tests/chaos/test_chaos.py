"""Tests of the chaos tools and a short run; `make chaos` is the long one."""

import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.waiting import PATIENCE_SECONDS, wait_for
from daemon.aws.faults import Fault as DaemonFault
from daemon.aws.faults import fault_of_response
from daemon.aws.sqs import refuse_garbage
from daemon.demo.aws import REGION, EmbeddedAws
from tests.chaos import proxy as proxy_module
from tests.chaos.credentials import KeyFiles
from tests.chaos.jobs import make_jobs
from tests.chaos.proxy import Proxy, call_name
from tests.chaos.run import Plan, report, run
from tests.chaos.schedule import (
    BUCKET_REFUSALS,
    DEAD_LETTERS,
    RECORDING_REFUSALS,
    TRAPS,
    Action,
    Fault,
    Moment,
    Rotation,
    plan,
)

LASTING_SECONDS = 3600.0  # duration of a fault: longer than any test

# --- the schedule


def test_same_seed_gives_the_same_schedule() -> None:
    assert plan(7, 60, 120, 3) == plan(7, 60, 120, 3)
    assert plan(7, 60, 120, 3) != plan(8, 60, 120, 3)


@pytest.mark.parametrize("seed", range(20))
def test_schedule_of_the_default_run_contains_everything(seed: int) -> None:
    steps = Plan(seed).steps
    assert len(steps) == Plan.faults
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert {step.action for step in steps} == set(Action)
    assert {step.how for step in steps if step.action is Action.FAULT} == set(Fault)
    assert {(step.calls, step.how) for step in steps if step.action is Action.TRAP} == set(TRAPS)
    assert {(step.calls, step.how) for step in steps if step.action is Action.FAULT} >= set(BUCKET_REFUSALS)
    assert {step.how for step in steps if step.action is Action.REFUSE_RECORDING} == set(RECORDING_REFUSALS)
    assert {step.how for step in steps if step.action is Action.ROTATE_KEYS} == set(Rotation)
    assert {step.daemon for step in steps} == {None, 0, 1, 2}
    assert steps[-1].at < Plan.seconds


def test_jobs_that_steps_publish_are_unique() -> None:
    names = [step.job for step in plan(7, 1000, 2000, 3) if step.job]
    assert len(names) == len(set(names)) > 100


def test_poisoned_jobs_are_among_the_others() -> None:
    jobs = make_jobs(200, 8)
    assert len({job.job_id for job in jobs}) == 208
    positions = [number for number, job in enumerate(jobs) if job.codes]
    assert len(positions) == 8
    assert max(after - before for before, after in itertools.pairwise(positions)) <= 26


# --- the proxy


class Network:
    """AWS, the proxy in front of it, and clients that do not retry."""

    def __init__(self, aws: EmbeddedAws, proxy: Proxy, killed: list[str]) -> None:
        self.aws, self.proxy, self.killed = aws, proxy, killed
        access: dict[str, Any] = {
            "endpoint_url": proxy.urls["daemon"],
            "region_name": REGION,
            "aws_access_key_id": "embedded",
            "aws_secret_access_key": "embedded",
            "config": Config(retries={"total_max_attempts": 1}, read_timeout=PATIENCE_SECONDS),
        }
        self.sqs, self.s3 = boto3.client("sqs", **access), boto3.client("s3", **access)
        # As in the daemon and the commands: botocore 1.43 takes an answer that was cut off for an empty one.
        self.sqs.meta.events.register("before-parse.sqs", refuse_garbage)

    def put(self, key: str, body: bytes = b"some words of text", **more: Any) -> None:
        self.s3.put_object(Bucket=self.aws.output_bucket, Key=key, Body=body, **more)

    def send(self) -> None:
        self.sqs.send_message(QueueUrl=self.aws.queue_url, MessageBody="body")

    def stored(self) -> list[str]:
        found = self.aws.s3.list_objects_v2(Bucket=self.aws.output_bucket)
        return [item["Key"] for item in found.get("Contents", [])]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setattr(proxy_module, "PAST_THE_LEASE_SECONDS", 0.5)
    monkeypatch.setattr(proxy_module, "LATENCY_SECONDS", 0.5)
    killed: list[str] = []
    with EmbeddedAws() as aws, Proxy(aws.endpoint_url, ["daemon"], killed.append) as proxy:
        yield Network(aws, proxy, killed)


def test_names_of_calls() -> None:
    assert call_name("POST", "/", "AmazonSQS.DeleteMessage") == "sqs:DeleteMessage"
    assert call_name("PUT", "/results/transcripts/job-1/manifest.json", None) == "s3:PUT:manifest.json"
    assert call_name("GET", "/media/a%20b.wav?x-id=GetObject", None) == "s3:GET:a%20b.wav"


def test_forwarded_calls_are_unchanged(network: Network) -> None:
    body = bytes(range(256)) * 8192
    network.put("a/manifest.json", body, IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        network.put("a/manifest.json", b"another", IfNoneMatch="*")
    bucket = network.aws.output_bucket
    assert network.s3.get_object(Bucket=bucket, Key="a/manifest.json")["Body"].read() == body
    assert network.s3.get_object(Bucket=bucket, Key="a/manifest.json", Range="bytes=1-2")["ContentLength"] == 2
    network.s3.head_bucket(Bucket=bucket)
    network.send()
    assert network.sqs.receive_message(QueueUrl=network.aws.queue_url)["Messages"][0]["Body"] == "body"
    assert [(write.caller, write.key) for write in network.proxy.traffic.writes] == [
        ("daemon", f"{bucket}/a/manifest.json")
    ]


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SHORT_RANGE])
def test_clients_see_faults_and_faults_end(network: Network, fault: Fault) -> None:
    network.put("before")
    network.proxy.fail("*", fault, LASTING_SECONDS, "daemon")
    if fault is Fault.LATENCY:
        network.send()
        network.put("key")
    else:
        with pytest.raises((ClientError, BotoCoreError)):
            network.send()
        with pytest.raises((ClientError, BotoCoreError)):
            network.s3.get_object(Bucket=network.aws.output_bucket, Key="before")["Body"].read()
        with pytest.raises((ClientError, BotoCoreError)):
            network.put("key")
    assert ("key" in network.stored()) == (fault in (Fault.LATENCY, Fault.LOST_ANSWER, Fault.CUT_ANSWER))
    network.proxy.calm()
    network.put("after")
    assert network.proxy.faults_injected[fault] >= 2


def test_short_ranges_are_valid_and_leave_a_file_of_the_right_size(network: Network) -> None:
    network.put("recording", bytes(range(100)))
    network.proxy.fail("s3:GET:*", Fault.SHORT_RANGE, LASTING_SECONDS, "daemon")
    seen = {}
    for wanted in ("0-39", "40-79", "80-99"):
        answer = network.s3.get_object(Bucket=network.aws.output_bucket, Key="recording", Range=f"bytes={wanted}")
        seen[answer["ContentRange"]] = answer["Body"].read()
    assert seen == {
        "bytes 0-19/100": bytes(range(20)),
        "bytes 40-59/100": bytes(range(40, 60)),
        "bytes 80-99/100": bytes(range(80, 100)),
    }


def test_fault_affects_only_its_calls_and_its_caller(network: Network) -> None:
    network.proxy.fail("sqs:DeleteMessage", Fault.ERROR, LASTING_SECONDS)
    network.proxy.fail("s3:*", Fault.ERROR, LASTING_SECONDS, "another")
    network.send()
    network.put("key")
    with pytest.raises(ClientError, match="InternalError"):
        network.sqs.delete_message(QueueUrl=network.aws.queue_url, ReceiptHandle="handle")


@pytest.mark.parametrize("fault", RECORDING_REFUSALS)
def test_refusals_for_good_outlast_the_calm_and_are_not_retried(network: Network, fault: Fault) -> None:
    bucket = network.aws.output_bucket
    network.put("a.wav")
    network.proxy.fail("s3:GET:a.wav", fault, math.inf)
    network.proxy.calm()
    with pytest.raises(ClientError) as caught:
        network.s3.get_object(Bucket=bucket, Key="a.wav")
    assert fault_of_response("s3", caught.value.response) is DaemonFault.JOB
    network.put("a.wav")


def test_patterns_may_name_the_bucket_or_the_queue(network: Network) -> None:
    network.proxy.fail(f"s3:PUT:{network.aws.output_bucket}/one/*", Fault.DENIED, LASTING_SECONDS)
    network.proxy.fail(DEAD_LETTERS, Fault.DENIED, LASTING_SECONDS)
    network.put("other/key")
    with pytest.raises(ClientError, match="AccessDenied"):
        network.put("one/key")
    network.send()
    with pytest.raises(ClientError, match="AccessDenied") as caught:
        network.sqs.send_message(QueueUrl=network.aws.dlq_url, MessageBody="body")
    assert fault_of_response("sqs", caught.value.response) is DaemonFault.DEPLOYMENT


def test_expired_keys_are_refused(network: Network) -> None:
    network.proxy.refused_keys.add("embedded")
    for service, call in (("s3", network.put), ("sqs", network.send)):
        with pytest.raises(ClientError, match="ExpiredToken") as caught:
            call("key") if service == "s3" else call()  # type: ignore[call-arg]
        assert fault_of_response(service, caught.value.response) is DaemonFault.DEPLOYMENT  # type: ignore[arg-type]
    assert network.proxy.traffic.key_uses["daemon"].key == "embedded"


def test_traffic_has_receipts_refused_handles_and_bodies(network: Network) -> None:
    queue: Any = {"QueueUrl": network.aws.queue_url}
    network.sqs.send_message(**queue, MessageBody='{"job_id": "job-1"}')
    (message,) = network.sqs.receive_message(**queue)["Messages"]
    receipt = network.proxy.traffic.receipts["job-1"]
    assert (receipt.caller, receipt.handle) == ("daemon", message["ReceiptHandle"])
    network.aws.sqs.purge_queue(**queue)
    with pytest.raises(ClientError):
        network.sqs.change_message_visibility(**queue, ReceiptHandle=receipt.handle, VisibilityTimeout=1)
    assert network.proxy.traffic.gone == {receipt.handle}
    network.put("key", b"the body")
    assert list(network.proxy.traffic.bodies.values()) == [b"the body"]


def test_rotated_file_has_the_new_key(tmp_path: Path) -> None:
    keys = KeyFiles(tmp_path, ["a", "b"])
    new = keys.next_key()
    keys.write("a", new)
    assert keys.written["a"].key == new
    assert keys.written["b"].key != new
    session = botocore.session.Session(session_vars={"credentials_file": (None, None, str(keys.path("a")), None)})
    assert (credentials := session.get_credentials()) is not None
    assert credentials.access_key == new


@pytest.mark.parametrize("moment", Moment)
def test_trap_kills_once_at_the_matching_call(network: Network, moment: Moment) -> None:
    network.proxy.trap("s3:PUT:manifest.json", moment)
    network.put("job/transcript.json")
    assert network.killed == []
    with pytest.raises((ClientError, BotoCoreError)):
        network.put("job/manifest.json")
    assert network.killed == ["daemon"]
    assert ("job/manifest.json" in network.stored()) == (moment is not Moment.BEFORE)
    network.put("other/manifest.json")
    assert network.killed == ["daemon"]


# --- a short run


def test_every_job_has_one_outcome_whatever_happens() -> None:
    plan_ = Plan(249, jobs=12, poisoned=2, faults=8, daemons=2, seconds=16, settle_seconds=PATIENCE_SECONDS)
    before = set(threading.enumerate())
    result = run(plan_)
    assert result.violations == [], report(plan_, result)
    wait_for(lambda: set(threading.enumerate()) <= before, "the run's threads have ended")
