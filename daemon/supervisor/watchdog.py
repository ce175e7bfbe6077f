"""Finds the jobs that hang their process: no progress reports, or cancellation ignored. Pure; times are monotonic."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class JobLiveness:
    """Liveness of one job in a process."""

    last_seen_at: float  # when it was sent or last reported
    started: bool = False  # the process has reported an event of it
    cancel_by: float | None = None  # a cancelled job must have ended by then

    def report(self, now: float) -> None:
        self.started, self.last_seen_at = True, now


def ignoring_cancellation(jobs: Mapping[str, JobLiveness], now: float) -> list[str]:
    return [job_id for job_id, job in jobs.items() if job.cancel_by is not None and now > job.cancel_by]


def stalled(jobs: Mapping[str, JobLiveness], now: float, last_message_at: float, limit_seconds: float) -> list[str]:
    """Return the jobs without a sign of life for longer than the limit.

    `last_message_at` is the time of any message from the process. A job that has not started waits for others, so any
    message counts for it. A started job must report itself; otherwise the reports of other jobs would hide that it hangs.
    """

    def alive_at(job: JobLiveness) -> float:
        return job.last_seen_at if job.started else max(job.last_seen_at, last_message_at)

    return [job_id for job_id, job in jobs.items() if now - alive_at(job) > limit_seconds]
