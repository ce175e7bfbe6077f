"""Collects what the audit judges, from AWS, the proxy and the operating system, never from a daemon's own report."""

import json
from dataclasses import dataclass, field
from typing import Any

from daemon.jobs.delivery_log import DeliveryLog
from daemon.jobs.result_store import DELIVERY_LOG_NAME
from tests.chaos.credentials import KeyUse
from tests.chaos.fleet import Fleet
from tests.chaos.jobs import Job
from tests.chaos.site import ReceivedEvent, Site
from tests.chaos.suspects import Expiry, Harm, Stop
from tests.chaos.traffic import Disturbance, Write


@dataclass(frozen=True, slots=True)
class Letter:
    job_id: str
    code: str


@dataclass
class Evidence:
    jobs: list[Job]
    digests: dict[str, str]  # of the audio of each recording, by key
    objects: dict[str, bytes] = field(default_factory=dict)  # in the output bucket, by key
    writes: list[Write] = field(default_factory=list)  # to the output bucket; keys without the bucket
    events: list[ReceivedEvent] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    messages_left: int = 0
    events_left: int = 0
    expiries: list[Expiry] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)  # receipt handles that daemons know to be invalid
    stops: list[Stop] = field(default_factory=list)
    harms: list[Harm] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    delivery_logs: dict[str, DeliveryLog] = field(default_factory=dict)  # the last one of each job
    key_uses: dict[str, KeyUse] = field(default_factory=dict)  # the last one of each daemon
    key_files: dict[str, KeyUse] = field(default_factory=dict)  # the key in the file of each daemon, and since when
    strays: list[str] = field(default_factory=list)
    scratch: list[str] = field(default_factory=list)
    faults_of_daemons: list[str] = field(default_factory=list)


def collect(site: Site, fleet: Fleet, jobs: list[Job], expiries: list[Expiry]) -> Evidence:
    """Call after all daemons have stopped."""
    traffic, bucket = site.proxy.traffic, site.aws.output_bucket + "/"
    ends = "/" + DELIVERY_LOG_NAME
    return Evidence(
        jobs=jobs,
        digests=site.digests,
        objects=_objects(site),
        writes=[
            Write(write.at, write.caller, write.key.removeprefix(bucket))
            for write in traffic.writes
            if write.key.startswith(bucket)
        ],
        events=list(site.received),
        letters=_letters(site),
        messages_left=site.waiting(site.aws.queue_url),
        events_left=site.waiting(site.aws.outbox_url),
        expiries=expiries,
        gone=traffic.gone,
        stops=fleet.stops,
        harms=fleet.harms,
        disturbances=traffic.disturbances,
        delivery_logs={
            key.removesuffix(ends).rpartition("/")[2]: DeliveryLog.model_validate_json(body)
            for key, body in traffic.delivery_logs.items()
        },
        key_uses=traffic.key_uses,
        key_files=site.keys.written,
        strays=[f"{pid} {command}" for pid, command in fleet.strays().items()],
        # The lock of the whole directory stays; a daemon's own lock is removed with its files.
        scratch=[str(path) for path in site.scratch.rglob("*") if path != site.scratch / "lock"],
        faults_of_daemons=fleet.faults,
    )


def _objects(site: Site) -> dict[str, bytes]:
    """Return the objects of the bucket. The listed ETag identifies the body among those that the proxy saw."""
    s3, bucket, bodies = site.aws.s3, site.aws.output_bucket, site.proxy.traffic.bodies
    found: dict[str, bytes] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", []):
            body = bodies.get(item["ETag"].strip('"'))
            found[item["Key"]] = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() if body is None else body
    return found


def _letters(site: Site) -> list[Letter]:
    found: list[Letter] = []
    request: Any = {
        "QueueUrl": site.aws.dlq_url,
        "MaxNumberOfMessages": 10,
        "VisibilityTimeout": 3600,
        "MessageAttributeNames": ["All"],
    }
    while messages := site.aws.sqs.receive_message(**request).get("Messages"):
        for message in messages:
            attributes: Any = message.get("MessageAttributes", {})
            code = attributes.get("ErrorCode", {}).get("StringValue", "none")
            found.append(Letter(json.loads(message["Body"])["job_id"], code))
    return found
