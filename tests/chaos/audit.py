"""Invariants at the end of a run, checked against AWS and the operating system, never against a daemon's own report."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from daemon.schema.manifest import MANIFEST_NAME
from tests.chaos.fleet import Fleet
from tests.chaos.site import Job, Site


@dataclass
class Audit:
    counts: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def check(self, name: str, found: Any, expected: Any) -> None:
        self.counts[name] = found
        if found != expected:
            self.violations.append(f"{name}: {found}, expected {expected}")

    def nothing(self, name: str, found: list[str]) -> None:
        self.counts[name] = len(found)
        self.violations += [f"{name}: {one}" for one in found]


def audit(site: Site, fleet: Fleet, jobs: list[Job]) -> Audit:
    """Check all invariants. Call after all daemons have stopped."""
    result = Audit()
    healthy = {job.job_id for job in jobs if not job.poisoned}
    poisoned = {job.job_id for job in jobs if job.poisoned}
    _manifests(site, healthy, result)
    _webhooks(site, healthy, poisoned, result)

    result.check("messages left in the queue", site.waiting(site.aws.queue_url), 0)
    result.check("events left in the outbox", site.waiting(site.aws.outbox_url), 0)
    letters = _dead_letters(site)
    result.counts["dead letters, duplicates included"] = sum(letters.values())
    result.check("poisoned jobs in the dead-letter queue", len(poisoned & letters.keys()), len(poisoned))
    result.nothing("healthy jobs in the dead-letter queue", sorted(letters.keys() - poisoned))

    result.nothing("stray processes", [f"{pid} {command}" for pid, command in fleet.strays().items()])
    # The lock of the whole directory stays; a daemon's own lock is removed with its files.
    left = [str(path) for path in site.scratch.rglob("*") if path != site.scratch / "lock"]
    result.nothing("files left in scratch", left)
    result.nothing("faults of daemons", fleet.faults)
    return result


def _manifests(site: Site, healthy: set[str], result: Audit) -> None:
    """Check that each job has one manifest, written once, and that its outputs match it."""
    stored = _objects(site)
    found = {key.split("/")[-2]: key for key in stored if key.endswith("/" + MANIFEST_NAME)}
    result.check("manifests", len(found), len(healthy))
    result.nothing("jobs without a manifest", sorted(healthy - found.keys()))
    result.nothing("manifests of poisoned jobs", sorted(found.keys() - healthy))

    bucket = site.aws.output_bucket
    writes = Counter(write.key for write in site.proxy.writes if write.key.endswith("/" + MANIFEST_NAME))
    result.nothing("manifests written twice", [key for key, times in writes.items() if times > 1])
    wrong: list[str] = []
    for key in found.values():
        manifest = json.loads(stored[key])
        for output in manifest["outputs"]:
            content = stored.get(output["key"])
            if content is None:
                wrong.append(f"{output['key']} is missing")
            elif hashlib.sha256(content).hexdigest() != output["sha256"]:
                history = [
                    f"{write.caller} {write.key.rpartition('/')[2]} at {write.at:.2f}"
                    for write in site.proxy.writes
                    if write.key in (f"{bucket}/{key}", f"{bucket}/{output['key']}")
                ]
                wrong.append(f"{output['key']} does not match its manifest; writes: {', '.join(history)}")
    result.nothing("outputs that differ from their manifest", wrong)


def _webhooks(site: Site, healthy: set[str], poisoned: set[str], result: Audit) -> None:
    ids: dict[str, dict[str | None, set[str]]] = {"job.completed": {}, "job.failed": {}}
    for received in list(site.received):
        if received.type in ids:
            ids[received.type].setdefault(received.job_id, set()).add(received.webhook_id)
    completed, failed = ids["job.completed"], ids["job.failed"]
    result.check("jobs with a job.completed event", len(completed), len(healthy))
    result.check("unique IDs of job.completed events", len(set().union(*completed.values())), len(healthy))
    result.nothing("healthy jobs without a job.completed event", sorted(healthy - completed.keys()))
    result.nothing(
        "jobs with several job.completed events", [str(job) for job, each in completed.items() if len(each) > 1]
    )
    result.nothing("poisoned jobs without a job.failed event", sorted(poisoned - failed.keys()))
    result.nothing("healthy jobs with a job.failed event", sorted(str(job) for job in failed.keys() - poisoned))
    result.counts["webhooks, repetitions included"] = len(site.received)


def _objects(site: Site) -> dict[str, bytes]:
    s3, bucket = site.aws.s3, site.aws.output_bucket
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def _dead_letters(site: Site) -> Counter[str]:
    """Return the dead letters by job ID."""
    found: Counter[str] = Counter()
    request: Any = {"QueueUrl": site.aws.dlq_url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 600}
    while messages := site.aws.sqs.receive_message(**request).get("Messages"):
        found.update(json.loads(message["Body"])["job_id"] for message in messages)
    return found
