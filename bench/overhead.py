"""The daemon's overhead: one job at a time, each on the 30 s call."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.corpus import call
from bench.daemon_jobs import Job, open_daemon
from bench.report import markdown
from bench.setup import Setup

HEADINGS = ["One warm job at a time, 30 s call", "ms", "min–max", "Share of the job"]


@dataclass(frozen=True, slots=True)
class OneJob:
    seconds: float  # from receive to outcome, from the daemon's log
    told_seconds: float  # from SendMessage to job.completed, which follows the manifest
    runner_seconds: float
    pipeline: dict[str, float]
    overhead: dict[str, float]

    @classmethod
    def of(cls, job: Job, told_seconds: float) -> "OneJob":
        return cls(job.seconds, told_seconds, job.runner_seconds, job.pipeline_stages, job.overhead)


def measure_overhead(setup: Setup, count: int) -> list[OneJob]:
    with open_daemon(setup) as daemon:
        job_ids = daemon.upload([call() for _ in range(count + 1)])
        durations = [daemon.run([job_id]) for job_id in job_ids]
        return [
            OneJob.of(daemon.result(job_id), seconds)
            for job_id, seconds in list(zip(job_ids, durations, strict=True))[1:]  # the first one is a warm-up
        ]


def overhead_table(jobs: Sequence[OneJob]) -> str:
    def row(name: str, seconds: list[float], is_part: bool = True) -> list[str]:
        share = median(part / job.seconds for part, job in zip(seconds, jobs, strict=True))
        milliseconds = [round(1000 * value) for value in seconds]
        return [
            name,
            f"{median(milliseconds):.0f}",
            f"{min(milliseconds)}–{max(milliseconds)}",
            f"{share:.1%}" if is_part else "",
        ]

    def parts(of: str) -> list[list[str]]:
        return [row(f"· · {part}", [getattr(job, of)[part] for job in jobs]) for part in getattr(jobs[0], of)]

    return markdown(
        [
            HEADINGS,
            row("**receive → outcome**", [job.seconds for job in jobs], is_part=False),
            row("· in the runner", [job.runner_seconds for job in jobs]),
            *parts("pipeline"),
            row("· **overhead** (target: ≤ 3 %)", [sum(job.overhead.values()) for job in jobs]),
            *parts("overhead"),
            row("SendMessage → job.completed", [job.told_seconds for job in jobs], is_part=False),
        ],
        words=[0],
    )
