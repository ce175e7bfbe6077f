"""The life of the daemon: start-up, main loop, shutdown. Builds every part and hands each what it needs."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from daemon.config import Settings
from daemon.errors import SetupFailed
from daemon.health import Health, serve_http
from daemon.host import Host, open_host
from daemon.intake import Intake
from daemon.logs import on_loop_exception, toggle_debug
from daemon.media import Decoder
from daemon.metrics import Metrics
from daemon.outbox import OutboxWorker, open_outbox
from daemon.poller import Poller
from daemon.processor import Processor
from daemon.results import Results
from daemon.runners import Runners
from daemon.scratch import open_scratch
from daemon.snapshot import Observer
from daemon.spans import Tracer
from daemon.sqs import open_queue
from daemon.status import Record
from daemon.status_server import StatusServer
from daemon.storage import open_storage
from daemon.systemd import feed_watchdog, notify
from daemon.transcription import Transcriber
from daemon.vitals import watch_vitals
from daemon.webhook import WebhookSender
from daemon.wording import words_of

log = logging.getLogger("transcriptd.launcher")

EXIT_OK = 0
EXIT_FORCED = 1  # jobs had to be interrupted to leave in time; they were released
EXIT_HOST_ENDS = 75  # EX_TEMPFAIL: the instance is going away; starting again would only take jobs to lose them
EXIT_SETUP_FAILED = 70  # EX_SOFTWARE: no device can load the models

WEBHOOK_DRAIN_SECONDS = 30.0


async def serve(settings: Settings) -> int:
    """Run the daemon until it is told to stop; the exit status."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    _handle_signals(settings, stop, hurry)
    asyncio.get_running_loop().set_exception_handler(on_loop_exception)
    log.info("starting", extra={"version": version("transcriptd")})
    async with AsyncExitStack() as stack:
        # --- start-up: nothing is received before everything works
        metrics = Metrics()
        metrics.build.info({"version": version("transcriptd")})
        scratch = stack.enter_context(open_scratch(settings.scratch_dir))
        tracer = await stack.enter_async_context(_open_tracer(settings, metrics))
        host = await stack.enter_async_context(open_host(settings, metrics))
        queue = await stack.enter_async_context(open_queue(settings, metrics))
        storage = await stack.enter_async_context(open_storage(settings))
        decoder = await stack.enter_async_context(Decoder(scratch, metrics))
        results = Results(storage, settings.checkpoint_tag)
        runners = Runners(settings, metrics)
        health = Health(settings, runners, {"sqs": queue.ping, "s3": storage.ping})
        record = Record()
        status = StatusServer(Observer(settings, health, runners, metrics, record).snapshot)
        port = await stack.enter_async_context(serve_http(settings, health, metrics, status.attach))
        log.info("listening", extra={"host": settings.http_host, "port": port})
        outbox = await stack.enter_async_context(open_outbox(settings, metrics)) if settings.outbox_url else None
        depths = {"jobs": queue.depth, "dead_letter": queue.dead_letter_depth} | (
            {"outbox": outbox.depth} if outbox else {}
        )
        await stack.enter_async_context(watch_vitals(settings, metrics, runners, depths))
        webhooks = await stack.enter_async_context(
            WebhookSender(
                settings, metrics.observe_webhook, outbox=outbox, record=results.record_webhook, tracer=tracer
            )
        )
        outbox_worker: OutboxWorker | None = None
        if outbox is not None:
            # Before the runners: what waits there need not wait for models.
            outbox_worker = await stack.enter_async_context(
                OutboxWorker(settings, outbox, webhooks.attempt, metrics, results.record_webhook, results.webhook_known)
            )
        stack.push_async_callback(runners.stop)
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        interrupted = asyncio.create_task(host.interrupted(), name="interrupted")
        starting = asyncio.create_task(runners.start(), name="runners start")
        await asyncio.wait((starting, stopping, interrupted), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # before anything was received
            starting.cancel()
            if stopping.done():
                return EXIT_OK
            await host.leave()
            return EXIT_HOST_ENDS
        try:
            starting.result()
        except SetupFailed as error:
            log.critical("start-up failed", extra={"error": words_of(error), "detail": error.detail})
            await host.unfit(was_ready=False)
            return EXIT_SETUP_FAILED
        transcriber = Transcriber(
            settings,
            storage=storage,
            decoder=decoder,
            results=results,
            runners=runners,
            metrics=metrics,
            scratch=scratch,
        )
        processor = Processor(
            settings,
            queue=queue,
            results=results,
            transcriber=transcriber,
            webhooks=webhooks,
            metrics=metrics,
            record=record,
            tracer=tracer,
        )
        intake = Intake(
            settings.jobs_in_flight,
            batch_size=settings.batch_size,
            devices=lambda: runners.devices,
            jobs_waiting=lambda: runners.jobs_waiting,
        )
        poller = health.poller = Poller(settings, queue, processor, metrics, health.receive_gate, intake)

        # --- main loop
        health.phase = "running"
        log.info("ready")
        notify("READY=1")
        telling = asyncio.create_task(host.ready(), name="launch hook")
        watchdog = asyncio.create_task(feed_watchdog(health.polls), name="watchdog")
        runner_failed = asyncio.create_task(runners.failed(), name="runners failed")
        hurrying = asyncio.create_task(_hurry_at_last(host, hurry), name="last moment")
        polling, retired = await _poll(poller, host, (runner_failed, interrupted, stopping), settings.idle_exit_seconds)

        # --- shutdown: take no more, finish or release what is held, tell who is waiting
        health.phase = "draining"
        notify("STOPPING=1")
        log.info(
            "draining",
            extra={"jobs_in_flight": poller.jobs_in_flight, "timeout_seconds": settings.drain_timeout_seconds},
        )
        deadline = asyncio.get_running_loop().time() + settings.drain_timeout_seconds
        poller.quiet()
        if outbox_worker is not None:
            outbox_worker.stop()
        await asyncio.wait((polling,))
        if runner_failed.done():
            poller.leave()  # without a runner the jobs in hand can only wait: release them
        clean = await poller.drain(max(0.0, deadline - asyncio.get_running_loop().time()), hurry)
        leaving = retired or interrupted.done()
        for task in (stopping, interrupted, watchdog, hurrying, telling):
            task.cancel()
        undelivered = await webhooks.drain(0.0 if hurry.is_set() else WEBHOOK_DRAIN_SECONDS)
        log.info("stopped", extra={"clean": clean, "webhooks_undelivered": undelivered})
        if runner_failed.done():
            if lost := runner_failed.exception():
                log.critical("runner lost", extra={"error": words_of(lost)})
            await host.unfit(was_ready=True)
            return EXIT_SETUP_FAILED
        runner_failed.cancel()
        polling.result()  # an unexpected fault of the poller must not look like a clean exit
        if leaving:
            await host.leave()
            return EXIT_HOST_ENDS
        return EXIT_OK if clean else EXIT_FORCED


@asynccontextmanager
async def _open_tracer(settings: Settings, metrics: Metrics) -> AsyncIterator[Tracer]:
    if not settings.otlp_endpoint:
        yield Tracer()
        return
    from daemon.tracing import open_tracer  # OpenTelemetry: only for those who want it

    async with open_tracer(settings, metrics) as tracer:
        yield tracer


async def _poll(
    poller: Poller, host: Host, ends: tuple[asyncio.Task[Any], ...], idle_exit_seconds: float
) -> tuple[asyncio.Task[None], bool]:
    """Poll until one of the `ends`, or until the idle instance has ended itself. The poller's task, and whether it has."""
    while True:
        polling = asyncio.create_task(poller.run(), name="poller")
        idle = asyncio.create_task(poller.idle(idle_exit_seconds) if host.can_retire else asyncio.Event().wait())
        await asyncio.wait((polling, idle, *ends), return_when=asyncio.FIRST_COMPLETED)
        if not idle.done() or any(task.done() for task in (polling, *ends)):
            idle.cancel()
            return polling, False
        # Nothing may be in hand when the end is asked for: what a last receive brings is given back first.
        poller.quiet()
        await asyncio.wait((polling,))
        await poller.emptied()
        log.info("idle", extra={"idle_seconds": idle_exit_seconds})
        if await host.retire():
            return polling, True
        poller.resume()


async def _hurry_at_last(host: Host, hurry: asyncio.Event) -> None:
    await host.last_moment()
    hurry.set()


def _handle_signals(settings: Settings, stop: asyncio.Event, hurry: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT drains, a second one shortens the drain; any number of them is harmless.

    SIGUSR2 turns debug lines on, and off again.
    """

    def handle(name: str) -> None:
        log.info("signal received", extra={"signal": name, "again": stop.is_set()})
        if stop.is_set():
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number.name)
    usual = "info" if settings.logging_level == "debug" else settings.logging_level
    loop.add_signal_handler(signal.SIGUSR2, toggle_debug, usual)
