"""All that the status page and /status.json say, at one moment. Secrets are no part of it."""

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
from daemon.health import Health
from daemon.metrics import Metrics
from daemon.runner import Runner
from daemon.runners import Runners
from daemon.status import JobInHand, Outcome, Record
from daemon.wording import cut_urls

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
    """Of one device. `device_name` to `models` are None until it was ready once."""

    device: str  # as the setting has it: cuda:0, cpu
    state: str
    since: float  # Unix time
    device_name: str | None
    compute_type: str | None
    models: dict[str, str] | None  # stage → name
    memory_bytes: dict[str, float]  # host, device: as of the last job
    restarts: dict[str, int]  # by reason


@dataclass(frozen=True, slots=True)
class QueueDepth:
    visible: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Receiving:
    """Whether messages are taken, and why not."""

    paused: str | None
    trouble: str | None  # of the last receive
    stalled: bool
    last_successful_poll: float | None  # Unix time
    depth: QueueDepth | None  # None: not known


@dataclass(frozen=True, slots=True)
class Setting:
    name: str
    value: str
    changed: bool  # from its default


@dataclass(frozen=True, slots=True)
class Snapshot:
    at: float  # Unix time
    daemon: DaemonState
    runners: list[RunnerInfo]
    receiving: Receiving
    jobs: list[JobInHand]
    outcomes: list[Outcome]
    settings: list[Setting]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Observer:
    """Takes snapshots."""

    def __init__(
        self,
        settings: Settings,
        health: Health,
        runners: Runners,
        metrics: Metrics,
        record: Record,
    ) -> None:
        self._worker_id = settings.worker_id
        self._settings = public_settings(settings)
        self._health = health
        self._runners = runners
        self._metrics = metrics
        self._record = record

    def snapshot(self) -> Snapshot:
        return Snapshot(
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
            jobs=self._record.jobs,
            outcomes=self._record.outcomes,
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
            trouble=cut_urls(poller.trouble) if poller and poller.trouble else None,
            stalled=not self._health.polls(),
            last_successful_poll=poller.last_successful_poll if poller else None,
            depth=self._depth(),
        )

    def _depth(self) -> QueueDepth | None:
        """As of the last time that SQS was asked (vitals.py)."""
        known = {
            sample.labels["state"]: int(sample.value)
            for family in self._metrics.queue_messages.collect()
            for sample in family.samples
            if sample.labels["queue"] == "jobs"
        }
        return QueueDepth(known["visible"], known["in_flight"]) if known else None


def public_settings(settings: Settings) -> list[Setting]:
    """The settings that hold no secret, in the order of config.py. What names a variable of AWS's is left out as well."""
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
    if name == "webhook_url":  # receivers may have their key in the path
        parts = urlsplit(str(value))
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
    if isinstance(value, tuple):
        if len(value) > MAX_ITEMS:
            return f"{len(value)} values"
        return ", ".join(_shown("", each) for each in value)
    return cut_urls(f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value))[:MAX_VALUE_CHARS]


def _values(metric: MetricWrapperBase, device: str, label: str) -> dict[str, float]:
    """Label → value of a gauge or a counter, of one device."""
    return {
        sample.labels[label]: sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created") and sample.labels["device"] == device
    }
