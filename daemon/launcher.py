"""The daemon's lifecycle: startup, main loop, shutdown."""

import asyncio
import logging
import signal
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from daemon.background import TaskName
from daemon.composition import Components, open_components
from daemon.config import Settings
from daemon.container_init import STOP_SIGNALS
from daemon.errors import SetupFailed
from daemon.jobs.validation import check_profiles
from daemon.poller import Poller
from daemon.status.systemd import feed_watchdog, notify
from daemon.telemetry.logs import on_loop_exception, toggle_debug
from daemon.telemetry.redaction import safe_message

log = logging.getLogger("transcriptd.launcher")

EXIT_OK = 0
EXIT_FORCED = 1  # jobs had to be interrupted; they were released
EXIT_HOST_ENDS = 75  # EX_TEMPFAIL: the instance is terminating; a restarted daemon would only lose the jobs it receives
EXIT_SETUP_FAILED = 70  # EX_SOFTWARE: no device can load the models

EVENT_DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Signals:
    """`stop` is set by the first signal to stop (STOP_SIGNALS); `force_stop` by a second one, which cuts the drain short."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    force_stop: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class MainLoopResult:
    """What the main loop passes to the shutdown. A failure of either task ends the main loop."""

    poller: Poller
    polling: asyncio.Task[None]  # done, or about to be
    runners_failed: asyncio.Task[None]  # done when no device is left, possibly during the shutdown
    retired: bool  # the instance was idle and has requested its termination


async def serve(settings: Settings) -> int:
    """Run the daemon until it stops. Return the exit status."""
    signals = Signals()
    _handle_signals(settings, signals)
    asyncio.get_running_loop().set_exception_handler(on_loop_exception)
    log.info("starting", extra={"version": version("transcriptd")})
    check_profiles(settings)
    async with open_components(settings) as components:
        if (status := await startup(components, signals)) is not None:
            return status
        ended = await main_loop(components, signals)
        return await shutdown(components, signals, ended)


async def startup(components: Components, signals: Signals) -> int | None:
    """Load the models. Return an exit status if the daemon has to exit before it receives anything."""
    starting = asyncio.create_task(components.runners.start(), name="runners start")
    stopping = asyncio.create_task(signals.stop.wait(), name="stop signal")
    interrupted = asyncio.create_task(components.host.interrupted(), name="interrupted")
    await asyncio.wait((starting, stopping, interrupted), return_when=asyncio.FIRST_COMPLETED)
    for waiting in (stopping, interrupted):
        waiting.cancel()
    if not starting.done():
        starting.cancel()
        if signals.stop.is_set():
            return EXIT_OK
        await components.host.complete_termination()
        return EXIT_HOST_ENDS
    try:
        starting.result()
    except SetupFailed as error:
        log.critical("start-up failed", extra={"error": safe_message(error), "detail": error.detail})
        await components.host.report_unfit(was_ready=False)
        return EXIT_SETUP_FAILED
    return None


async def main_loop(components: Components, signals: Signals) -> MainLoopResult:
    """Receive until a signal, an interruption of the instance, the loss of the last device, or a poller failure."""
    poller = components.build_poller()
    components.health.phase = "running"
    log.info("ready")
    notify("READY=1")
    components.supervisor.start(TaskName.LAUNCH_HOOK, components.host.ready, ends=True)
    components.supervisor.start(TaskName.WATCHDOG, lambda: feed_watchdog(components.health.is_alive))
    components.supervisor.start(
        TaskName.RELEASE_DEADLINE, lambda: _force_stop_before_spot_end(components, signals), ends=True
    )
    runners_failed = asyncio.create_task(components.runners.failed(), name="runners failed")
    interrupted = asyncio.create_task(components.host.interrupted(), name="interrupted")
    stopping = asyncio.create_task(signals.stop.wait(), name="stop signal")
    polling, retired = await _poll(components, poller, {runners_failed, interrupted, stopping})
    for waiting in (interrupted, stopping):
        waiting.cancel()
    for task in (polling, runners_failed):
        _log_failure(task)
    return MainLoopResult(poller, polling, runners_failed, retired)


async def shutdown(components: Components, signals: Signals, ended: MainLoopResult) -> int:
    """Stop receiving, finish or release the jobs, send the remaining events. Return the exit status."""
    clean = await _drain(components, signals, ended)
    interrupted = ended.retired or components.host.is_interrupted
    await components.supervisor.stop(TaskName.LAUNCH_HOOK, TaskName.WATCHDOG, TaskName.RELEASE_DEADLINE)
    undelivered = await components.events.drain(0.0 if signals.force_stop.is_set() else EVENT_DRAIN_SECONDS)
    log.info("stopped", extra={"clean": clean, "events_undelivered": undelivered})
    if ended.runners_failed.done():
        if lost := ended.runners_failed.exception():
            log.critical("runner lost", extra={"error": safe_message(lost)})
        await components.host.report_unfit(was_ready=True)
        return EXIT_SETUP_FAILED
    ended.runners_failed.cancel()
    ended.polling.result()  # an unexpected poller failure must not look like a clean exit
    if interrupted:
        await components.host.complete_termination()
        return EXIT_HOST_ENDS
    return EXIT_OK if clean else EXIT_FORCED


async def _poll(
    components: Components, poller: Poller, ends: set[asyncio.Task[Any]]
) -> tuple[asyncio.Task[None], bool]:
    """Poll until one of `ends` is done or the idle instance is retired. Return the poller's task, and whether it retired."""
    idle_exit_seconds = components.settings.idle_exit_seconds
    can_retire = components.host.can_retire
    while True:
        polling = asyncio.create_task(poller.run(), name="poller")
        idle = asyncio.create_task(poller.idle(idle_exit_seconds) if can_retire else asyncio.Event().wait())
        await asyncio.wait((polling, idle, *ends), return_when=asyncio.FIRST_COMPLETED)
        if not idle.done() or any(task.done() for task in (polling, *ends)):
            idle.cancel()
            return polling, False
        idle.result()
        # No message may be held when the termination is requested: first release what the last receive returned.
        poller.stop_receiving()
        await asyncio.wait((polling,))
        await poller.join()
        log.info("idle", extra={"idle_seconds": idle_exit_seconds})
        if await components.host.retire():
            return polling, True
        poller.resume_receiving()


async def _drain(components: Components, signals: Signals, ended: MainLoopResult) -> bool:
    """Wait for the jobs in progress, at most `drain_timeout_seconds`. Return whether all of them finished."""
    poller, timeout_seconds = ended.poller, components.settings.drain_timeout_seconds
    # Before anything else: a container's grace period may end at any time, with SIGKILL.
    recording = asyncio.create_task(components.processor.record_interruptions(), name="record interruptions")
    components.health.phase = "draining"
    notify("STOPPING=1")
    log.info("draining", extra={"jobs_in_flight": poller.jobs_in_flight, "timeout_seconds": timeout_seconds})
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    poller.stop_receiving()
    if components.outbox_worker is not None:
        components.outbox_worker.stop()
    await asyncio.wait((ended.polling,))
    if ended.runners_failed.done():
        poller.interrupt()  # without a runner, no job can finish: release them
    clean = await poller.drain(max(0.0, deadline - asyncio.get_running_loop().time()), signals.force_stop)
    recording.cancel()  # every delivery has recorded its own outcome
    await asyncio.wait((recording,))
    _log_failure(recording)
    return clean


def _log_failure(task: asyncio.Task[None]) -> None:
    """Log a failure now, not after a drain of minutes. The reason a device was given up is logged already."""
    if task.done() and not task.cancelled() and (error := task.exception()) and not isinstance(error, SetupFailed):
        log.critical("background task failed", extra={"task": task.get_name()}, exc_info=error)


async def _force_stop_before_spot_end(components: Components, signals: Signals) -> None:
    await components.host.release_deadline()
    signals.force_stop.set()


def _handle_signals(settings: Settings, signals: Signals) -> None:
    """Install the signal handlers.

    The first of STOP_SIGNALS starts the drain, the second one cuts it short, and further ones have no effect. SIGUSR2
    toggles debug logging.
    """

    def handle(name: str) -> None:
        log.info("signal received", extra={"signal": name, "again": signals.stop.is_set()})
        if signals.stop.is_set():
            signals.force_stop.set()
        signals.stop.set()

    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            continue  # as started by nohup
        loop.add_signal_handler(number, handle, number.name)
    usual = "info" if settings.logging_level == "debug" else settings.logging_level
    loop.add_signal_handler(signal.SIGUSR2, toggle_debug, usual)
