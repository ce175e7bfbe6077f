"""The invariants at the end of a run. Pure: evidence.py collects what they are checked against."""

import hashlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from daemon.schema.manifest import MANIFEST_NAME
from tests.chaos.evidence import Evidence
from tests.chaos.jobs import Job
from tests.chaos.suspects import Expiry, Stop

# Errors of the deployment, its services or its hosts: no job may end with one of them.
NOT_THE_JOBS = frozenset(
    "runner_setup_failed storage_unavailable storage_refused queue_unavailable queue_refused output_refused disk_full "
    "model_unavailable device_fault out_of_memory crash_suspect interrupted lease_lost internal_error none".split()
)
# A daemon that had this long before SIGKILL, without a disturbed call, has recorded the interruption of its jobs.
GRACE_SECONDS = 2.0


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


def audit(found: Evidence) -> Audit:
    """Check all invariants."""
    result = Audit()
    _manifests(found, result)
    _ends(found, result)
    _blame(found, result)
    _interruptions(found, result)
    _credentials(found, result)
    result.check("messages left in the queue", found.messages_left, 0)
    result.check("events left in the outbox", found.events_left, 0)
    result.nothing("stray processes", found.strays)
    result.nothing("files left in scratch", found.scratch)
    result.nothing("faults of daemons", found.faults_of_daemons)
    return result


def _manifests(found: Evidence, result: Audit) -> None:
    """Each job has at most one manifest, written once, and its outputs match it and the whole recording."""
    jobs = {job.job_id: job for job in found.jobs}
    manifests = {key.split("/")[-2]: key for key in found.objects if key.endswith("/" + MANIFEST_NAME)}
    healthy = {job.job_id for job in found.jobs if _must_complete(job)}
    result.counts["manifests"] = len(manifests)
    result.nothing("healthy jobs without a manifest", sorted(healthy - manifests.keys()))
    failing = sorted(job_id for job_id in manifests if job_id not in jobs or jobs[job_id].codes)
    result.nothing("manifests of jobs that cannot complete", failing)

    writes = Counter(write.key for write in found.writes if write.key.endswith("/" + MANIFEST_NAME))
    result.nothing("manifests written twice", [key for key, times in writes.items() if times > 1])
    wrong: list[str] = []
    holes: list[str] = []
    for job_id, key in manifests.items():
        for output in json.loads(found.objects[key])["outputs"]:
            content = found.objects.get(output["key"])
            if content is None:
                wrong.append(f"{output['key']} is missing")
            elif hashlib.sha256(content).hexdigest() != output["sha256"]:
                wrong.append(
                    f"{output['key']} does not match its manifest; writes: {_history(found, key, output['key'])}"
                )
            elif output["format"] == "json" and job_id in jobs:
                digest = found.digests[jobs[job_id].recording]
                if digest.encode() not in content:
                    holes.append(f"{output['key']} is not the transcript of the whole recording")
    result.nothing("outputs that differ from their manifest", wrong)
    result.nothing("transcripts of a recording with holes", holes)


def _history(found: Evidence, *keys: str) -> str:
    return ", ".join(
        f"{write.caller} {write.key.rpartition('/')[2]} at {write.at:.2f}"
        for write in found.writes
        if write.key in keys
    )


def _ends(found: Evidence, result: Audit) -> None:
    """Every job ends with one event, and with a dead letter if it failed. A job whose message was deleted may end without
    one only if the daemon that ran it was killed, suspended or cut off."""
    completed: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, set[str | None]] = defaultdict(set)
    for event in found.events:
        if event.type == "job.completed":
            completed[event.job_id].add(event.webhook_id)
        elif event.type == "job.failed":
            failed[event.job_id].add(event.code)
    letters: dict[str, set[str]] = defaultdict(set)
    for letter in found.letters:
        letters[letter.job_id].add(letter.code)

    expiries = {expiry.job_id: expiry for expiry in found.expiries}
    excused: list[str] = []
    silent: list[str] = []
    for job in found.jobs:
        if job.job_id in completed or job.job_id in failed:
            continue
        if job.job_id in expiries and _may_be_lost(found, expiries[job.job_id]):
            excused.append(job.job_id)
        else:
            silent.append(job.job_id)
    result.nothing("jobs that ended without an event", silent)
    result.counts["jobs with a job.completed event"] = len(completed)
    result.counts["jobs with a job.failed event"] = len(failed)
    result.counts["messages deleted while their jobs ran"] = len(expiries)
    result.counts["of these, lost with a daemon that was killed, suspended or cut off"] = len(excused)
    result.nothing("jobs with several job.completed events", [job for job, ids in completed.items() if len(ids) > 1])
    result.nothing("jobs that completed and failed", sorted(completed.keys() & (failed.keys() | letters.keys())))
    result.nothing("failed jobs without a dead letter", sorted(failed.keys() - letters.keys()))
    result.nothing("dead letters without a job.failed event", sorted(letters.keys() - failed.keys() - set(excused)))
    result.counts["webhooks, repetitions included"] = len(found.events)
    result.counts["dead letters, duplicates included"] = len(found.letters)
    differing = sorted(job for job in letters.keys() & failed.keys() if not failed[job] <= letters[job])
    result.nothing("job.failed events with another code than the dead letter", differing)


def _may_be_lost(found: Evidence, expiry: Expiry) -> bool:
    """Only the daemon that ran the job still knew of it."""
    harmed = any(harm.caller == expiry.caller and harm.at >= expiry.received_at for harm in found.harms)
    # The daemon must think that the lease ended, because no answer of SQS told it otherwise.
    return harmed or expiry.handle not in found.gone


def _blame(found: Evidence, result: Audit) -> None:
    """A job is dead-lettered for its own fault alone."""
    jobs = {job.job_id: job for job in found.jobs}
    blamed: list[str] = []
    wrong: list[str] = []
    for letter in sorted(set(found.letters), key=lambda each: (each.job_id, each.code)):
        job = jobs.get(letter.job_id)
        if job is not None and job.expires:
            continue  # no retry would come, so that any failure is the last
        if letter.code in NOT_THE_JOBS:
            blamed.append(f"{letter.job_id} as {letter.code}")
        elif job is None or letter.code not in job.codes:
            wrong.append(f"{letter.job_id} as {letter.code}")
    result.nothing("jobs blamed for the deployment", blamed)
    result.nothing("jobs dead-lettered with a code that is not theirs", wrong)
    counts = Counter(letter.code for letter in set(found.letters))
    result.counts |= {f"dead-lettered as {code}": count for code, count in sorted(counts.items())}


def _interruptions(found: Evidence, result: Audit) -> None:
    """A delivery that was cut short by SIGTERM and SIGKILL is recorded as interrupted, not as a crash."""
    checked = [stop for stop in found.stops if stop.grace_seconds >= GRACE_SECONDS and not _disturbed(found, stop)]
    crashes: list[str] = []
    for job_id, log in found.delivery_logs.items():
        for stop in checked:
            for each in log.deliveries:
                of_this_life = each.worker_id == stop.worker_id and each.begun_at < stop.asked_at_unix
                if of_this_life and each.outcome is None and not _published_by(found, job_id, stop):
                    crashes.append(f"{job_id} by {stop.worker_id}, {stop.grace_seconds:.1f} s after SIGTERM")
    result.counts["daemons killed within the grace period"] = len(found.stops)
    result.counts["of these, undisturbed and checked"] = len(checked)
    result.nothing("interrupted deliveries recorded as crashes", crashes)


def _disturbed(found: Evidence, stop: Stop) -> bool:
    """Whether the daemon was suspended, or a call to S3 failed, while it stopped."""
    times = [each.at for each in found.disturbances if each.caller == stop.caller and each.call.startswith("s3:")]
    times += [each.at for each in found.harms if each.caller == stop.caller and each.at < stop.killed_at]
    return any(stop.asked_at <= at <= stop.killed_at for at in times)


def _published_by(found: Evidence, job_id: str, stop: Stop) -> bool:
    """Whether a manifest ended the delivery: then its record is removed, and lacks an outcome."""
    name = f"/{job_id}/{MANIFEST_NAME}"
    return any(write.key.endswith(name) and write.at <= stop.killed_at for write in found.writes)


def _credentials(found: Evidence, result: Audit) -> None:
    """No daemon uses an old key after its file has a new one."""
    stale = [
        f"{caller} used {use.key} {use.at - written.at:.1f} s after its file had {written.key}"
        for caller, written in found.key_files.items()
        if (use := found.key_uses.get(caller)) and use.key != written.key and use.at > written.at
    ]
    result.nothing("daemons with old credentials", stale)


def _must_complete(job: Job) -> bool:
    return not job.codes and not job.expires
