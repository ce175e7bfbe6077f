"""A chaos run: `python -m tests.chaos.run --seed 7`. Exit status 0 only if every invariant holds.

SIGINT ends the schedule early; what was published until then is audited.
"""

import argparse
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.waiting import PATIENCE_SECONDS
from tests.chaos.audit import Audit, audit
from tests.chaos.evidence import collect
from tests.chaos.expiry import Expiries
from tests.chaos.fleet import Fleet
from tests.chaos.jobs import POISONED_SHARE, Job, job_of, make_jobs
from tests.chaos.schedule import Action, Step, plan
from tests.chaos.site import Site, open_site

TICK_SECONDS = 0.05
POLL_SECONDS = 0.5
QUIET_SECONDS = 2.0
TELLING_SECONDS = 10.0
SECONDS_PER_FAULT = 2.0
# Jobs arrive during this share of the time, so that there is work during the last steps, too.
ARRIVAL_SHARE = 0.7
# The schedule waits while more jobs are unfinished: a slow machine gets the same number of faults for each job.
MAX_BACKLOG = 60


@dataclass(frozen=True)
class Plan:
    """The parameters of a run; equal plans produce equal schedules."""

    seed: int
    jobs: int = 200  # healthy jobs
    poisoned: int = 8
    faults: int = 60
    daemons: int = 3
    seconds: float = 60 * SECONDS_PER_FAULT  # duration of the faults
    max_attempts: int = 8  # few enough for poisoned jobs to end soon, too many for a healthy job to use up
    settle_seconds: float = 300.0  # without an event, before the remaining work is given up

    @property
    def steps(self) -> list[Step]:
        return plan(self.seed, self.faults, self.seconds, self.daemons)


def run(plan_: Plan, folder: Path | None = None, stop: threading.Event | None = None) -> Audit:
    """Run the plan and audit the result. `folder` keeps the daemons' logs. Setting `stop` ends the schedule early."""
    callers = [f"daemon-{number}" for number in range(plan_.daemons)]
    fleets: list[Fleet] = []
    with open_site(folder, callers, lambda caller: fleets[0].kill(caller), max_attempts=plan_.max_attempts) as site:
        fleets.append(Fleet(site, callers))
        with fleets[0] as fleet:
            if not fleet.wait_until_ready(PATIENCE_SECONDS):
                return Audit(violations=["the daemons were not ready in time"])
            expiries = Expiries(site)
            started_at = time.monotonic()
            jobs = _rage(plan_, site, fleet, expiries, stop or threading.Event())
            print(f"the schedule ended after {time.monotonic() - started_at:.1f} s", flush=True)
            site.proxy.calm()
            fleet.calm()
            settled_in = _settle(site, fleet, expiries, jobs, plan_.settle_seconds)
            site.proxy.disarm()
            stopped_in = fleet.stop()
            ended_at = time.monotonic()
            result = audit(collect(site, fleet, jobs, expiries.done))
            result.counts |= {
                "jobs published": len(jobs),
                "seconds": round(ended_at - started_at, 1),
                "seconds to settle afterwards": round(settled_in, 1),
                "seconds to stop": round(stopped_in, 1),
                "lives of daemons": fleet.lives,
                "steps": sum(fleet.done.values()),
                **{f"steps: {step}": count for step, count in sorted(fleet.done.items())},
                **{f"calls disturbed: {fault}": count for fault, count in sorted(site.proxy.faults_injected.items())},
                **{f"killed {moment_and_call}": n for moment_and_call, n in sorted(site.proxy.traps_sprung.items())},
                **{f"calls to {service}": count for service, count in sorted(site.proxy.calls.items())},
            }
            return result


def _rage(plan_: Plan, site: Site, fleet: Fleet, expiries: Expiries, stop: threading.Event) -> list[Job]:
    """Publish the jobs and carry out the schedule. Return all published jobs."""
    steps, waiting = plan_.steps[::-1], make_jobs(plan_.jobs, plan_.poisoned)[::-1]
    jobs: list[Job] = []
    gap_seconds = plan_.seconds * ARRIVAL_SHARE / max(len(waiting), 1)
    elapsed, next_job_at, ticked_at = 0.0, 0.0, time.monotonic()
    while not stop.is_set() and (elapsed < plan_.seconds or waiting):
        now = time.monotonic()
        if len(jobs) - len(site.ended) <= MAX_BACKLOG:
            elapsed += now - ticked_at
        ticked_at = now
        while steps and elapsed >= steps[-1].at:
            step = steps.pop()
            fleet.carry_out(step)
            if step.job:
                jobs.append(job_of(step))
                site.publish(jobs[-1])
            if step.action is Action.EXPIRE_MESSAGE:
                expiries.add(step.job)
        while waiting and elapsed >= next_job_at:
            jobs.append(waiting.pop())
            site.publish(jobs[-1])
            next_job_at += gap_seconds
        expiries.tend()
        fleet.tend()
        time.sleep(TICK_SECONDS)
    return jobs


def _settle(site: Site, fleet: Fleet, expiries: Expiries, jobs: list[Job], patience_seconds: float) -> float:
    """Wait until no work remains, or no event has arrived for too long. Return the seconds that it took."""
    expected = {job.job_id for job in jobs if not job.expires}
    started_at = polled_at = progressed_at = time.monotonic()
    received = 0
    empty_since: float | None = None
    while (now := time.monotonic()) - progressed_at < patience_seconds:
        if len(site.received) > received:
            received, progressed_at = len(site.received), now
        expiries.tend()
        fleet.tend()
        time.sleep(TICK_SECONDS)
        if now - polled_at < POLL_SECONDS:
            continue
        polled_at = now
        if site.waiting(site.aws.queue_url) + site.waiting(site.aws.outbox_url):
            empty_since = None
        elif empty_since is None:
            empty_since = now
        # Counts are approximate: a message can briefly be missing from both. Once nothing was receivable for a while,
        # events that have not arrived never will.
        quiet_seconds = 0.0 if empty_since is None else now - empty_since
        if quiet_seconds > (QUIET_SECONDS if expected <= site.ended and not expiries.running else TELLING_SECONDS):
            break
    return time.monotonic() - started_at


def report(plan_: Plan, result: Audit) -> str:
    """Format the counts, then the violations."""
    lines = [f"{value!s:>8}  {name}" for name, value in result.counts.items()]
    lines += [f"VIOLATED  {violation}" for violation in result.violations]
    lines.append(f"seed {plan_.seed}: " + ("failed" if result.violations else "every invariant holds"))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="default: taken from the clock")
    parser.add_argument("--jobs", type=int, default=Plan.jobs, help="healthy jobs")
    parser.add_argument("--faults", type=int, default=Plan.faults, help="steps of the schedule")
    parser.add_argument("--poisoned", type=int, help=f"jobs that must fail; default: {POISONED_SHARE:.0%} of the jobs")
    parser.add_argument("--daemons", type=int, default=Plan.daemons)
    parser.add_argument(
        "--seconds", type=float, help=f"duration of the faults; default: {SECONDS_PER_FAULT:g} for each of them"
    )
    parser.add_argument("--logs", type=Path, help="keep the daemons' logs in this folder")
    given = parser.parse_args()
    poisoned = round(given.jobs * POISONED_SHARE) if given.poisoned is None else given.poisoned
    seconds = given.faults * SECONDS_PER_FAULT if given.seconds is None else given.seconds
    plan_ = Plan(given.seed, given.jobs, poisoned, given.faults, given.daemons, seconds)
    print(f"seed {plan_.seed}, {plan_.jobs} jobs and {plan_.poisoned} poisoned ones, {plan_.daemons} daemons")
    for step in plan_.steps:
        print(step)
    classes = Counter(f"{step.action} {step.how}".rstrip() for step in plan_.steps)
    print("\n".join(f"{count:8}  {name}" for name, count in sorted(classes.items())), flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    result = run(plan_, given.logs, stop)
    print(report(plan_, result))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
