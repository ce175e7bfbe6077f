"""Readiness: each failing check makes the daemon unready and reports its reason; some of them pause receiving."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.jobs.brake import Brake, Brakes
from daemon.media.sandbox_probe import SandboxReport
from daemon.runner_pool import Runners
from daemon.status import connections
from daemon.status.health import PING_TIMEOUT_SECONDS, Health, serve_http
from daemon.supervisor.state import RunnerState
from daemon.telemetry.metrics import Metrics
from tests.support.time.virtual import in_virtual_time

MakeSettings = Callable[..., Settings]
MORE_THAN_ANY_DISK = 2**62


@dataclass
class Devices:
    """The runners, as far as the health checks use them."""

    state: RunnerState = RunnerState.READY
    each: tuple[Any, ...] = ()


@dataclass
class FakePoller:
    last_successful_poll: float | None = 1.0
    silent_seconds: float = 0.0
    last_error: str | None = None
    stalled_seconds: float = 0.0


async def answers() -> None:
    return


async def refuses() -> None:
    raise QueueUnavailable("SQS GetQueueAttributes failed: AccessDenied")


async def hangs() -> None:
    await asyncio.sleep(3600)


def healthy(
    settings: Settings,
    devices: Devices | None = None,
    pings: dict[str, Callable[[], Awaitable[None]]] | None = None,
    brake: Brake | None = None,
) -> tuple[Health, FakePoller]:
    """Return a healthy daemon with the given pings."""
    settings.scratch_dir.mkdir(exist_ok=True)
    health = Health(
        settings,
        cast(Runners, devices or Devices()),
        {"sqs": answers, "s3": answers, **(pings or {})},
        Brakes([brake or Brake(1, {}, Metrics())]),
        SandboxReport({}),
    )
    health.phase = "running"
    health.poller = polls = FakePoller()
    return health, polls


async def failing(health: Health) -> dict[str, Any]:
    """Return the failing checks, after asserting that they alone decide readiness."""
    ready, checks = await health.report()
    bad = {name: check for name, check in checks.items() if not check["ok"]}
    assert ready == (not bad)
    assert set(checks) == {"phase", "runner", "disk", "sandbox", "brake", "poll", "sqs", "s3"}
    return bad


async def test_engaged_brake_is_reported(make_settings: MakeSettings) -> None:
    reason = "the output bucket fails for every job: access denied"
    health, _ = healthy(make_settings(), brake=cast(Brake, SimpleNamespace(queue="jobs", reason=reason)))
    assert await failing(health) == {"brake": {"ok": False, "error": reason}}
    assert health.receive_gate() == reason


async def test_all_checks_pass(make_settings: MakeSettings) -> None:
    health, _ = healthy(make_settings())
    assert await failing(health) == {}
    assert health.receive_gate() is None


@pytest.mark.parametrize("phase", ["starting", "draining"])
async def test_only_a_running_daemon_is_ready(make_settings: MakeSettings, phase: str) -> None:
    health, _ = healthy(make_settings())
    health.phase = phase
    assert set(await failing(health)) == {"phase"}


@pytest.mark.parametrize("state", RunnerState)
async def test_at_least_one_device_must_work(make_settings: MakeSettings, state: RunnerState) -> None:
    health, _ = healthy(make_settings(), Devices(state))
    works = state in (RunnerState.READY, RunnerState.BUSY)
    assert set(await failing(health)) == (set() if works else {"runner"})
    assert health.receive_gate() == (None if works else f"runner is {state}")


async def test_full_disk_is_reported_and_pauses_receiving(make_settings: MakeSettings) -> None:
    health, _ = healthy(make_settings(min_free_bytes=MORE_THAN_ANY_DISK))
    assert set(await failing(health)) == {"disk"}
    assert health.receive_gate() == "scratch disk is nearly full"


async def test_polling_that_stalls_or_never_worked_is_reported(make_settings: MakeSettings) -> None:
    settings = make_settings()
    health, polls = healthy(settings)
    polls.stalled_seconds, polls.last_error = settings.poll_stall_seconds, "SQS ReceiveMessage failed"
    assert (await failing(health))["poll"]["error"] == "SQS ReceiveMessage failed"
    assert not health.polls()
    polls.stalled_seconds, polls.last_successful_poll = 0.0, None
    assert set(await failing(health)) == {"poll"}


@pytest.mark.parametrize("name", ["sqs", "s3"])
async def test_failing_dependency_is_named_with_its_message(make_settings: MakeSettings, name: str) -> None:
    health, _ = healthy(make_settings(), pings={name: refuses})
    for _ in range(2):  # cached
        assert await failing(health) == {
            name: {"ok": False, "error": "SQS GetQueueAttributes failed: AccessDenied"},
        }


@in_virtual_time
async def test_hung_dependency_is_not_ok(make_settings: MakeSettings) -> None:
    health, _ = healthy(make_settings(), pings={"s3": hangs})
    assert await failing(health) == {"s3": {"ok": False, "error": f"no response within {PING_TIMEOUT_SECONDS:g} s"}}


async def test_probe_answers_503_with_the_reason_and_200_after_recovery(make_settings: MakeSettings) -> None:
    settings = make_settings(http_port=0)
    health, polls = healthy(settings)
    async with (
        serve_http(settings, health, Metrics(), lambda _: None) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        polls.last_successful_poll, polls.last_error = None, "SQS ReceiveMessage failed"
        for status in (503, 200):
            async with http.get("/readyz") as response:
                answer = json.loads(await response.text())
            assert (response.status, answer["ready"]) == (status, status == 200)
            assert answer["checks"]["poll"]["error"] == polls.last_error
            polls.last_successful_poll, polls.last_error = 1.0, None
        async with http.get("/healthz") as response:
            assert response.status == 200


# --- hostile clients ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(
    settings: Settings, pings: dict[str, Callable[[], Awaitable[None]]] | None = None
) -> AsyncIterator[str]:
    """Serve the probes of a healthy daemon; return the address."""
    health, _ = healthy(settings, pings=pings)
    async with serve_http(settings, health, Metrics(), lambda _: None) as port:
        yield f"http://127.0.0.1:{port}"


async def connect(address: str, text: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    writer.write(text)
    await writer.drain()
    return reader, writer


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait for the end of a connection."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(ConnectionResetError):
            await reader.read()
    return True


HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("text", [b"", b"GET", HEAD, HEAD + b"\r\n" + HEAD], ids=["none", "word", "line", "second"])
async def test_unfinished_request_ends_its_connection(
    text: bytes, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_SECONDS", 0.2)
    async with served(make_settings(http_port=0)) as address:
        reader, writer = await connect(address, text)
        assert await is_closed(reader)
        writer.close()


async def test_slowly_sent_request_ends_its_connection(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_SECONDS", 0.5)
    async with served(make_settings(http_port=0)) as address:
        reader, writer = await connect(address, HEAD)
        closed = asyncio.create_task(is_closed(reader))
        while not closed.done():
            writer.write(b"a")
            await asyncio.sleep(0.05)
        assert closed.result()
        writer.close()


async def test_response_that_is_not_read_ends_its_connection(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WRITE_TIMEOUT_SECONDS", 0.5)
    async with served(make_settings(http_port=0)) as address:
        port = int(address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = HEAD.replace(b"/healthz", b"/metrics") + b"\r\n"
            client.setblocking(False)

            async def send_without_reading() -> None:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    for _ in itertools.count():
                        with suppress(BlockingIOError):
                            client.send(request * 100)
                        await asyncio.sleep(0.01)

            with pytest.raises(ConnectionError):
                await send_without_reading()


async def test_silent_clients_lock_nobody_out(make_settings: MakeSettings) -> None:
    """Descriptors ran out with half-open requests."""
    async with served(make_settings(http_port=0)) as address, aiohttp.ClientSession() as session:
        silent = [await connect(address, HEAD) for _ in range(connections.MAX_CONNECTIONS * 2)]
        async with session.get(f"{address}/healthz") as response:
            assert response.status == 200
        closed = [await is_closed(reader) for reader, _ in silent[: connections.MAX_CONNECTIONS]]
        assert all(closed), "the oldest make room"
        for _, writer in silent:
            writer.close()


async def test_simultaneous_probes_share_their_calls_to_aws(make_settings: MakeSettings) -> None:
    calls = 0

    async def ping() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)

    async with served(make_settings(http_port=0), {"sqs": ping}) as address, aiohttp.ClientSession() as session:

        async def probe() -> int:
            async with session.get(f"{address}/readyz") as response:
                return response.status

        assert await asyncio.gather(*(probe() for _ in range(50))) == [200] * 50
    assert calls == 1


@pytest.mark.parametrize(("hosts", "status"), [("", 403), ("probe.example,Transcriptd.Default.svc", 200), ("*", 200)])
async def test_further_host_names_are_a_setting(make_settings: MakeSettings, hosts: str, status: int) -> None:
    async with served(make_settings(http_port=0, http_hosts=hosts)) as address, aiohttp.ClientSession() as session:
        headers = {"Host": "transcriptd.default.svc"}
        async with session.get(f"{address}/metrics", headers=headers) as response:
            assert response.status == status


async def test_failing_daemon_does_not_wait_for_its_http_clients(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since Python 3.12, a server that is closed may wait for the end of its connections."""
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_SECONDS", 3600.0)

    async def fail() -> None:
        async with served(make_settings(http_port=0)) as address:
            _, client = await connect(address, HEAD)
            assert not client.is_closing()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(fail(), PATIENCE_SECONDS)
