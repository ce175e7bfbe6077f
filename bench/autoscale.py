"""`python -m bench.autoscale`: simulate the fleet of deploy/terraform at three scales.

Real-time factor and prices are inputs. The defaults are assumptions, documented in docs/capacity.md.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from bench.autoscale_chart import chart
from bench.fleet import HOUR, MINUTE, Job, Policy, Run, Simulation, World
from daemon.jobs.receive_limiter import CHUNK_SECONDS

DAY = 24 * HOUR
DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- begin: make autoscale -->", "<!-- end: make autoscale -->"


@dataclass(frozen=True, slots=True)
class Recordings:
    """Lengths are lognormal, limited to what the daemon accepts. Work is length x real-time factor plus a fixed cost
    per job."""

    median_seconds: float = 1200
    sigma: float = 1.0
    shortest_seconds: float = 30
    longest_seconds: float = 6 * HOUR
    real_time_factor: float = 0.05  # computing seconds per second of audio
    overhead_seconds: float = 2

    def length(self, random: Random) -> float:
        length = self.median_seconds * random.lognormvariate(0, self.sigma)
        return min(max(length, self.shortest_seconds), self.longest_seconds)

    def work_seconds(self, length_seconds: float) -> float:
        return length_seconds * self.real_time_factor + self.overhead_seconds

    @property
    def mean_length_seconds(self) -> float:
        """Mean of the unlimited distribution in seconds; the limits change it by less than 3 %."""
        return self.median_seconds * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Poisson arrivals with a rate that varies over the day, plus daily bursts that arrive at once."""

    audio_hours_a_day: float
    days: int
    swing: float = 0.8  # 0: the rate does not vary
    opens_hour: float = 0.0  # no arrivals outside of these hours
    closes_hour: float = 24.0
    bursts: tuple[tuple[float, int], ...] = ()  # (hour, recordings)

    def jobs(self, recordings: Recordings, seed: int) -> tuple[list[Job], float]:
        """Return the jobs in order of arrival, and their hours of audio."""
        random = Random(seed)
        audio_seconds = 0.0
        arrivals: list[float] = []
        open_seconds = (self.closes_hour - self.opens_hour) * HOUR
        a_day = self.audio_hours_a_day * HOUR / recordings.mean_length_seconds
        a_day = max(1e-9, a_day - sum(count for _, count in self.bursts))
        highest = a_day / open_seconds * (1 + self.swing)
        for day in range(self.days):
            now = day * DAY + self.opens_hour * HOUR
            closes = day * DAY + self.closes_hour * HOUR
            while (now := now + random.expovariate(highest)) < closes:
                part = (now - day * DAY - self.opens_hour * HOUR) / open_seconds
                rate = (1 - self.swing * math.cos(2 * math.pi * part)) / (1 + self.swing)
                if random.random() < rate:  # thinning
                    arrivals.append(now)
            arrivals += [day * DAY + hour * HOUR for hour, count in self.bursts for _ in range(count)]
        jobs = []
        for arrival in sorted(arrivals):
            length = recordings.length(random)
            audio_seconds += length
            jobs.append(Job(arrival, recordings.work_seconds(length), math.ceil(length / CHUNK_SECONDS)))
        return jobs, audio_seconds / HOUR


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars per instance hour."""

    on_demand: float = 0.80
    spot: float = 0.40


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    traffic: Traffic
    policy: Policy
    world: World = field(default_factory=World)
    recordings: Recordings = field(default_factory=Recordings)

    def run(self) -> tuple[Run, float]:
        """Run the simulation and return it with its hours of audio. The fleet gets one day more than the traffic to
        finish."""
        jobs, audio_hours = self.traffic.jobs(self.recordings, self.world.seed)
        mean = self.recordings.work_seconds(self.recordings.mean_length_seconds)
        policy = replace(self.policy, mean_job_seconds=round(mean))
        return Simulation(policy, self.world).run(jobs, (self.traffic.days + 1) * DAY), audio_hours


ONE_USER = Scenario(
    "one-user", "One user: 4 h of audio a working day", Traffic(4, 5, swing=0.5, opens_hour=8, closes_hour=18), Policy()
)
THOUSAND = Scenario(
    "thousand-hours",
    "A thousand hours a day, 300 recordings at once at nine",
    Traffic(1000, 2, bursts=((9, 300),)),
    Policy(max_size=20),
)
MILLION = Scenario(
    "million-hours",
    "A million hours a day, 20,000 recordings at once at nine",
    Traffic(1_000_000, 1, bursts=((9, 20_000),)),
    Policy(max_size=5000),
)
SCALES = (ONE_USER, THOUSAND, MILLION)


def variants() -> tuple[Scenario, ...]:
    """Return variants of the scenario of a thousand hours a day that change one parameter each."""
    burst = replace(THOUSAND.traffic, audio_hours_a_day=0)

    def changed(title: str, **changes: object) -> Scenario:
        return replace(THOUSAND, name="", title=title, **changes)  # type: ignore[arg-type]  # field names, see above

    def policy(**changes: float | bool) -> Policy:
        return replace(THOUSAND.policy, **changes)  # type: ignore[arg-type]  # field names, see above

    return (
        changed("baseline"),
        changed("max_size 10", policy=policy(max_size=10)),
        changed("min_size 2", policy=policy(min_size=2)),
        changed("idle 2 min", policy=policy(idle_seconds=120)),
        changed("idle 30 min", policy=policy(idle_seconds=1800)),
        changed("acceptable wait 2 min", policy=policy(acceptable_wait_seconds=120)),
        changed("cold start 10 min", world=World(cold_start_median_seconds=600)),
        changed("Spot lost every 2 h", world=World(spot_losses_per_instance_hour=0.5)),
        changed("real-time factor 0.1", recordings=Recordings(real_time_factor=0.1)),
        changed("real-time factor 0.025", recordings=Recordings(real_time_factor=0.025)),
        changed("only the 300 at nine", traffic=burst),
        changed("the same, waking only one instance", traffic=burst, policy=policy(wake_by_steps=False)),
    )


HEADER = (
    "| | Jobs | Wait p50 | p95 | p99 | longest | Most instances | Instance hours (Spot) | Busy | Interrupted | US$ | US$ per audio hour |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def row(scenario: Scenario, run: Run, audio_hours: float, prices: Prices) -> str:
    waits = run.waits()
    on_demand, spot = run.instance_hours(spot=False), run.instance_hours(spot=True)
    dollars = on_demand * prices.on_demand + spot * prices.spot
    unfinished = sum(job.finished_at is None for job in run.jobs)
    cells = [
        scenario.title,
        f"{len(run.jobs):,}" + (f", {unfinished:,} unfinished" if unfinished else ""),
        *(_minutes(quantile(waits, share)) for share in (0.5, 0.95, 0.99, 1.0)),
        f"{run.peak_instances:,}",
        f"{on_demand + spot:,.0f} ({spot / max(on_demand + spot, 1e-9):.0%})",
        f"{run.busy_seconds / HOUR / max(on_demand + spot, 1e-9):.0%}",
        f"{run.interruptions:,}",
        f"{dollars:,.0f}",
        f"{dollars / audio_hours:.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that the given share does not exceed. Raises ValueError without values."""
    if not ordered:
        raise ValueError("no values to take a quantile of")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 2 * MINUTE else f"{seconds / MINUTE:.0f} min"


def main() -> None:
    arguments = _arguments()
    prices = Prices(**json.loads(arguments.prices.read_text())) if arguments.prices else Prices()
    recordings = Recordings(real_time_factor=arguments.real_time_factor)
    lines = [HEADER]
    charts: dict[str, str] = {}
    short = replace(MILLION, name="", title="… with at most 2,000 instances", world=World(capacity=2000))
    for scenario in (*SCALES, short):
        scenario = replace(scenario, recordings=recordings)
        run, audio_hours = scenario.run()
        lines.append(row(scenario, run, audio_hours, prices))
        print(lines[-1], flush=True)
        if scenario.name:
            charts[scenario.name] = chart(scenario.title, run.samples)
    lines += ["", HEADER.replace("| |", "| A thousand hours a day |", 1)]
    for scenario in variants():
        run, audio_hours = scenario.run()
        lines.append(row(scenario, run, audio_hours, prices))
        print(lines[-1], flush=True)
    if arguments.write:
        for name, text in charts.items():
            (DOCS / f"capacity-{name}.svg").write_text(text)
        page = (DOCS / "capacity.md").read_text()
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        (DOCS / "capacity.md").write_text("\n".join([before + BEGIN, "", *lines, "", END + after]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Simulate the fleet of deploy/terraform at three scales.")
    parser.add_argument("--real-time-factor", type=float, default=Recordings().real_time_factor)
    parser.add_argument("--prices", type=Path, help='JSON: {"on_demand": …, "spot": …}, US dollars per instance hour')
    parser.add_argument("--write", action="store_true", help="write the tables and charts to docs/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
