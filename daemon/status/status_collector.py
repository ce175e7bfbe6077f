"""Collects the status for the status page and /status.json. It contains no secrets."""

import os
import socket
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, get_args
from urllib.parse import urlsplit

from prometheus_client.metrics import MetricWrapperBase
from pydantic import SecretStr

from daemon.config import Settings, variable
from daemon.jobs.tracker import ActiveJob, JobTracker, Outcome
from daemon.runner import Runner
from daemon.runner_pool import Runners
from daemon.status.health import Health
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.redaction import redact_urls

MAX_ITEMS = 12
MAX_VALUE_CHARS = 300


@dataclass(frozen=True, slots=True)
class DaemonState:
    phase: str
    since: float  # Unix time
    version: str
    worker_id: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class RunnerInfo:
    """Runner of one device. `device_name`, `compute_type` and `models` are None until it is first ready."""

    device: str  # cuda:0, cpu
    state: str
    since: float  # Unix time
    device_name: str | None
    compute_type: str | None
    models: dict[str, str] | None  # stage → model
    memory_bytes: dict[str, float]  # host, device; as of the last job
    restarts: dict[str, int]  # by reason


@dataclass(frozen=True, slots=True)
class QueueDepth:
    visible: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Receiving:
    """State of receiving."""

    paused: str | None  # reason
    last_error: str | None  # error of the last receive
    stalled: bool
    last_successful_poll: float | None  # Unix time
    depths: dict[str, QueueDepth | None]  # by queue, the most urgent one first; None if unknown


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    value: str
    changed: bool  # from its default


@dataclass(frozen=True, slots=True)
class Status:
    at: float  # Unix time
    daemon: DaemonState
    runners: list[RunnerInfo]
    receiving: Receiving
    jobs: list[ActiveJob]
    outcomes: list[Outcome]
    settings: list[Setting]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class StatusCollector:
    def __init__(
        self,
        settings: Settings,
        health: Health,
        runners: Runners,
        metrics: Metrics,
        tracker: JobTracker,
    ) -> None:
        self._worker_id = settings.worker_id
        self._queues = [queue.name for queue in settings.queues]
        self._settings = public_settings(settings)
        self._health = health
        self._runners = runners
        self._metrics = metrics
        self._tracker = tracker

    def collect(self) -> Status:
        return Status(
            at=time.time(),
            daemon=DaemonState(
                phase=self._health.phase,
                since=self._health.phase_since,
                version=version("transcriptd"),
                worker_id=self._worker_id,
                host=socket.gethostname(),
                pid=os.getpid(),
            ),
            runners=[self._runner_info(runner) for runner in self._runners.each],
            receiving=self._receiving(),
            jobs=self._tracker.jobs,
            outcomes=self._tracker.outcomes,
            settings=self._settings,
        )

    def _runner_info(self, runner: Runner) -> RunnerInfo:
        info = runner.info
        memory = _values(self._metrics.runner_memory_bytes, runner.device.name, "where")
        restarts = _values(self._metrics.runner_restarts, runner.device.name, "reason")
        return RunnerInfo(
            device=runner.device.name,
            state=runner.state.value,
            since=runner.state_since,
            device_name=info.device_name if info else None,
            compute_type=info.compute_type if info else None,
            models=info.models if info else None,
            memory_bytes={where: size for where, size in memory.items() if size > 0},
            restarts={reason: int(count) for reason, count in restarts.items() if count > 0},
        )

    def _receiving(self) -> Receiving:
        poller = self._health.poller
        return Receiving(
            paused=self._health.receive_gate(),
            last_error=redact_urls(poller.last_error) if poller and poller.last_error else None,
            stalled=not self._health.polls(),
            last_successful_poll=poller.last_successful_poll if poller else None,
            depths={queue: self._depth(queue) for queue in self._queues},
        )

    def _depth(self, queue: str) -> QueueDepth | None:
        """Return the depth from the last successful poll of SQS (collectors.py)."""
        known = {
            sample.labels["state"]: int(sample.value)
            for family in self._metrics.queue_messages.collect()
            for sample in family.samples
            if sample.labels["queue"] == queue and sample.labels["kind"] == "jobs"
        }
        return QueueDepth(known["visible"], known["in_flight"]) if known else None


def public_settings(settings: Settings) -> list[Setting]:
    """Return the settings without secrets, in the order of config.py. Those read from AWS_* variables are left out."""
    return [
        Setting(variable(name), _shown(name, value), value != field.get_default(call_default_factory=True))
        for name, field in Settings.model_fields.items()
        if not _is_secret(field.annotation) and not variable(name).startswith("AWS_")
        for value in [getattr(settings, name)]
    ]


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


def _shown(name: str, value: object) -> str:
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if name == "webhook_url":  # the path may contain a key
        parts = urlsplit(str(value))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
    if isinstance(value, tuple):
        if len(value) > MAX_ITEMS:
            return f"{len(value)} values"
        return ", ".join(_shown("", each) for each in value)
    return redact_urls(f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value))[:MAX_VALUE_CHARS]


def _values(metric: MetricWrapperBase, device: str, label: str) -> dict[str, float]:
    """Return the values of a gauge or a counter for one device, by the label's value."""
    return {
        sample.labels[label]: sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created") and sample.labels["device"] == device
    }
