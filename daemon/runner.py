"""The poller's side of one device: starts the runner process, sends it jobs, watches it, kills and replaces it.

The runner is a separate process because a CUDA error, an OOM kill or a segfault must never take down the process that
holds the leases. This module distinguishes three failures: a job fails (the process continues), the process dies (it is
replaced and its jobs are retried), and the set-up fails (no job can run until it succeeds).
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.config import Settings
from daemon.errors import DeviceFault, RunnerCrashed, SetupFailed, TranscriptdError, error_class
from daemon.protocol.events import BackgroundProgress, PipelineEvent
from daemon.protocol.messages import (
    Cancel,
    Done,
    Failed,
    Fatal,
    JobEvent,
    Memory,
    Ready,
    Run,
    Shutdown,
    decode,
)
from daemon.protocol.priority import ONLY, Priority
from daemon.schema.options import JobOptions
from daemon.supervisor.admission import Admission
from daemon.supervisor.devices import Device
from daemon.supervisor.process import TERMINATE_GRACE_SECONDS, RunnerProcess
from daemon.supervisor.state import RunnerRecord, RunnerState
from daemon.supervisor.watchdog import JobLiveness, ignoring_cancellation, stalled
from daemon.telemetry.logs import log_context, log_fields
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.runner")

# Time for a cancelled job to reach its next safe point.
CANCEL_GRACE_SECONDS = 30.0

# Reasons to replace a healthy process: no error, no backoff.
RETIREMENTS = ("recycled", "leak")

EventHandler = Callable[[PipelineEvent], None]


class DeviceLost(Exception):
    """Raised when the device is permanently out of service. The job did not fail and can run on another device."""


class _Requeued(Exception):
    """The process ended during the job, which is not known to be the cause. `alone` is set if it may be."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.alone = alone


@dataclass
class _Assignment:
    """A job in the process."""

    finished: asyncio.Future[None]
    on_event: EventHandler
    liveness: JobLiveness
    context: Context = field(default_factory=copy_context)  # the job's, for its log lines
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the process has ended the job


class Runner:
    """`await start()`, then `await run(…)` for each job, then `await stop()`."""

    def __init__(self, settings: Settings, metrics: Metrics, device: Device, clock: Clock = SYSTEM_CLOCK) -> None:
        self.device = device
        self._settings = settings
        self._clock = clock
        self._assignments: dict[str, _Assignment] = {}
        self._admission = Admission(settings.max_audio_in_flight_seconds)
        self._process: RunnerProcess | None = None  # the last one that was started
        self._current: RunnerProcess | None = None  # that process while it accepts jobs
        self._available = asyncio.Event()  # a process is ready, or there will never be one
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._lost: SetupFailed | None = None  # why the device was given up
        self._device_failures = 0  # since the last finished job
        self._record = RunnerRecord(metrics, device.name, clock)
        self.info: Ready | None = None

    @property
    def pid(self) -> int | None:
        """ID of the process that accepts jobs, if there is one."""
        return self._current.process.pid if self._current else None

    @property
    def state(self) -> RunnerState:
        return self._record.state

    @property
    def state_since(self) -> float:
        """Unix time."""
        return self._record.since

    @property
    def audio_seconds(self) -> float:
        """Audio of the jobs in the process, all channels together."""
        return self._admission.audio_seconds

    @property
    def load_seconds(self) -> float:
        """Audio of all jobs on this device, including waiting ones."""
        return self._admission.audio_seconds + self._admission.waiting_audio_seconds

    def jobs_waiting(self, priority: Priority | None = None) -> int:
        """Jobs, of one priority or all, waiting for memory in the process, or for a job that runs alone to end."""
        return self._admission.waiting(priority)

    async def start(self) -> Ready:
        """Start the process and wait until its models are loaded. Raises SetupFailed after the last attempt."""
        with log_context(device=self.device.name):
            self._supervisor = asyncio.create_task(self._supervise(), name="runner supervisor")
        available = asyncio.create_task(self._available.wait())
        await asyncio.wait((available, self._supervisor), return_when=asyncio.FIRST_COMPLETED)
        available.cancel()
        if self._supervisor.done():
            self._supervisor.result()
        if self.info is None:
            raise self._lost or SetupFailed("the runner stopped before it was ready")
        return self.info

    async def ended(self) -> SetupFailed | None:
        """Wait until the device has no process and gets no new one. Return the reason, or None after `stop()`."""
        if self._supervisor is None:
            raise SetupFailed("the runner was never started")
        await asyncio.shield(self._supervisor)
        return self._lost

    async def run(
        self,
        job_id: str,
        options: JobOptions,
        on_event: EventHandler,
        *,
        audio: Sequence[Path],
        audio_seconds: float,
        result: Path,
        checkpoints: Path,
        words: Path | None = None,
        priority: Priority = ONLY,
    ) -> None:
        """Run one job and write its transcript to `result`. Cancelling this call cancels the job.

        `audio` has one file per channel, as media.Audio does; `audio_seconds` is their total length. Parts that have a file
        in the folder `checkpoints` are not repeated; each part that finishes is added there and reported. If `words` names a
        transcript, its words are kept and only its speakers are found again.

        Raises the error the runner reported, RunnerCrashed, RunnerStalled, DeviceFault or DeviceLost.
        """
        paths = [str(path) for path in audio]
        wishes = options.model_dump(mode="json")
        fields = {"job_id": job_id, **log_fields()}
        words_path = str(words) if words else None
        order = Run(job_id, paths, str(result), str(checkpoints), wishes, fields, priority, words_path)
        alone = False
        while True:
            try:
                async with self._admission.enter(audio_seconds, alone=alone, priority=priority):
                    return await self._assign(order, on_event)
            except _Requeued as again:
                # Several jobs were in the process when it died. Retry each one alone, so that a job that kills processes
                # does not use up the attempts of other jobs.
                alone = again.alone

    async def _assign(self, order: Run, on_event: EventHandler) -> None:
        """Send the job to a process and wait until it ends."""
        process = await self._next_process()
        while earlier := self._assignments.get(order.job_id):
            if earlier.liveness.cancel_by is None:
                raise TranscriptdError(
                    f"job {order.job_id} is already in the runner"
                )  # a second run would orphan the first
            # The lease was lost, and the message was received here again before the process ended the job.
            await earlier.gone.wait()
            process = await self._next_process()
        assignment = _Assignment(
            asyncio.get_running_loop().create_future(), on_event, JobLiveness(self._clock.monotonic())
        )
        self._assignments[order.job_id] = assignment
        self._record.state = RunnerState.BUSY
        process.send(order)
        try:
            await assignment.finished
        except asyncio.CancelledError:
            # The process has a grace period to end the job; after that, the watchdog kills it.
            if not assignment.finished.done() or assignment.finished.cancelled():
                assignment.finished = asyncio.get_running_loop().create_future()
                assignment.liveness.cancel_by = self._clock.monotonic() + CANCEL_GRACE_SECONDS
                process.send(Cancel(order.job_id))
            raise

    async def _next_process(self) -> RunnerProcess:
        while self._current is None:
            if self._record.state is RunnerState.DEFUNCT:
                raise DeviceLost(self.device.name)
            await self._available.wait()
        return self._current

    async def stop(self) -> None:
        """End the process: request a shutdown if it is idle, otherwise kill it. No runner process remains afterwards."""
        self._stopping = True
        if self._current is not None and not self._assignments:
            self._current.send(Shutdown())
        elif self._process is not None:  # it has a job, or is loading models: there is nothing worth waiting for
            self._process.kill("stopped")
        if self._supervisor is not None:
            _, pending = await asyncio.wait((self._supervisor,), timeout=TERMINATE_GRACE_SECONDS)
            if pending:
                self._supervisor.cancel()
                await asyncio.wait((self._supervisor,))
        self._record.state = RunnerState.DEFUNCT
        self._available.set()

    # --- supervision ----------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        failures = 0
        while True:
            self._record.state = RunnerState.STARTING
            process = self._process = await RunnerProcess.start(self._settings, self.device, self._clock)
            if self._stopping:
                process.kill("stopped")
            try:
                error, was_ready = await self._live(process)
            finally:
                self._retire()
                await process.reap()
                self._fail_assignments(RunnerCrashed("the runner process ended"))
            if self._stopping:
                return
            failures = 0 if was_ready else failures + 1
            if process.reason in RETIREMENTS and process.process.returncode == 0:
                self._record.ended(process.reason)
                continue
            reason = process.reason or ("signal" if (process.process.returncode or 0) < 0 else "exit")
            self._record.ended(reason if was_ready else "setup")
            log.warning(
                "runner ended",
                extra={
                    "reason": reason,
                    "error": safe_message(error),
                    "exit_code": process.process.returncode,
                    "job_ids": process.in_hand,
                    # For a device fault, this is a traceback from a job; the runner has logged it without personal data.
                    "detail": None if reason == "device_fault" else error.detail,
                },
            )
            if reason == "device_fault":
                self._device_failures += 1
            if failures >= self._settings.runner_start_attempts:
                self._give_up(f"the runner failed to start {failures} times in a row", error)
                return
            if self._device_failures >= self._settings.max_device_failures:
                self._give_up(f"the device failed {self._device_failures} times without a finished job between", error)
                return
            await asyncio.sleep(self._settings.runner_restart_base_seconds * 2 ** max(0, failures - 1))

    def _give_up(self, why: str, error: TranscriptdError) -> None:
        self._record.state = RunnerState.DEFUNCT
        self._available.set()
        self._lost = SetupFailed(f"{why}; last error: {error.message}", detail=error.detail)
        self._lost.__cause__ = error
        log.error("device given up", extra={"error": safe_message(self._lost)})

    async def _live(self, process: RunnerProcess) -> tuple[TranscriptdError, bool]:
        """Serve one process until it ends. Return why it ended, and whether it was ever ready."""
        ready = False
        watchdog: asyncio.Task[None] | None = None
        fatal: TranscriptdError | None = None
        try:
            async with asyncio.timeout(self._settings.runner_start_timeout_seconds) as start_limit:
                while line := await process.reader.readline():
                    process.last_message_at = self._clock.monotonic()
                    match decode(line):
                        case Ready() as info:
                            ready = True
                            start_limit.reschedule(None)
                            watchdog = asyncio.create_task(self._watch(process), name="runner watchdog")
                            watchdog.add_done_callback(partial(_watchdog_ended, process))
                            self._on_ready(process, info)
                        case JobEvent(job_id, event):
                            if assignment := self._assignments.get(job_id):
                                if not isinstance(event, BackgroundProgress):
                                    assignment.liveness.report(process.last_message_at)
                                assignment.context.run(assignment.on_event, event)
                        case Done(job_id):
                            self._finish(job_id, None)
                        case Memory() as memory:
                            self._check_memory(process, memory)
                        case Failed(job_id, code, message, trace):
                            self._finish(job_id, error_class(code)(message, detail=trace))
                        case Fatal(code, message, trace):
                            process.reason = "device_fault" if code == DeviceFault.code else "exit"
                            fatal = error_class(code)(message, detail=trace)
                            self._retire()
                        case unexpected:
                            raise ValueError(f"the runner sent {type(unexpected).__name__}")
        except TimeoutError:
            process.kill("setup")
            fatal = SetupFailed(f"the runner was not ready after {self._settings.runner_start_timeout_seconds:g} s")
        except (ValueError, asyncio.LimitOverrunError) as breach:
            process.kill("protocol")
            fatal = RunnerCrashed(f"the runner broke the protocol: {breach}")
        except ConnectionError:
            pass  # it died within a line; the exit status says how
        finally:
            if watchdog is not None:
                watchdog.cancel()
        await process.reap()
        process.in_hand = list(self._assignments)
        error = fatal or process.post_mortem(self._settings.runner_stall_seconds)
        self._fail_assignments(error, process.blamed)
        return error, ready

    async def _watch(self, process: RunnerProcess) -> None:
        """Kill a process that makes no progress or does not end a cancelled job."""
        tick = min(1.0, self._settings.runner_stall_seconds / 4)
        while True:
            await asyncio.sleep(tick)
            self._record.count_busy()
            now = self._clock.monotonic()
            jobs = {job_id: assignment.liveness for job_id, assignment in self._assignments.items()}
            if guilty := ignoring_cancellation(jobs, now):
                process.kill("cancel_ignored", guilty)
            elif guilty := stalled(jobs, now, process.last_message_at, self._settings.runner_stall_seconds):
                process.kill("stalled", guilty)

    # --- bookkeeping ----------------------------------------------------------------------------------------------

    def _on_ready(self, process: RunnerProcess, info: Ready) -> None:
        self.info = info
        self._current = process
        self._record.ready(info)
        self._available.set()
        log.info(
            "runner ready",
            extra={"device_name": info.device_name, "models": info.models, "load_seconds": info.load_seconds},
        )

    def _retire(self) -> None:
        """Send the process no further jobs."""
        self._current = None
        self._available.clear()

    def _finish(self, job_id: str, error: Exception | None) -> None:
        if assignment := self._assignments.pop(job_id, None):
            assignment.gone.set()
            if assignment.finished.done():
                pass  # its caller was cancelled
            elif error is None:
                self._device_failures = 0
                assignment.finished.set_result(None)
            else:
                assignment.finished.set_exception(error)
                if assignment.liveness.cancel_by is not None:
                    assignment.finished.exception()  # mark it retrieved: no one awaits it
        if not self._assignments and self._record.state is RunnerState.BUSY:
            self._record.state = RunnerState.READY

    def _check_memory(self, process: RunnerProcess, memory: Memory) -> None:
        """Retire a process that leaks or has reached `runner_max_jobs`; it exits once it has no job."""
        self._record.memory(memory)
        first = process.first_memory
        if first is None:
            process.first_memory = memory  # after set-up: the baseline for later reports
            return
        process.jobs += 1
        process.growths.append(max(memory.host_bytes - first.host_bytes, memory.device_bytes - first.device_bytes))
        # Memory of jobs in progress is not a leak. If the process is never idle, use the smallest growth of the last jobs.
        judged = memory.idle or len(process.growths) == process.growths.maxlen
        growth = process.growths[-1] if memory.idle else min(process.growths)
        leaks = judged and growth > self._settings.runner_max_growth_bytes
        worn = 0 < self._settings.runner_max_jobs <= process.jobs
        if leaks or worn:
            process.reason = "leak" if leaks else "recycled"
            log.info("runner retires", extra={"reason": process.reason, "jobs": process.jobs, "growth_bytes": growth})
            self._retire()
            process.send(Shutdown())  # takes effect once the process has no job

    def _fail_assignments(self, error: TranscriptdError, blamed: Collection[str] = ()) -> None:
        """End the jobs of a process that has ended.

        If the jobs to blame are unknown, every started job is a suspect; a single suspect fails, several are requeued.
        """
        suspects = blamed or [job_id for job_id, assignment in self._assignments.items() if assignment.liveness.started]
        for job_id in list(self._assignments):
            guilty = job_id in suspects and (blamed or len(suspects) == 1)
            self._finish(job_id, error if guilty or self._stopping else _Requeued(alone=job_id in suspects))


def _watchdog_ended(process: RunnerProcess, watchdog: asyncio.Task[None]) -> None:
    """Kill a process whose watchdog failed: without it, a hanging job would never end."""
    if not watchdog.cancelled() and (error := watchdog.exception()):
        log.error("background task failed", extra={"task": watchdog.get_name()}, exc_info=error)
        process.kill("unwatched")
