"""A chaos run: `python -m tests.chaos.run --seed 7`. Exit status 0 only if every invariant holds."""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.waiting import PATIENCE_SECONDS
from tests.chaos.audit import Audit, audit
from tests.chaos.fleet import Fleet
from tests.chaos.schedule import plan
from tests.chaos.site import Job, Site, make_jobs, open_site

TICK_SECONDS = 0.05
QUIET_SECONDS = 2.0
TELLING_SECONDS = 10.0
# Jobs arrive during this share of the time, so that there is work during the last steps, too.
ARRIVAL_SHARE = 0.7


@dataclass(frozen=True)
class Plan:
    """The parameters of a run; equal plans produce equal schedules."""

    seed: int
    jobs: int = 200  # healthy jobs
    poisoned: int = 8
    daemons: int = 3
    seconds: float = 90.0  # duration of the faults
    max_attempts: int = 8  # few enough for poisoned jobs to end soon, too many for a healthy job to use up
    settle_seconds: float = 300.0  # upper limit for the remaining work


def run(plan_: Plan, folder: Path | None = None) -> Audit:
    """Run the plan and audit the result. `folder` keeps the daemons' logs."""
    callers = [f"daemon-{number}" for number in range(plan_.daemons)]
    fleets: list[Fleet] = []
    with open_site(folder, callers, lambda caller: fleets[0].kill(caller), max_attempts=plan_.max_attempts) as site:
        fleets.append(Fleet(site, callers))
        with fleets[0] as fleet:
            if not fleet.wait_until_ready(PATIENCE_SECONDS):
                return Audit(violations=["the daemons were not ready in time"])
            jobs = make_jobs(plan_.jobs, plan_.poisoned)
            started_at = time.monotonic()
            _rage(plan_, site, fleet, jobs)
            site.proxy.calm()
            fleet.thaw()
            settled_in = _settle(site, fleet, jobs, plan_.settle_seconds)
            site.proxy.disarm()
            stopped_in = fleet.stop()
            result = audit(site, fleet, jobs)
            result.counts |= {
                "seconds": round(time.monotonic() - started_at, 1),
                "seconds to settle afterwards": round(settled_in, 1),
                "seconds to stop": round(stopped_in, 1),
                **{f"steps: {action}": count for action, count in sorted(fleet.done.items())},
                **{f"faults injected: {fault}": count for fault, count in sorted(site.proxy.faults_injected.items())},
                **{f"killed {moment_and_call}": n for moment_and_call, n in sorted(site.proxy.traps_sprung.items())},
                **{f"calls to {service}": count for service, count in sorted(site.proxy.calls.items())},
            }
            return result


def _rage(plan_: Plan, site: Site, fleet: Fleet, jobs: list[Job]) -> None:
    steps, waiting = plan(plan_.seed, plan_.seconds, plan_.daemons), list(jobs)
    gap_seconds = plan_.seconds * ARRIVAL_SHARE / len(jobs)
    started_at = time.monotonic()
    while (elapsed := time.monotonic() - started_at) < plan_.seconds or waiting:
        while steps and elapsed >= steps[0].at:
            fleet.carry_out(steps.pop(0))
        while waiting and elapsed >= (len(jobs) - len(waiting)) * gap_seconds:
            site.publish(waiting.pop(0))
        fleet.tend()
        time.sleep(TICK_SECONDS)


def _settle(site: Site, fleet: Fleet, jobs: list[Job], timeout_seconds: float) -> float:
    """Wait until no work remains or the time is up, and return the seconds that it took."""
    healthy = {job.job_id for job in jobs if not job.poisoned}
    started_at = time.monotonic()
    empty_since: float | None = None
    while (elapsed := time.monotonic() - started_at) < timeout_seconds:
        received = {received.job_id for received in list(site.received) if received.type == "job.completed"}
        left = site.waiting(site.aws.queue_url) + site.waiting(site.aws.outbox_url)
        if left:
            empty_since = None
        elif empty_since is None:
            empty_since = elapsed
        # Counts are approximate: a message can briefly be missing from both. Once nothing was receivable for a while,
        # events that have not arrived never will.
        quiet_seconds = 0.0 if empty_since is None else elapsed - empty_since
        if quiet_seconds > (QUIET_SECONDS if healthy <= received else TELLING_SECONDS):
            break
        fleet.tend()
        time.sleep(TICK_SECONDS)
    return elapsed


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
    parser.add_argument("--poisoned", type=int, default=Plan.poisoned, help="jobs that must be dead-lettered")
    parser.add_argument("--daemons", type=int, default=Plan.daemons)
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="duration of the faults in seconds")
    parser.add_argument("--logs", type=Path, help="keep the daemons' logs in this folder")
    arguments = parser.parse_args()
    plan_ = Plan(arguments.seed, arguments.jobs, arguments.poisoned, arguments.daemons, arguments.seconds)
    print(f"seed {plan_.seed}, {plan_.jobs} jobs and {plan_.poisoned} poisoned ones, {plan_.daemons} daemons")
    for step in plan(plan_.seed, plan_.seconds, plan_.daemons):
        print(step)
    result = run(plan_, arguments.logs)
    print(report(plan_, result))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
