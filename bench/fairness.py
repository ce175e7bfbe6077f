"""`python -m bench.fairness`: measure how long a tenant waits while another one has 10,000 jobs in the queue.

The daemon is real, the pipeline is scripted, and the queue is a model of SQS's fair queues (fair_queue.py). So this measures
the daemon's part: that a fair queue's order reaches it, because one tenant does not fill its places.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench.fair_queue import FairAws
from bench.waiting import wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call

KEY = "call.wav"
NOISY, QUIET = "noisy", "quiet"
JOBS_IN_FLIGHT, LIMIT = 4, 2
NOISY_SECONDS, QUIET_SECONDS = 20, 2  # of a job


@dataclass
class Waits:
    """Of the quiet tenant's jobs."""

    queue_seconds: list[float]  # from the send to the receive
    result_seconds: list[float]  # from the send to the final event


def noisy_job(world: World, number: int) -> str:
    place = {"bucket": world.aws.input_bucket, "key": KEY}
    return json.dumps({"job_id": f"noisy-{number}", "input": place, "options": prompt(NOISY_SECONDS)})


def prompt(seconds: float) -> dict[str, str]:
    return {"initial_prompt": f"sleep {seconds}"}


@contextmanager
def busy(world: World, aws: FairAws, jobs: int, limit: int) -> Iterator[DaemonProcess]:
    """Run a daemon that works on the noisy tenant's jobs, if there are any, and has found out that there are too many."""
    aws.fill([noisy_job(world, number) for number in range(jobs)], NOISY)
    settings = {"max_jobs_in_flight": str(JOBS_IN_FLIGHT), "max_jobs_per_tenant": str(limit)}
    with world.daemon(f"daemon-{jobs}-{limit}", **settings) as daemon:
        daemon.wait_until_ready(120)
        expected = min(jobs, limit or JOBS_IN_FLIGHT)
        wait_for(lambda: len(list(daemon.log_entries("job started"))) >= expected, "the noisy tenant's jobs run")
        if jobs:
            time.sleep(NOISY_SECONDS / 2)
        yield daemon


def measure(world: World, daemon: DaemonProcess, name: str, jobs: int) -> Waits:
    """Send the quiet tenant's jobs, each after the result of the one before."""
    waits = Waits([], [])
    for number in range(jobs):
        job_id = f"{name}-{number}"
        sent_at = time.monotonic()
        world.publish(job_id, KEY, tenant=QUIET, options=prompt(QUIET_SECONDS))
        world.wait_for(job_id, "job.completed", 600)
        waits.result_seconds.append(time.monotonic() - sent_at)
    world.wait_until_counted(daemon, jobs)
    for entry in daemon.log_entries("job finished"):
        if str(entry["job_id"]).startswith(f"{name}-"):
            waits.queue_seconds.append(entry["queue_wait_seconds"])
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, default=10_000, help="jobs of the noisy tenant")
    parser.add_argument("--jobs", type=int, default=10, help="jobs of the quiet tenant")
    arguments = parser.parse_args()
    backlog, jobs = arguments.backlog, arguments.jobs
    found: dict[str, Waits] = {}
    for title, queued, limit in (
        ("idle", 0, LIMIT),
        (f"{backlog} jobs, limit {LIMIT} a tenant", backlog, LIMIT),
        (f"{backlog} jobs, no limit", backlog, 0),
    ):
        with open_world(FairAws) as world:
            world.upload(KEY, sample_call())
            if not isinstance(world.aws, FairAws):
                raise TypeError("the world has another AWS")
            with busy(world, world.aws, queued, limit) as daemon:
                found[title] = measure(world, daemon, "quiet", jobs)
                daemon.process.kill()  # a drain would wait for the noisy tenant's jobs
    print(
        f"{jobs} jobs of {QUIET_SECONDS} s of a quiet tenant, one after the other; {JOBS_IN_FLIGHT} places for jobs, "
        f"the others' take {NOISY_SECONDS} s; load {os.getloadavg()[0]:.1f}"
    )
    print(f"{'':34}  queue wait s       send to result s    to idle")
    print(f"{'':34}  median     max     median     max     median     max")
    idle = found["idle"]
    for title, waits in found.items():
        ratio = median(waits.result_seconds) / median(idle.result_seconds)
        worst = max(waits.result_seconds) / max(idle.result_seconds)
        print(
            f"{title:34}  {median(waits.queue_seconds):6.2f}  {max(waits.queue_seconds):6.2f}     "
            f"{median(waits.result_seconds):6.2f}  {max(waits.result_seconds):6.2f}     {ratio:4.2f} ×  {worst:4.2f} ×"
        )


if __name__ == "__main__":
    main()
