"""The jobs of a run, and how each of them may end."""

import json
from dataclasses import dataclass
from typing import Any

from daemon.demo.aws import EmbeddedAws
from tests.chaos.schedule import Action, Fault, Step

SHORT, LONG = "short.wav", "long.wav"
# Producers resend a message if they get no response: simulated for one in this many healthy jobs.
SENT_TWICE_EVERY = 10
# One in this many healthy jobs has a recording of several parts, in which a lost part would be a hole.
LONG_EVERY = 100
POISONED_SHARE = 0.04

# Each run of a job has a different transcript, as with a real model's timings, so that mixed outputs are detected.
HEALTHY = "vary 0"
# Long enough for the daemon to notice that its message is gone: several heartbeats.
LONG_RUNNING = "vary 6"


@dataclass(frozen=True, slots=True)
class Job:
    job_id: str
    body: str
    codes: frozenset[str] = frozenset()  # of its dead letter; empty: the job must complete
    copies: int = 1
    recording: str = SHORT
    expires: bool = False  # its message is deleted while it runs: it completes, or fails with any code


@dataclass(frozen=True, slots=True)
class _Poison:
    code: str
    prompt: str = HEALTHY
    key: str = SHORT


# The behaviour of the poisoned jobs, used in rotation.
POISONS = (
    _Poison("runner_crashed", prompt="exit"),
    _Poison("media_unreadable", key="unreadable.bin"),
    _Poison("runner_crashed", prompt="sigkill"),
    _Poison("object_missing", key="missing.wav"),
)

# How S3's answer to a read of one recording ends the job.
CODE_OF_REFUSAL = {
    Fault.DENIED: "access_denied",
    Fault.INVALID: "object_refused",
    Fault.NOT_IMPLEMENTED: "object_refused",
}


def make_jobs(healthy: int, poisoned: int) -> list[Job]:
    """Return the jobs in publishing order, with the poisoned ones spread evenly among the others."""
    jobs: list[Job] = []
    count = healthy + poisoned
    poisons = 0
    for number in range(count):
        if number * poisoned // count != (number + 1) * poisoned // count:
            poison = POISONS[poisons % len(POISONS)]
            poisons += 1
            name = f"poison-{number:05d}"
            jobs.append(Job(name, _body(name, poison.key, poison.prompt), frozenset({poison.code})))
        else:
            name = f"job-{number:05d}"
            recording = LONG if number % LONG_EVERY == 5 else SHORT
            copies = 2 if number % SENT_TWICE_EVERY == 0 else 1
            jobs.append(Job(name, _body(name, recording, HEALTHY), copies=copies, recording=recording))
    return jobs


def job_of(step: Step) -> Job:
    """Return the job that the step publishes."""
    match step.action:
        case Action.REFUSE_RECORDING:
            code = CODE_OF_REFUSAL[Fault(step.how)]
            return Job(step.job, _body(step.job, f"{step.job}.wav", HEALTHY), frozenset({code}))
        case Action.REFUSE_LETTERS:
            return Job(step.job, _body(step.job, "missing.wav", HEALTHY), frozenset({"object_missing"}))
        case Action.EXPIRE_MESSAGE:
            return Job(step.job, _body(step.job, SHORT, LONG_RUNNING), expires=True)
        case _:
            raise ValueError(f"{step.action} publishes no job")


def _body(job_id: str, key: str, prompt: str) -> str:
    body: dict[str, Any] = {
        "job_id": job_id,
        "input": {"bucket": EmbeddedAws.input_bucket, "key": key},
        "options": {"initial_prompt": prompt},
    }
    return json.dumps(body)
