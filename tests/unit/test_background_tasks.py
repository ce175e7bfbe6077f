"""Supervision of background tasks, on virtual time, and a check that every task is supervised."""

import ast
import asyncio
import itertools
import re
from pathlib import Path

import pytest

import daemon
from daemon.background import RESTART_MAX_SECONDS, Supervisor, TaskName
from daemon.telemetry.metrics import Metrics
from tests.support.monitoring.samples import samples_of
from tests.support.time.virtual import in_virtual_time

PACKAGE = Path(daemon.__file__).parent
ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"

# Code that does not run in the poller process.
ELSEWHERE = {"pipeline", "cli", "demo", "weights"}

# Other code that may start a task or a thread, and how its failure is noticed.
OWNERS = {
    "background.py: start": "the supervisor",
    "launcher.py: startup": "awaited there",
    "launcher.py: main_loop": "awaited there and in the shutdown; both tasks that may fail are logged",
    "launcher.py: _poll": "awaited there and in the shutdown",
    "launcher.py: _drain": "the records of interruptions: awaited there, and logged",
    "poller.py: drain": "awaited there",
    "poller.py: _dispatch": "a job: what escapes the processor ends the poller",
    "runner.py: start": "a device's supervision: its failure ends Runners.failed, and so the daemon",
    "runner.py: _live": "the runner's watchdog: without it the process is replaced",
    "runner_pool.py: start": "awaited there",
    "supervisor/process.py: start": "the runner's standard error: unread, it stalls the process, which is replaced",
    "jobs/cancellation.py: watching": "looks for a request: every failure is logged, and the job goes on",
    "jobs/job_status.py: _start": "a write of status.json: every failure is logged",
    "jobs/lease.py: __aenter__": "the heartbeat: its failure ends the work that the lease is for",
    "jobs/lease.py: hold": "awaited there",
    "jobs/transcriber.py: keep": "a checkpoint: awaited by the job",
    "media/decoder_pool.py: __init__": "awaited when its process has ended; after a failure there is a new process",
    "status/nvml.py: watch_gpus": "the thread's failure is raised by the supervised task",
    "telemetry/tracing.py: open_tracer": "awaited there",
    "webhooks/outbox.py: run": "an event: every failure is logged",
    "webhooks/sender.py: _queue": "a job's events: every failure is logged",
    "webhooks/sender.py: _end": "an event's end: every failure is logged, or raised by the drain",
}


class Fault(Exception):
    pass


def failures(metrics: Metrics, name: TaskName) -> float:
    return samples_of(metrics)[f'transcriptd_background_task_failures_total{{task="{name}"}}']


@in_virtual_time
async def test_failed_task_is_logged_counted_and_restarted(caplog: pytest.LogCaptureFixture) -> None:
    metrics, started_at = Metrics(), list[float]()
    loop = asyncio.get_running_loop()

    async def run() -> None:
        started_at.append(loop.time())
        raise Fault

    async with Supervisor(metrics) as supervisor:
        supervisor.start(TaskName.MACHINE, run)
        assert failures(metrics, TaskName.MACHINE) == 0, "the metric exists before the first failure"
        await asyncio.sleep(600)
    pauses = [later - earlier for earlier, later in itertools.pairwise(started_at)]
    assert [round(pause) for pause in pauses[:6]] == [1, 2, 4, 8, 16, RESTART_MAX_SECONDS]
    assert max(pauses) < RESTART_MAX_SECONDS + 1
    assert failures(metrics, TaskName.MACHINE) == len(started_at) == len(caplog.records)
    assert {(line.message, vars(line)["task"]) for line in caplog.records} == {("background task failed", "machine")}
    assert caplog.records[0].exc_info is not None


@in_virtual_time
async def test_restart_delay_resets_after_a_while_of_work() -> None:
    metrics, starts = Metrics(), 0

    async def run() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(0 if starts <= 6 else 3600)
        raise Fault

    async with Supervisor(metrics) as supervisor:
        supervisor.start(TaskName.MACHINE, run)
        await asyncio.sleep(1 + 2 + 4 + 8 + 16 + RESTART_MAX_SECONDS + 3600 + 1.5)
    assert starts == 8


@pytest.mark.parametrize(("ends", "starts"), [(True, 1), (False, 2)])
@in_virtual_time
async def test_task_may_return_only_when_it_is_meant_to_end(ends: bool, starts: int) -> None:
    metrics, started = Metrics(), 0

    async def run() -> None:
        nonlocal started
        started += 1

    async with Supervisor(metrics) as supervisor:
        supervisor.start(TaskName.LAUNCH_HOOK, run, ends=ends)
        await asyncio.sleep(1.5)
    assert started == starts
    assert failures(metrics, TaskName.LAUNCH_HOOK) == (0 if ends else 2)


@in_virtual_time
async def test_cancellation_from_within_counts_as_a_failure() -> None:
    metrics = Metrics()

    async def run() -> None:
        inner = asyncio.create_task(asyncio.sleep(3600))
        inner.cancel()
        await inner

    async with Supervisor(metrics) as supervisor:
        supervisor.start(TaskName.MACHINE, run)
        await asyncio.sleep(0.5)
    assert failures(metrics, TaskName.MACHINE) == 1


@in_virtual_time
async def test_leaving_cancels_all_tasks_and_waits_for_them() -> None:
    metrics, closed = Metrics(), list[TaskName]()

    def closing(name: TaskName) -> None:
        async def run() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(5)
                closed.append(name)

        supervisor.start(name, run)

    async with Supervisor(metrics) as supervisor:
        for name in TaskName:
            closing(name)
        await asyncio.sleep(1)
        await supervisor.stop(TaskName.WATCHDOG)
        assert closed == [TaskName.WATCHDOG]
    assert sorted(closed) == sorted(TaskName)
    assert all(failures(metrics, name) == 0 for name in TaskName)


async def test_task_names_are_unique() -> None:
    async with Supervisor(Metrics()) as supervisor:
        supervisor.start(TaskName.MACHINE, asyncio.Event().wait)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="already running"):
            supervisor.start(TaskName.MACHINE, asyncio.Event().wait)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TaskName)
def test_documentation_describes_the_effect_of_each_failure(name: TaskName) -> None:
    assert re.search(rf"^\| {name} \| \S.*\|$", ARCHITECTURE.read_text(), re.MULTILINE)


def starters(path: Path) -> set[str]:
    """Yield the innermost functions that start a task or a thread."""
    found: set[str] = set()

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", None))
            if name in ("create_task", "ensure_future", "Thread") and ast.unparse(node.func) != "group.create_task":
                found.add(f"{path.relative_to(PACKAGE)}: {function}")
        for child in ast.iter_child_nodes(node):
            visit(child, function)

    visit(ast.parse(path.read_text()), "module")
    return found


def test_every_task_has_an_owner_that_notices_its_end() -> None:
    """Tasks that run as long as the daemon belong to the supervisor; any other needs an owner listed in OWNERS."""
    paths = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in ELSEWHERE]
    assert set().union(*map(starters, paths)) == OWNERS.keys()
