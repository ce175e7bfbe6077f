"""The composition root: builds the components of the daemon and injects their dependencies."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from daemon.aws.instance import Host, open_host
from daemon.aws.queues import Queues, open_queues
from daemon.aws.s3 import Storage, open_storage
from daemon.aws.sqs import Queue
from daemon.background import Supervisor, TaskName
from daemon.config import Settings
from daemon.job_queues import DEFAULT_NAME, OUTBOX
from daemon.jobs.brake import Brake, Brakes, Probe
from daemon.jobs.cancellation import Cancellation
from daemon.jobs.delivery import Resource
from daemon.jobs.job_status import StatusWriter
from daemon.jobs.late_outputs import LateOutputs
from daemon.jobs.processor import Processor
from daemon.jobs.publisher import Publisher
from daemon.jobs.receive_limiter import ReceiveLimiter
from daemon.jobs.result_store import ResultStore
from daemon.jobs.scratch import open_scratch
from daemon.jobs.tenant_limit import TenantLimit
from daemon.jobs.tracker import JobTracker
from daemon.jobs.transcriber import Transcriber
from daemon.media.decoder_pool import DecoderPool, max_decoders
from daemon.media.sandbox import LAYERS
from daemon.media.sandbox_probe import SandboxReport, require_sandbox
from daemon.poller import Poller
from daemon.runner_pool import Runners
from daemon.status.collectors import measure_when_scraped, watch_depths, watch_loop, watch_machine
from daemon.status.health import Health, serve_http
from daemon.status.nvml import watch_gpus
from daemon.status.server import StatusServer
from daemon.status.status_collector import StatusCollector
from daemon.telemetry.memory import total_bytes
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.spans import Tracer
from daemon.webhooks.event_bus import EventBus, open_event_bus
from daemon.webhooks.outbox import Outbox, OutboxWorker, open_outbox
from daemon.webhooks.sender import EventSender

log = logging.getLogger("transcriptd.launcher")


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Connections and resources outside the daemon, open and ready."""

    sandbox: SandboxReport
    scratch: Path
    tracer: Tracer
    host: Host
    queues: Queues
    storage: Storage
    decoder: DecoderPool
    outbox: Outbox | None
    event_bus: EventBus | None


@dataclass(frozen=True, slots=True)
class Components:
    """The assembled daemon, before it receives anything."""

    settings: Settings
    metrics: Metrics
    infra: Infrastructure
    runners: Runners
    health: Health
    brakes: Brakes
    processor: Processor
    events: EventSender
    outbox_worker: OutboxWorker | None
    supervisor: Supervisor

    @property
    def host(self) -> Host:
        return self.infra.host

    def build_poller(self) -> Poller:
        """Build the poller. Do this last: the stall timer of receiving starts here."""
        settings, queues = self.settings, self.infra.queues
        tenants = {
            queue.about.priority: TenantLimit(
                settings.max_jobs_per_tenant, queue, self.metrics, settings.queue_timeout_seconds
            )
            for queue in queues
        }
        limiter = ReceiveLimiter(
            settings.max_jobs_in_flight,
            batch_size=settings.batch_size,
            devices=lambda: self.runners.devices,
            jobs_waiting=lambda priority: self.runners.jobs_waiting(priority),
            jobs_at_limit=lambda priority: tenants[priority].jobs_at_limit,
        )
        gate = self.health.receive_gate
        self.health.poller = poller = Poller(settings, queues, self.processor, self.metrics, gate, limiter, tenants)
        return poller


@asynccontextmanager
async def open_components(settings: Settings) -> AsyncIterator[Components]:
    """Open the components. Raises ConfigError.

    On exit, they stop in this order: runners, outbox, background tasks, events, HTTP, connections.
    """
    async with AsyncExitStack() as stack:
        metrics = Metrics(settings.metrics_tenants)
        for queue in settings.queues:
            metrics.add_queue(queue.name)
        metrics.build.info({"version": version("transcriptd")})
        infra = await _open_infrastructure(stack, settings, metrics)
        results = ResultStore(
            infra.storage,
            settings.checkpoint_tag,
            own_bucket=settings.output_bucket,
            own_prefix=settings.output_prefix,
        )
        runners = Runners(settings, metrics)
        brakes = _build_brakes(settings, metrics, infra, results)
        health = Health(settings, runners, _pings(infra), brakes, infra.sandbox)
        tracker = JobTracker()
        status = StatusServer(StatusCollector(settings, health, runners, metrics, tracker).collect)
        port = await stack.enter_async_context(serve_http(settings, health, metrics, status.attach))
        log.info("listening", extra={"host": settings.http_host, "port": port})
        events = await stack.enter_async_context(_build_sender(settings, metrics, infra, results))
        job_status = StatusWriter(settings, infra.storage, metrics, tracker)
        stack.push_async_callback(job_status.close)
        components = Components(
            settings=settings,
            metrics=metrics,
            infra=infra,
            runners=runners,
            health=health,
            brakes=brakes,
            processor=_build_processor(settings, metrics, infra, results, runners, events, tracker, brakes, job_status),
            events=events,
            outbox_worker=_build_outbox_worker(settings, metrics, infra, results, events),
            supervisor=await stack.enter_async_context(Supervisor(metrics)),
        )
        _start_background_tasks(components)
        if components.outbox_worker is not None:
            stack.push_async_callback(components.outbox_worker.close)
        stack.push_async_callback(runners.stop)
        yield components


async def _open_infrastructure(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> Infrastructure:
    sandbox = await _require_sandbox(settings, metrics)
    scratch = stack.enter_context(open_scratch(settings.scratch_dir))
    decoder = DecoderPool(
        scratch,
        metrics,
        max_decoders=max_decoders(settings.decode_memory_bytes, total_bytes()),
        allow_weak_sandbox=settings.allow_weak_sandbox,
    )
    tracer = await stack.enter_async_context(_open_tracer(settings, metrics))
    return Infrastructure(
        sandbox=sandbox,
        scratch=scratch,
        tracer=tracer,
        host=await stack.enter_async_context(open_host(settings, metrics)),
        queues=await stack.enter_async_context(open_queues(settings, metrics)),
        storage=await stack.enter_async_context(open_storage(settings, metrics)),
        decoder=await stack.enter_async_context(decoder),
        outbox=await stack.enter_async_context(open_outbox(settings, metrics)) if settings.outbox_url else None,
        event_bus=await stack.enter_async_context(open_event_bus(settings, tracer)) if settings.event_bus else None,
    )


async def _require_sandbox(settings: Settings, metrics: Metrics) -> SandboxReport:
    report = await require_sandbox(allow_weak=settings.allow_weak_sandbox)
    for layer in LAYERS:
        metrics.decoder_sandbox_layer.labels(layer.name).set(layer.name not in report.missing)
    if report.weakness:
        log.error("sandbox is weak", extra={"error": report.weakness})
    return report


@asynccontextmanager
async def _open_tracer(settings: Settings, metrics: Metrics) -> AsyncIterator[Tracer]:
    if not settings.otlp_endpoint:
        yield Tracer()
        return
    from daemon.telemetry.tracing import open_tracer  # OpenTelemetry is slow to import

    async with open_tracer(settings, metrics) as tracer:
        yield tracer


def _build_sender(settings: Settings, metrics: Metrics, infra: Infrastructure, results: ResultStore) -> EventSender:
    return EventSender(
        settings,
        metrics.observe_event,
        event_bus=infra.event_bus,
        outbox=infra.outbox,
        record=results.record_webhook,
        tracer=infra.tracer,
    )


def _build_outbox_worker(
    settings: Settings, metrics: Metrics, infra: Infrastructure, results: ResultStore, events: EventSender
) -> OutboxWorker | None:
    if infra.outbox is None:
        return None
    return OutboxWorker(settings, infra.outbox, events.attempt, metrics, results.record_webhook, results.webhook_known)


def _pings(infra: Infrastructure) -> dict[str, Probe]:
    """Return the dependencies' probes, by their names in /readyz. A queue without a name is `sqs`."""
    pings: dict[str, Probe] = {"s3": infra.storage.ping}
    for queue in infra.queues:
        suffix = "" if queue.about.name == DEFAULT_NAME else f"_{queue.about.name}"
        pings |= {f"sqs{suffix}": queue.ping, f"dead_letter_queue{suffix}": queue.ping_dead_letters}
    return pings


def _build_brakes(settings: Settings, metrics: Metrics, infra: Infrastructure, results: ResultStore) -> Brakes:
    return Brakes(_build_brake(settings, metrics, infra, results, queue) for queue in infra.queues)


def _build_brake(
    settings: Settings, metrics: Metrics, infra: Infrastructure, results: ResultStore, queue: Queue
) -> Brake:
    probes: dict[Resource, Probe] = {
        Resource.STORAGE: results.probe,
        Resource.OUTPUT: results.probe,
        Resource.QUEUE: queue.probe_delete,
        Resource.DEAD_LETTER_QUEUE: queue.ping_dead_letters,
    }
    if infra.outbox is not None:
        probes[Resource.OUTBOX] = infra.outbox.ping
    at_start = {Resource.OUTPUT: infra.storage.ping, Resource.DEAD_LETTER_QUEUE: queue.ping_dead_letters}
    return Brake(settings.brake_after_failures, probes, metrics, queue=queue.about.name, at_start=at_start)


def _build_processor(
    settings: Settings,
    metrics: Metrics,
    infra: Infrastructure,
    results: ResultStore,
    runners: Runners,
    events: EventSender,
    tracker: JobTracker,
    brakes: Brakes,
    job_status: StatusWriter,
) -> Processor:
    transcriber = Transcriber(
        settings,
        storage=infra.storage,
        decoder=infra.decoder,
        results=results,
        runners=runners,
        metrics=metrics,
        scratch=infra.scratch,
    )
    return Processor(
        settings,
        queues=infra.queues,
        results=results,
        transcriber=transcriber,
        publisher=Publisher(settings, results, metrics, lambda: runners.devices),
        late_outputs=LateOutputs(infra.storage, results),
        status=job_status,
        cancellation=Cancellation(settings, infra.storage, job_status),
        events=events,
        metrics=metrics,
        tracker=tracker,
        tracer=infra.tracer,
        brake=brakes,
    )


def _start_background_tasks(components: Components) -> None:
    """Start the tasks that run until the daemon exits; the launcher starts its own."""
    settings, metrics, infra, runners = components.settings, components.metrics, components.infra, components.runners
    depths = {}
    for queue in infra.queues:
        depths[queue.about.name, "jobs"] = queue.depth
        depths[queue.about.name, "dead_letter"] = queue.dead_letter_depth
    if infra.outbox is not None:
        depths[OUTBOX, "outbox"] = infra.outbox.depth
    measure_when_scraped(settings, metrics, runners)
    start = components.supervisor.start
    start(TaskName.INTERRUPTION_WATCH, infra.host.watch)
    start(TaskName.TERMINATION_HOOK, infra.host.keep_termination_hook, ends=True)
    start(TaskName.BRAKE, components.brakes.run)
    start(TaskName.LATE_OUTCOMES, components.processor.late_outcomes.run)
    start(TaskName.QUEUE_DEPTHS, lambda: watch_depths(metrics, depths))
    start(TaskName.MACHINE, lambda: watch_machine(settings, metrics, runners))
    start(TaskName.EVENT_LOOP_LAG, lambda: watch_loop(metrics))
    start(TaskName.GPUS, lambda: watch_gpus(metrics), ends=True)
    if components.outbox_worker is not None:  # pending events need not wait for the models
        start(TaskName.OUTBOX, components.outbox_worker.run, ends=True)
