"""The parent's handle of a device's process: it starts it, talks to it, watches it, kills it and replaces it.

Two processes because they fail differently: a CUDA error, an OOM kill or a segfault must never take down the process
that holds the leases. Three things that are easily confused are kept apart here: a job that failed (the process lives
on), a process that died (its jobs are retried, it is replaced), and a set-up that failed (nothing works until it does).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from pathlib import Path

from daemon.admission import Admission
from daemon.config import Settings
from daemon.devices import Device
from daemon.errors import DeviceFault, RunnerCrashed, SetupFailed, TranscriptdError, error_class
from daemon.logs import log_context, log_fields
from daemon.metrics import Metrics
from daemon.options import JobOptions
from daemon.protocol import (
    Batch,
    Cancel,
    Checkpoint,
    Done,
    Failed,
    Fatal,
    Heard,
    Memory,
    Progress,
    Ready,
    Run,
    Shutdown,
    StageDone,
    decode,
)
from daemon.runner_process import TERMINATE_GRACE_SECONDS, RunnerProcess
from daemon.runner_state import RunnerRecord, RunnerState
from daemon.wording import words_of

log = logging.getLogger("transcriptd.runner")

# Time for a cancelled job to reach its next safe point.
CANCEL_GRACE_SECONDS = 30.0

# Reasons for which we let a healthy process go: no error, no back-off.
RETIREMENTS = ("recycled", "leak")

ProgressHandler = Callable[[Progress | StageDone | Batch | Heard | Checkpoint], None]


class GivenUp(Exception):
    """The device takes no more jobs. The one that had this for an answer has not failed: it can be done elsewhere."""


class _Again(Exception):
    """The process ended while it had the job, which is not known to be the reason; `alone` if it may be."""

    def __init__(self, *, alone: bool) -> None:
        super().__init__()
        self.alone = alone


@dataclass
class _Assignment:
    """One job the process works on."""

    finished: asyncio.Future[None]
    on_progress: ProgressHandler
    context: Context = field(default_factory=copy_context)  # of the job, for its log lines
    begun: bool = False  # the process has reported something of it
    heard_at: float = field(default_factory=time.monotonic)  # when it was sent, or last reported of
    cancel_by: float | None = None  # monotonic: a cancelled job must have answered by then
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the process has it no more


class Runner:
    """`await start()`, then `await run(…)` for each job, then `await stop()`."""

    def __init__(self, settings: Settings, metrics: Metrics, device: Device) -> None:
        self.device = device
        self._settings = settings
        self._assignments: dict[str, _Assignment] = {}
        self._admission = Admission(settings.audio_in_flight_seconds)
        self._current: RunnerProcess | None = None
        self._available = asyncio.Event()  # a process is ready, or there will never be one
        self._supervisor: asyncio.Task[None] | None = None
        self._stopping = False
        self._lost: SetupFailed | None = None  # why the device is given up
        self._device_failures = 0  # since a job was last finished
        self._record = RunnerRecord(metrics, device.name)
        self.info: Ready | None = None

    @property
    def pid(self) -> int | None:
        """The process that takes jobs, if there is one."""
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
        """Of the jobs that the process has, all channels together."""
        return self._admission.audio_seconds

    @property
    def load_seconds(self) -> float:
        """Audio of all jobs that are here, those that wait too."""
        return self._admission.audio_seconds + self._admission.waiting_audio_seconds

    @property
    def jobs_waiting(self) -> int:
        """Jobs that wait until the process has memory for them, or until one that must be by itself is done."""
        return self._admission.waiting

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
        """Wait until no process can be started any more, and why; None once it was stopped."""
        if self._supervisor is None:
            raise SetupFailed("the runner was never started")
        await asyncio.shield(self._supervisor)
        return self._lost

    async def run(
        self,
        job_id: str,
        options: JobOptions,
        on_progress: ProgressHandler,
        *,
        audio: Sequence[Path],
        audio_seconds: float,
        result: Path,
        checkpoints: Path,
    ) -> None:
        """Do one job; its transcript lies at `result` afterwards. Cancelling this call cancels the job.

        `audio` has a file for each channel, as media.Audio has; `audio_seconds` is the length of all of them together. What
        lies in the folder `checkpoints` is not done again; what is finished is added there and reported.

        Raises the error the runner reported, RunnerCrashed, RunnerStalled, DeviceFault or GivenUp.
        """
        paths = [str(path) for path in audio]
        wishes = options.model_dump(mode="json")
        order = Run(job_id, paths, str(result), str(checkpoints), wishes, {"job_id": job_id, **log_fields()})
        alone = False
        while True:
            try:
                async with self._admission.enter(audio_seconds, alone=alone):
                    return await self._assign(order, on_progress)
            except _Again as again:
                # Several jobs were in hand when the process died: each has another try by itself, so that one which
                # kills processes does not take its neighbours' attempts with it.
                alone = again.alone

    async def _assign(self, order: Run, on_progress: ProgressHandler) -> None:
        """Give the job to a process and wait for its end."""
        process = await self._next_process()
        while earlier := self._assignments.get(order.job_id):
            if earlier.cancel_by is None:
                raise TranscriptdError(f"job {order.job_id} is in the runner already")  # it would orphan the first
            # A lease was lost and the message came back here, before the process has let the job go.
            await earlier.gone.wait()
            process = await self._next_process()
        assignment = _Assignment(asyncio.get_running_loop().create_future(), on_progress)
        self._assignments[order.job_id] = assignment
        self._record.state = RunnerState.BUSY
        process.send(order)
        try:
            await assignment.finished
        except asyncio.CancelledError:
            # The process gets a while to let go; the watchdog kills it when it does not.
            if not assignment.finished.done() or assignment.finished.cancelled():
                assignment.finished = asyncio.get_running_loop().create_future()
                assignment.cancel_by = time.monotonic() + CANCEL_GRACE_SECONDS
                process.send(Cancel(order.job_id))
            raise

    async def _next_process(self) -> RunnerProcess:
        while self._current is None:
            if self._record.state is RunnerState.DEFUNCT:
                raise GivenUp(self.device.name)
            await self._available.wait()
        return self._current

    async def stop(self) -> None:
        """End the process: asked first, then terminated, then killed. No process of ours is left afterwards."""
        self._stopping = True
        if self._current is not None:
            self._current.send(Shutdown())
            if self._assignments:
                self._current.kill("stopped")
        if self._supervisor is not None:
            _, pending = await asyncio.wait((self._supervisor,), timeout=TERMINATE_GRACE_SECONDS)
            if pending:
                self._supervisor.cancel()
                await asyncio.wait((self._supervisor,))
        self._record.state = RunnerState.DEFUNCT
        self._available.set()

    # --- one life after another -----------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        failures = 0
        while True:
            self._record.state = RunnerState.STARTING
            process = await RunnerProcess.start(self._settings, self.device)
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
                    "error": words_of(error),
                    "exit_code": process.process.returncode,
                    "job_ids": process.in_hand,
                    # Of a device fault it is a traceback out of a job, and the runner has told it without its words.
                    "detail": None if reason == "device_fault" else error.detail,
                },
            )
            if reason == "device_fault":
                self._device_failures += 1
            if failures >= self._settings.runner_start_attempts:
                self._give_up(f"the runner failed to start {failures} times in a row", error)
                return
            if self._device_failures >= self._settings.device_failures:
                self._give_up(
                    f"the device failed {self._device_failures} times and no job was finished meanwhile", error
                )
                return
            await asyncio.sleep(self._settings.runner_restart_base_seconds * 2 ** max(0, failures - 1))

    def _give_up(self, why: str, error: TranscriptdError) -> None:
        self._record.state = RunnerState.DEFUNCT
        self._available.set()
        self._lost = SetupFailed(f"{why}; the last time: {error.message}", detail=error.detail)
        log.error("device given up", extra={"error": words_of(self._lost)})

    async def _live(self, process: RunnerProcess) -> tuple[TranscriptdError, bool]:
        """Serve one process until it ends; why it ended, and whether it was ever ready."""
        ready = False
        watchdog: asyncio.Task[None] | None = None
        fatal: TranscriptdError | None = None
        try:
            async with asyncio.timeout(self._settings.runner_start_timeout_seconds) as start_limit:
                while line := await process.reader.readline():
                    process.last_message_at = time.monotonic()
                    match decode(line):
                        case Ready() as info:
                            ready = True
                            start_limit.reschedule(None)
                            watchdog = asyncio.create_task(self._watch(process), name="runner watchdog")
                            self._on_ready(process, info)
                        case Progress() | StageDone() | Batch() | Heard() | Checkpoint() as event:
                            if assignment := self._assignments.get(event.job_id):
                                assignment.begun = True
                                assignment.heard_at = time.monotonic()
                                assignment.context.run(assignment.on_progress, event)
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
            pass  # it died mid-line; the exit status says how
        finally:
            if watchdog is not None:
                watchdog.cancel()
        await process.reap()
        process.in_hand = list(self._assignments)
        error = fatal or process.post_mortem(self._settings.runner_stall_seconds)
        self._fail_assignments(error, process.blamed)
        return error, ready

    async def _watch(self, process: RunnerProcess) -> None:
        """Kill a process that makes no progress or does not let a cancelled job go."""
        tick = min(1.0, self._settings.runner_stall_seconds / 4)
        while True:
            await asyncio.sleep(tick)
            self._record.count_busy()
            now = time.monotonic()
            limit_seconds = self._settings.runner_stall_seconds
            jobs = self._assignments.items()
            ignored = [job_id for job_id, it in jobs if it.cancel_by is not None and now > it.cancel_by]
            stalled = [job_id for job_id, it in jobs if now - _heard_at(it, process) > limit_seconds]
            if ignored:
                process.kill("cancel_ignored", ignored)
            elif stalled:
                process.kill("stalled", stalled)

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
        """Give the process no more jobs."""
        self._current = None
        self._available.clear()

    def _finish(self, job_id: str, error: Exception | None) -> None:
        if assignment := self._assignments.pop(job_id, None):
            assignment.gone.set()
            if assignment.finished.done():
                pass  # its caller has gone
            elif error is None:
                self._device_failures = 0
                assignment.finished.set_result(None)
            else:
                assignment.finished.set_exception(error)
                if assignment.cancel_by is not None:
                    assignment.finished.exception()  # nobody waits for it any more
        if not self._assignments and self._record.state is RunnerState.BUSY:
            self._record.state = RunnerState.READY

    def _check_memory(self, process: RunnerProcess, memory: Memory) -> None:
        """Let a process that leaks, or did its share of jobs, end once it has nothing in hand."""
        self._record.memory(memory)
        first = process.first_memory
        if first is None:
            process.first_memory = memory  # after set-up: what follows is measured against it
            return
        process.jobs += 1
        process.growths.append(max(memory.host_bytes - first.host_bytes, memory.device_bytes - first.device_bytes))
        # What jobs in hand need is no leak; a process that is never idle is judged by the least it came down to.
        judged = memory.idle or len(process.growths) == process.growths.maxlen
        growth = process.growths[-1] if memory.idle else min(process.growths)
        leaks = judged and growth > self._settings.runner_max_growth_bytes
        worn = 0 < self._settings.runner_max_jobs <= process.jobs
        if leaks or worn:
            process.reason = "leak" if leaks else "recycled"
            log.info("runner retires", extra={"reason": process.reason, "jobs": process.jobs, "growth_bytes": growth})
            self._retire()
            process.send(Shutdown())  # obeyed once no job is in hand

    def _fail_assignments(self, error: TranscriptdError, blamed: Collection[str] = ()) -> None:
        """The process ended with these jobs. Those to blame are known, or else it is one of those that were begun."""
        suspects = blamed or [job_id for job_id, assignment in self._assignments.items() if assignment.begun]
        for job_id in list(self._assignments):
            guilty = job_id in suspects and (blamed or len(suspects) == 1)
            self._finish(job_id, error if guilty or self._stopping else _Again(alone=job_id in suspects))


def _heard_at(assignment: _Assignment, process: RunnerProcess) -> float:
    """When there was a sign of life last. A job that has not begun waits for others, whose signs are its own."""
    return assignment.heard_at if assignment.begun else max(assignment.heard_at, process.last_message_at)
