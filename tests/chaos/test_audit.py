"""The audit finds each violation. Pure: the evidence is made up."""

import hashlib
import json
from typing import Any

import pytest

from daemon.jobs.delivery_log import DeliveryLog, DeliveryRecord
from tests.chaos.audit import NOT_THE_JOBS, audit
from tests.chaos.credentials import KeyUse
from tests.chaos.evidence import Evidence, Letter
from tests.chaos.jobs import CODE_OF_REFUSAL, Job, job_of
from tests.chaos.schedule import DEAD_LETTERS, RECORDING_REFUSALS, Action, Fault, Step
from tests.chaos.site import ReceivedEvent
from tests.chaos.suspects import Expiry, Harm, Stop
from tests.chaos.traffic import Disturbance, Write

DIGEST = "d1935"
GOOD = Job("good", "")
BAD = Job("bad", "", frozenset({"object_missing"}))
EXPIRED = Job("expired", "", expires=True)
EXPIRY = Expiry("expired", "daemon-0", "handle", received_at=100.0)
STOP = Stop("daemon-0-001", "daemon-0", asked_at=100.0, asked_at_unix=1e9, killed_at=103.0)


def key(job_id: str, name: str) -> str:
    return f"transcripts/{job_id}/{name}"


def publish(found: Evidence, job_id: str, transcript: bytes = f'"{DIGEST}"'.encode()) -> None:
    """Let a daemon publish the result and send the event."""
    output = {
        "key": key(job_id, "transcript.json"),
        "format": "json",
        "sha256": hashlib.sha256(transcript).hexdigest(),
    }
    found.objects[output["key"]] = transcript
    found.objects[key(job_id, "manifest.json")] = json.dumps({"outputs": [output]}).encode()
    found.writes.append(Write(50.0, "daemon-0", key(job_id, "manifest.json")))
    found.events.append(ReceivedEvent(f"msg_{job_id}", "job.completed", job_id))


def fail(found: Evidence, job_id: str, code: str) -> None:
    found.letters.append(Letter(job_id, code))
    found.events.append(ReceivedEvent(f"msg_{job_id}", "job.failed", job_id, code))


@pytest.fixture
def found() -> Evidence:
    """A run without a violation."""
    found = Evidence([GOOD, BAD, EXPIRED], {"short.wav": DIGEST}, expiries=[EXPIRY], gone={EXPIRY.handle})
    publish(found, "good")
    publish(found, "expired")
    fail(found, "bad", "object_missing")
    return found


def violations(found: Evidence) -> list[str]:
    return [violation.partition(":")[0] for violation in audit(found).violations]


def drop_events(found: Evidence, job_id: str) -> None:
    found.events = [event for event in found.events if event.job_id != job_id]


def test_good_run_has_no_violation(found: Evidence) -> None:
    assert violations(found) == []


def test_lost_result(found: Evidence) -> None:
    del found.objects[key("good", "manifest.json")]
    assert violations(found) == ["healthy jobs without a manifest"]


def test_result_of_a_job_that_cannot_complete(found: Evidence) -> None:
    found.objects[key("bad", "manifest.json")] = b'{"outputs": []}'
    assert violations(found) == ["manifests of jobs that cannot complete"]


def test_second_manifest(found: Evidence) -> None:
    found.writes *= 2
    assert set(violations(found)) == {"manifests written twice"}


@pytest.mark.parametrize("content", [None, b"of another delivery"])
def test_output_that_is_not_the_manifests(found: Evidence, content: bytes | None) -> None:
    if content is None:
        del found.objects[key("good", "transcript.json")]
    else:
        found.objects[key("good", "transcript.json")] = content
    assert violations(found) == ["outputs that differ from their manifest"]


def test_transcript_of_a_recording_with_holes(found: Evidence) -> None:
    """Shortened ranges: the result is consistent, but its audio is not that of the recording."""
    found.events = found.events[1:]
    publish(found, "good", b'"d00f"')
    found.writes = []
    assert violations(found) == ["transcripts of a recording with holes"]


@pytest.mark.parametrize("job_id", ["good", "bad"])
def test_job_without_an_event(found: Evidence, job_id: str) -> None:
    drop_events(found, job_id)
    assert "jobs that ended without an event" in violations(found)


def test_two_events_for_one_result(found: Evidence) -> None:
    found.events.append(ReceivedEvent("msg_other", "job.completed", "good"))
    assert violations(found) == ["jobs with several job.completed events"]


def test_job_that_completed_and_failed(found: Evidence) -> None:
    found.jobs[0] = Job("good", "", frozenset({"object_missing"}))
    fail(found, "good", "object_missing")
    assert "jobs that completed and failed" in violations(found)


def test_failure_without_a_dead_letter(found: Evidence) -> None:
    found.letters = []
    assert violations(found) == ["failed jobs without a dead letter"]


def test_event_with_another_code_than_the_dead_letter(found: Evidence) -> None:
    found.letters = [Letter("bad", "object_missing"), Letter("bad", "object_missing")]
    found.events[-1] = ReceivedEvent("msg_bad", "job.failed", "bad", "access_denied")
    assert violations(found) == ["job.failed events with another code than the dead letter"]


# --- permanent refusals, and the dead-letter queue


@pytest.mark.parametrize("code", sorted(NOT_THE_JOBS))
@pytest.mark.parametrize("job_id", ["good", "bad"])
def test_job_blamed_for_the_deployment(found: Evidence, job_id: str, code: str) -> None:
    found.letters.append(Letter(job_id, code))
    found.events.append(ReceivedEvent("msg_failed", "job.failed", job_id, code))
    assert f"jobs blamed for the deployment: {job_id} as {code}" in audit(found).violations


@pytest.mark.parametrize("refusal", RECORDING_REFUSALS)
def test_refused_recording_that_ends_otherwise(refusal: Fault) -> None:
    job = job_of(Step(0.0, Action.REFUSE_RECORDING, how=refusal, job="refused"))
    found = Evidence([job], {})
    assert violations(found) == ["jobs that ended without an event"]
    fail(found, "refused", CODE_OF_REFUSAL[refusal])
    assert violations(found) == []
    found = Evidence([job], {})
    fail(found, "refused", "media_unreadable")
    assert violations(found) == ["jobs dead-lettered with a code that is not theirs"]


def test_failure_that_is_lost_while_the_dead_letter_queue_refuses() -> None:
    job = job_of(Step(0.0, Action.REFUSE_LETTERS, calls=DEAD_LETTERS, how=Fault.DENIED, job="letter"))
    assert violations(Evidence([job], {})) == ["jobs that ended without an event"]


# --- messages that expire


def test_job_whose_message_expired_and_that_has_no_event(found: Evidence) -> None:
    drop_events(found, "expired")
    assert violations(found) == ["jobs that ended without an event"]
    found.harms = [Harm(99.0, "daemon-0"), Harm(101.0, "daemon-1")]
    assert violations(found) == ["jobs that ended without an event"], "earlier, or another daemon"


@pytest.mark.parametrize("excuse", [{"harms": [Harm(101.0, "daemon-0")]}, {"gone": set()}])
def test_expired_message_may_be_lost_with_its_daemon(found: Evidence, excuse: dict[str, Any]) -> None:
    drop_events(found, "expired")
    for name, value in excuse.items():
        setattr(found, name, value)
    result = audit(found)
    assert result.violations == []
    assert result.counts["of these, lost with a daemon that was killed, suspended or cut off"] == 1


def test_expired_job_may_fail(found: Evidence) -> None:
    found.events = [event for event in found.events if event.job_id != "expired"]
    fail(found, "expired", "message_gone")
    assert violations(found) == []


# --- SIGTERM, then SIGKILL


def record(**more: Any) -> dict[str, DeliveryLog]:
    given: dict[str, Any] = {"message_id": "m", "receive_count": 1, "worker_id": STOP.worker_id, "begun_at": 1e9 - 1}
    return {"other": DeliveryLog(deliveries=(DeliveryRecord(**given | more),))}


def test_interruption_that_looks_like_a_crash(found: Evidence) -> None:
    found.stops, found.delivery_logs = [STOP], record()
    assert violations(found) == ["interrupted deliveries recorded as crashes"]


@pytest.mark.parametrize(
    "difference",
    [
        {"delivery_logs": record(outcome="released")},
        {"delivery_logs": record(worker_id="daemon-0-002")},
        {"delivery_logs": record(begun_at=1e9 + 1)},
        {"stops": [Stop("daemon-0-001", "daemon-0", 100.0, 1e9, 100.5)]},
        {"disturbances": [Disturbance(101.0, "daemon-0", "s3:PUT:results/key")]},
        {"writes": [Write(102.0, "daemon-0", key("other", "manifest.json"))]},
    ],
    ids=["recorded", "another life", "later", "no time", "disturbed", "published"],
)
def test_delivery_without_an_outcome_that_is_no_violation(found: Evidence, difference: dict[str, Any]) -> None:
    found.stops, found.delivery_logs = [STOP], record()
    for name, value in difference.items():
        setattr(found, name, value)
    assert violations(found) == []


# --- credentials


def test_daemon_that_keeps_its_old_key(found: Evidence) -> None:
    found.key_files = {"daemon-0": KeyUse("new", 10.0)}
    found.key_uses = {"daemon-0": KeyUse("new", 20.0)}
    assert violations(found) == []
    found.key_uses = {"daemon-0": KeyUse("old", 20.0)}
    assert violations(found) == ["daemons with old credentials"]


# --- leftovers


@pytest.mark.parametrize(
    ("name", "value", "violation"),
    [
        ("messages_left", 1, "messages left in the queue"),
        ("events_left", 1, "events left in the outbox"),
        ("strays", ["12 python"], "stray processes"),
        ("scratch", ["scratch/job"], "files left in scratch"),
        ("faults_of_daemons", ["ended with 78"], "faults of daemons"),
    ],
)
def test_leftovers(found: Evidence, name: str, value: Any, violation: str) -> None:
    setattr(found, name, value)
    assert violations(found) == [violation]
