"""Tests of the chaos tools and a short run; `make chaos` is the long one."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.waiting import PATIENCE_SECONDS, wait_for
from daemon.demo.aws import REGION, EmbeddedAws
from tests.chaos import proxy as proxy_module
from tests.chaos.proxy import Proxy, call_name
from tests.chaos.run import Plan, report, run
from tests.chaos.schedule import TRAPS, Action, Fault, Moment, plan
from tests.chaos.site import make_jobs

LASTING_SECONDS = 3600.0  # duration of a fault: longer than any test

# --- the schedule


def test_same_seed_gives_the_same_schedule() -> None:
    assert plan(7, 60, 3) == plan(7, 60, 3)
    assert plan(7, 60, 3) != plan(8, 60, 3)


@pytest.mark.parametrize("seed", range(20))
def test_long_schedule_contains_everything(seed: int) -> None:
    steps = plan(seed, 90, 3)
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert {step.action for step in steps} == set(Action)
    assert {step.how for step in steps if step.action is Action.FAULT} == set(Fault)
    assert {(step.calls, step.how) for step in steps if step.action is Action.TRAP} == set(TRAPS)
    assert {step.daemon for step in steps} == {None, 0, 1, 2}
    assert steps[-1].at < 90


def test_poisoned_jobs_are_among_the_others() -> None:
    jobs = make_jobs(200, 8)
    assert len({job.job_id for job in jobs}) == 208
    positions = [number for number, job in enumerate(jobs) if job.poisoned]
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
    assert [(write.caller, write.key) for write in network.proxy.writes] == [("daemon", f"{bucket}/a/manifest.json")]


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
    plan_ = Plan(seed=249, jobs=12, poisoned=2, daemons=2, seconds=14, max_attempts=5, settle_seconds=PATIENCE_SECONDS)
    before = set(threading.enumerate())
    result = run(plan_)
    assert result.violations == [], report(plan_, result)
    wait_for(lambda: set(threading.enumerate()) <= before, "the run's threads have ended")
