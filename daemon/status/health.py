"""The probes: /metrics, /healthz (the process is alive) and /readyz (it can process jobs; lists every check)."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from daemon.config import Settings
from daemon.environment import is_offline
from daemon.errors import ConfigError, TranscriptdError
from daemon.jobs.brake import Brakes
from daemon.media.sandbox_probe import SandboxReport
from daemon.runner import Runner
from daemon.runner_pool import Runners
from daemon.status.connections import Connections
from daemon.status.hosts import reject_unknown_hosts
from daemon.supervisor.state import RunnerState
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.openmetrics import OpenMetrics

PING_PERIOD_SECONDS = 10.0
PING_TIMEOUT_SECONDS = 5.0
KEEPALIVE_SECONDS = 75.0  # between the requests of a client; longer than the usual interval of a scraper
SHUTDOWN_TIMEOUT_SECONDS = 1.0  # for responses in progress; aiohttp's default of a minute would delay the exit


class PollerStatus(Protocol):
    last_successful_poll: float | None

    @property
    def last_error(self) -> str | None: ...

    @property
    def stalled_seconds(self) -> float: ...

    @property
    def silent_seconds(self) -> float: ...


class Health:
    """Health of the daemon. The launcher sets the phase and the poller during start-up."""

    def __init__(
        self,
        settings: Settings,
        runners: Runners,
        pings: dict[str, Callable[[], Awaitable[None]]],
        brakes: Brakes,
        sandbox: SandboxReport,
    ) -> None:
        """`pings` maps each dependency (sqs, s3) to a call that raises if it is unavailable."""
        self._brakes = brakes
        self._sandbox = sandbox
        self._settings = settings
        self._runners = runners
        self._pings = pings
        self._turns = {name: asyncio.Lock() for name in pings}
        self._pinged: dict[str, tuple[float, str | None]] = {}
        self._phase, self.phase_since = "starting", time.time()  # Unix time
        self.poller: PollerStatus | None = None

    @property
    def phase(self) -> str:
        """Life-cycle phase: starting → running → draining."""
        return self._phase

    @phase.setter
    def phase(self, phase: str) -> None:
        self._phase, self.phase_since = phase, time.time()

    def receive_gate(self, queue: str | None = None) -> str | None:
        """Return the reason why receiving is paused, from the named queue or any, or None."""
        if not self._runs():
            return f"runner is {self._runners.state}"
        if self.free_bytes() < self._settings.min_free_bytes:
            return "scratch disk is nearly full"
        return self._brakes.reason(queue)

    def _runs(self) -> bool:
        """Whether at least one device can take jobs."""
        return self._runners.state in (RunnerState.READY, RunnerState.BUSY)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._settings.scratch_dir).free

    def polls(self) -> bool:
        """Whether receiving from every queue makes progress. Decides readiness."""
        return self.poller is None or self.poller.stalled_seconds < self._settings.poll_stall_seconds

    def is_alive(self) -> bool:
        """Whether receiving from any queue makes progress. Decides the systemd watchdog: a restart would not bring back a
        queue that is gone, and would interrupt the jobs of the others."""
        return self.poller is None or self.poller.silent_seconds < self._settings.poll_stall_seconds

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the daemon is ready, and the result of every check."""
        checks: dict[str, dict[str, Any]] = {
            "phase": {"ok": self.phase == "running", "value": self.phase},
            "runner": {
                "ok": self._runs(),
                "state": self._runners.state.value,
                "devices": {runner.device.name: _describe(runner) for runner in self._runners.each},
            },
            "disk": {"ok": self.free_bytes() >= self._settings.min_free_bytes, "free_bytes": self.free_bytes()},
            "poll": self._poll_check(),
            # A weak sandbox was allowed by a setting: it is reported, and the daemon is ready.
            "sandbox": {
                "ok": True,
                "missing": sorted(self._sandbox.missing),
                "error": self._sandbox.weakness,
                "runner_network": not is_offline(),
            },
            "brake": {"ok": self._brakes.reason() is None, "error": self._brakes.reason()},
        }
        results = await asyncio.gather(*(self._ping(name) for name in self._pings))
        checks |= {
            name: {"ok": error is None, "error": error} for name, error in zip(self._pings, results, strict=True)
        }
        return all(check["ok"] for check in checks.values()), checks

    def _poll_check(self) -> dict[str, Any]:
        last = self.poller.last_successful_poll if self.poller else None
        return {
            "ok": last is not None and self.polls(),
            "last_success_age_seconds": None if last is None else round(time.time() - last, 1),
            "stalled_seconds": round(self.poller.stalled_seconds, 1) if self.poller else None,
            "error": self.poller.last_error if self.poller else None,
        }

    async def _ping(self, name: str) -> str | None:
        """Return the dependency's error, or None.

        Results are cached for a few seconds, and simultaneous requests share one, to limit the calls to AWS.
        """
        async with self._turns[name]:
            at, error = self._pinged.get(name, (float("-inf"), None))
            if time.monotonic() - at < PING_PERIOD_SECONDS:
                return error
            try:
                async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                    await self._pings[name]()
                error = None
            except TimeoutError:
                error = f"no response within {PING_TIMEOUT_SECONDS:g} s"
            except TranscriptdError as failure:
                error = failure.message
            self._pinged[name] = (time.monotonic(), error)
            return error


def _describe(runner: Runner) -> dict[str, Any]:
    info = runner.info
    return {
        "state": runner.state.value,
        "device_name": info.device_name if info else None,
        "compute_type": info.compute_type if info else None,
        "models": info.models if info else None,
    }


@asynccontextmanager
async def serve_http(
    settings: Settings, health: Health, metrics: Metrics, attach: Callable[[web.Application], None]
) -> AsyncIterator[int]:
    """Serve HTTP until the context exits. Yields the port. `attach` adds further routes. Raises ConfigError."""

    async def get_metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        asked_for_openmetrics = content_type.startswith("application/openmetrics-text")
        registry = OpenMetrics(metrics.registry) if asked_for_openmetrics else metrics.registry
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def get_healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def get_readyz(_: web.Request) -> web.Response:
        ready, checks = await health.report()
        return web.json_response({"ready": ready, "checks": checks}, status=200 if ready else 503)

    app = web.Application(middlewares=[reject_unknown_hosts(settings.http_hosts)])
    app.add_routes([web.get("/metrics", get_metrics), web.get("/healthz", get_healthz), web.get("/readyz", get_readyz)])
    attach(app)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS, keepalive_timeout=KEEPALIVE_SECONDS
    )
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the HTTP server was set up and does not exist")
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                Connections(runner.server), settings.http_host, settings.http_port, reuse_address=True
            )
        except OSError as error:
            address = f"{settings.http_host} port {settings.http_port}"
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise ConfigError(
                f"TRANSCRIPTD_HTTP_HOST, TRANSCRIPTD_HTTP_PORT: cannot listen on {address}: {reason}"
            ) from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()
