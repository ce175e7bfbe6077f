"""Detection of hung processes by the silence of one job, regardless of reports from others."""

from daemon.protocol.messages import Ready
from daemon.supervisor.state import RunnerRecord, RunnerState
from daemon.supervisor.watchdog import JobLiveness, ignoring_cancellation, stalled
from daemon.telemetry.metrics import Metrics
from tests.support.monitoring.samples import samples_of
from tests.support.time.virtual import VirtualTime

LIMIT = 60.0


def test_hung_job_is_not_kept_alive_by_reports_of_other_jobs() -> None:
    jobs = {"guilty": JobLiveness(0.0), "innocent": JobLiveness(0.0)}
    for job in jobs.values():
        job.report(10.0)
    jobs["innocent"].report(71.0)
    assert stalled(jobs, 71.0, last_message_at=71.0, limit_seconds=LIMIT) == ["guilty"]


def test_job_gets_the_whole_limit() -> None:
    job = JobLiveness(0.0)
    job.report(10.0)
    assert stalled({"job": job}, 70.0, last_message_at=10.0, limit_seconds=LIMIT) == []
    assert stalled({"job": job}, 70.1, last_message_at=10.0, limit_seconds=LIMIT) == ["job"]


def test_waiting_job_is_alive_as_long_as_the_jobs_it_waits_for() -> None:
    jobs = {"waits": JobLiveness(0.0)}
    assert stalled(jobs, 100.0, last_message_at=50.0, limit_seconds=LIMIT) == []
    assert stalled(jobs, 111.0, last_message_at=50.0, limit_seconds=LIMIT) == ["waits"]


def test_limit_starts_when_the_job_is_sent() -> None:
    assert stalled({"new": JobLiveness(1000.0)}, 1050.0, last_message_at=0.0, limit_seconds=LIMIT) == []


def test_cancelled_job_must_respond_in_time() -> None:
    jobs = {"cancelled": JobLiveness(0.0, cancel_by=30.0), "other": JobLiveness(0.0)}
    assert ignoring_cancellation(jobs, 30.0) == []
    assert ignoring_cancellation(jobs, 30.1) == ["cancelled"]


def test_reports_do_not_excuse_a_cancelled_job() -> None:
    job = JobLiveness(0.0, cancel_by=30.0)
    job.report(31.0)
    assert ignoring_cancellation({"cancelled": job}, 31.0) == ["cancelled"]


def test_busy_time_is_wall_clock_time() -> None:
    clock, metrics = VirtualTime(), Metrics()
    record = RunnerRecord(metrics, "cpu", clock)
    record.ready(Ready("cpu", "a CPU", "int8", {}, 1.0, "fingerprint"))
    clock.now += 100
    record.state = RunnerState.BUSY
    clock.now += 7
    record.count_busy()
    clock.now += 5
    record.state = RunnerState.READY
    clock.now += 100
    record.count_busy()
    assert samples_of(metrics)['transcriptd_runner_busy_seconds_total{device="cpu"}'] == 12
    assert record.since == clock.unix() - 100
