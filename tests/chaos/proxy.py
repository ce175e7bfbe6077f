"""The network between the daemons and AWS: an HTTP proxy that can lose, delay, truncate and reject calls.

Every daemon has its own port, so that the network can fail for one of them and each call can be attributed to its
caller. The proxy records the calls that reached AWS, independently of the daemons.
"""

import asyncio
import fnmatch
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

from tests.chaos.answers import HOP_BY_HOP, Lie, abort, expired_key, made_up, shorten, without_hops
from tests.chaos.credentials import KeyUse, key_of
from tests.chaos.schedule import PAST_THE_LEASE_SECONDS, Fault, Moment
from tests.chaos.traffic import Disturbance, Traffic

__all__ = ["HOP_BY_HOP", "Lie", "Proxy", "call_name"]

LATENCY_SECONDS = 2.0
TRUSTED = "harness"  # a caller whose calls never fail


def call_name(method: str, path: str, target: str | None) -> str:
    """Return the name of a call: `sqs:DeleteMessage`, `events:PutEvents`, or `s3:PUT:manifest.json` from the method
    and the last part of the key."""
    if target:
        service, _, name = target.rpartition(".")
        return f"{'events' if service == 'AWSEvents' else 'sqs'}:{name}"
    return f"s3:{method}:{path.partition('?')[0].rpartition('/')[2]}"


@dataclass(frozen=True, slots=True)
class _Call:
    """A call with its two names, either of which a pattern may match: `s3:PUT:manifest.json` and
    `s3:PUT:results/transcripts/job-1/manifest.json`, `sqs:SendMessage` and `sqs:SendMessage:transcriptd-dlq`."""

    name: str
    full_name: str
    is_sqs: bool
    parameters: dict[str, Any]  # of a call to SQS

    def matches(self, pattern: str) -> bool:
        return fnmatch.fnmatch(self.name, pattern) or fnmatch.fnmatch(self.full_name, pattern)


def _parse(request: web.Request, body: bytes) -> _Call:
    target = request.headers.get("x-amz-target")
    name = call_name(request.method, request.path, target)
    if not target:
        return _Call(name, f"s3:{request.method}:{request.path.lstrip('/')}", is_sqs=False, parameters={})
    parameters: dict[str, Any] = json.loads(body or b"{}")
    queue = str(parameters.get("QueueUrl", "")).rpartition("/")[2]
    return _Call(name, f"{name}:{queue}", is_sqs=True, parameters=parameters)


@dataclass(frozen=True, slots=True)
class _Fault:
    caller: str | None
    calls: str
    fault: Fault | Lie
    until: float


@dataclass(frozen=True, slots=True)
class _Trap:
    calls: str
    moment: Moment
    skip: int


class Proxy:
    """`with Proxy(aws_url, callers, kill) as proxy:` runs in a thread; `proxy.urls[caller]` is the endpoint for a
    caller.

    `kill(caller)` is called in that thread when a trap is triggered; it must be quick.
    """

    def __init__(self, upstream: str, callers: list[str], kill: Callable[[str], None]) -> None:
        self._upstream = upstream
        self._callers = [TRUSTED, *callers]
        self._kill = kill
        self._faults: list[_Fault] = []
        self._traps: list[_Trap] = []
        self.urls: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.faults_injected: Counter[str] = Counter()
        self.traps_sprung: Counter[str] = Counter()
        self.traffic = Traffic()
        self.refused_keys: set[str] = set()  # access keys that have expired
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="chaos proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError("the proxy does not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        self._loop.close()

    # --- faults: may be called from any thread

    def fail(self, calls: str, fault: Fault | Lie, seconds: float, caller: str | None = None) -> None:
        """Let matching calls fail for a while, or for good with `math.inf`."""
        now = time.monotonic()
        kept = [each for each in self._faults if each.until > now]
        self._faults = sorted([*kept, _Fault(caller, calls, fault, now + seconds)], key=lambda each: -each.until)

    def trap(self, calls: str, moment: Moment, *, skip: int = 0) -> None:
        """Kill the caller of a matching call at that call, after letting `skip` matching calls through."""
        self._traps.append(_Trap(calls, moment, skip))

    def calm(self) -> None:
        """End the faults. Traps that were not triggered remain, and so do faults for good."""
        self._faults = [fault for fault in self._faults if fault.until == math.inf]

    def disarm(self) -> None:
        """Remove the traps."""
        self._traps = []

    # --- server

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        # moto's lists and conditional writes are not thread-safe, unlike the real services.
        self._one_at_a_time = asyncio.Lock()
        runners: list[web.AppRunner] = []
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False, skip_auto_headers=["Accept-Encoding"]
        ) as self._session:
            try:
                for caller in self._callers:
                    app = web.Application(client_max_size=64 * 1024 * 1024)
                    app.router.add_route("*", "/{path:.*}", self._handler(caller))
                    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
                    runners.append(runner)
                    await runner.setup()
                    await web.TCPSite(runner, "127.0.0.1", 0).start()
                    self.urls[caller] = f"http://127.0.0.1:{runner.addresses[0][1]}"
                self._ready.set()
                await self._stop.wait()
            finally:
                for runner in runners:
                    await runner.cleanup()

    def _handler(self, caller: str) -> Callable[[web.Request], "asyncio.Future[web.StreamResponse]"]:
        async def handle(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            call = _parse(request, body)
            self.calls[call.name.partition(":")[0]] += 1
            if caller == TRUSTED:
                return await self._forward(caller, request, body)
            now = time.monotonic()
            if key := key_of(request.headers.get("Authorization")):
                self.traffic.key_uses[caller] = KeyUse(key, now)
            if key in self.refused_keys:
                self._disturb(caller, call, "expired key")
                return expired_key(is_sqs=call.is_sqs)
            trap = next((trap for trap in self._traps if call.matches(trap.calls)), None)
            if trap is not None and trap.skip:
                self._traps[self._traps.index(trap)] = replace(trap, skip=trap.skip - 1)
            elif trap is not None:
                self._traps.remove(trap)
                self.traps_sprung[f"{trap.moment} {trap.calls}"] += 1
                return await self._spring(trap.moment, caller, request, body)
            for fault in self._faults:
                if fault.until > now and fault.caller in (None, caller) and call.matches(fault.calls):
                    self._disturb(caller, call, fault.fault)
                    return await self._misbehave(fault.fault, call, caller, request, body)
            return await self._deliver(call, caller, request, body)

        return handle  # type: ignore[return-value]

    def _disturb(self, caller: str, call: _Call, how: str) -> None:
        self.faults_injected[how] += 1
        self.traffic.disturbances.append(Disturbance(time.monotonic(), caller, call.full_name))

    async def _spring(self, moment: Moment, caller: str, request: web.Request, body: bytes) -> web.StreamResponse:
        if moment is Moment.AFTER:
            await self._forward(caller, request, body)
        self._kill(caller)
        if moment is Moment.LATE:
            # Packets in flight survive their sender.
            await asyncio.sleep(PAST_THE_LEASE_SECONDS)
            await self._forward(caller, request, body)
        return abort(request)

    async def _misbehave(
        self, fault: Fault | Lie, call: _Call, caller: str, request: web.Request, body: bytes
    ) -> web.StreamResponse:
        if answer := made_up(fault, is_sqs=call.is_sqs):
            return answer
        match fault:
            case Fault.LATENCY:
                await asyncio.sleep(LATENCY_SECONDS)
                return await self._deliver(call, caller, request, body)
            case Fault.BLACK_HOLE:
                await asyncio.sleep(PAST_THE_LEASE_SECONDS)
            case Fault.LOST_ANSWER:
                await self._forward(caller, request, body)
            case Fault.SHORT_RANGE:
                return shorten(await self._forward(caller, request, body))
            case Fault.CUT_ANSWER:
                answer = await self._forward(caller, request, body)
                content = answer.body if isinstance(answer.body, bytes) else b""
                if len(content) >= 2:
                    cut = web.StreamResponse(status=answer.status, headers=answer.headers)
                    cut.content_length = len(content)
                    await cut.prepare(request)
                    await cut.write(content[: len(content) // 2])
                    abort(request)
                    return cut
        return abort(request)

    async def _deliver(self, call: _Call, caller: str, request: web.Request, body: bytes) -> web.Response:
        answer = await self._forward(caller, request, body)
        if call.is_sqs and isinstance(answer.body, bytes):
            operation = call.name.partition(":")[2]
            self.traffic.note_answer(caller, operation, call.parameters, answer.status, answer.body)
        return answer

    async def _forward(self, caller: str, request: web.Request, body: bytes) -> web.Response:
        conditional = "If-None-Match" in request.headers or "If-Match" in request.headers
        target = request.headers.get("x-amz-target")
        lists_or_deletes = request.method == "POST" or "list-type" in request.query
        if conditional or (lists_or_deletes and not target) or (target and not target.endswith("ReceiveMessage")):
            async with self._one_at_a_time:
                return await self._pass_on(caller, request, body)
        return await self._pass_on(caller, request, body)

    async def _pass_on(self, caller: str, request: web.Request, body: bytes) -> web.Response:
        headers = without_hops(request.headers)
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as response:
            content = await response.read()
        if request.method == "PUT" and response.status == HTTPStatus.OK:
            self.traffic.note_write(caller, request.path.lstrip("/"), body, response.headers.get("ETag", "").strip('"'))
        return web.Response(status=response.status, headers=without_hops(response.headers), body=content)
