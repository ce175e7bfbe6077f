"""The network between the daemons and AWS: an HTTP proxy that can lose, delay, truncate and reject calls.

Every daemon has its own port, so that the network can fail for one of them and each call can be attributed to its
caller. The proxy records the calls that reached AWS, independently of the daemons.
"""

import asyncio
import fnmatch
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.chaos.schedule import PAST_THE_LEASE_SECONDS, Fault, Moment

HOP_BY_HOP = ("host", "connection", "transfer-encoding", "expect", "keep-alive", "content-length")
LATENCY_SECONDS = 2.0
CUT_OFF = b'{"Messages": [{"MessageId": "b8f6", "Body": "{\\"job'
TRUSTED = "harness"  # a caller whose calls never fail


def call_name(method: str, path: str, target: str | None) -> str:
    """Return the name of a call: `sqs:DeleteMessage`, or `s3:PUT:manifest.json` from the method and the last part of
    the key."""
    if target:
        return f"sqs:{target.rpartition('.')[2]}"
    return f"s3:{method}:{path.partition('?')[0].rpartition('/')[2]}"


class Lie(StrEnum):
    """An invalid response with status 200. The call never reaches AWS."""

    PAGE = "page"  # HTML, as captive portals answer
    CUT_OFF = "cut off"  # the start of a JSON document with a matching Content-Length
    EMPTY = "empty"
    BINARY = "binary"


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


@dataclass(frozen=True, slots=True)
class Write:
    """An object that AWS stored."""

    at: float  # monotonic
    caller: str
    key: str  # including the bucket


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
        self.writes: list[Write] = []
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
        """Let matching calls fail for a while."""
        self._faults = [*self._faults, _Fault(caller, calls, fault, time.monotonic() + seconds)]

    def trap(self, calls: str, moment: Moment, *, skip: int = 0) -> None:
        """Kill the caller of a matching call at that call, after letting `skip` matching calls through."""
        self._traps.append(_Trap(calls, moment, skip))

    def calm(self) -> None:
        """End the faults. Traps that were not triggered remain."""
        self._faults = []

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
            call = call_name(request.method, request.path, request.headers.get("x-amz-target"))
            self.calls[call.partition(":")[0]] += 1
            body = await request.read()
            if caller == TRUSTED:
                return await self._forward(caller, request, body)
            trap = next((trap for trap in self._traps if fnmatch.fnmatch(call, trap.calls)), None)
            if trap is not None and trap.skip:
                self._traps[self._traps.index(trap)] = replace(trap, skip=trap.skip - 1)
            elif trap is not None:
                self._traps.remove(trap)
                self.traps_sprung[f"{trap.moment} {trap.calls}"] += 1
                return await self._spring(trap.moment, caller, request, body)
            now = time.monotonic()
            for fault in self._faults:
                if fault.until > now and fault.caller in (None, caller) and fnmatch.fnmatch(call, fault.calls):
                    self.faults_injected[fault.fault] += 1
                    return await self._misbehave(fault, caller, request, body)
            return await self._forward(caller, request, body)

        return handle  # type: ignore[return-value]

    async def _spring(self, moment: Moment, caller: str, request: web.Request, body: bytes) -> web.StreamResponse:
        if moment is Moment.AFTER:
            await self._forward(caller, request, body)
        self._kill(caller)
        if moment is Moment.LATE:
            # Packets in flight survive their sender.
            await asyncio.sleep(PAST_THE_LEASE_SECONDS)
            await self._forward(caller, request, body)
        return _abort(request)

    async def _misbehave(self, fault: _Fault, caller: str, request: web.Request, body: bytes) -> web.StreamResponse:
        is_sqs = "x-amz-target" in request.headers
        match fault.fault:
            case Fault.ERROR:
                return _refusal(is_sqs, HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError")
            case Fault.SLOW_DOWN:
                return _refusal(is_sqs, HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailable" if is_sqs else "SlowDown")
            case Fault.THROTTLED:
                return _refusal(is_sqs, HTTPStatus.BAD_REQUEST, "RequestThrottled" if is_sqs else "RequestTimeout")
            case Fault.GARBAGE:
                return web.Response(status=HTTPStatus.BAD_GATEWAY, text="<html>\0not what you asked for")
            case Fault.LATENCY:
                await asyncio.sleep(LATENCY_SECONDS)
                return await self._forward(caller, request, body)
            case Fault.BLACK_HOLE:
                await asyncio.sleep(PAST_THE_LEASE_SECONDS)
                return _abort(request)
            case Fault.RESET:
                return _abort(request)
            case Lie.PAGE:
                return web.Response(text="<html><body>Please log in</body></html>", content_type="text/html")
            case Lie.CUT_OFF:
                return web.Response(body=CUT_OFF, content_type="application/x-amz-json-1.0")
            case Lie.EMPTY:
                return web.Response()
            case Lie.BINARY:
                return web.Response(body=bytes(range(128, 256)))
            case Fault.LOST_ANSWER:
                await self._forward(caller, request, body)
                return _abort(request)
            case Fault.SHORT_RANGE:
                return _shorten(await self._forward(caller, request, body))
            case Fault.CUT_ANSWER:
                answer = await self._forward(caller, request, body)
                content = answer.body if isinstance(answer.body, bytes) else b""
                if len(content) < 2:
                    return _abort(request)
                cut = web.StreamResponse(status=answer.status, headers=answer.headers)
                cut.content_length = len(content)
                await cut.prepare(request)
                await cut.write(content[: len(content) // 2])
                _abort(request)
                return cut

    async def _forward(self, caller: str, request: web.Request, body: bytes) -> web.Response:
        conditional = "If-None-Match" in request.headers or "If-Match" in request.headers
        target = request.headers.get("x-amz-target")
        if conditional or (target and not target.endswith("ReceiveMessage")):
            async with self._one_at_a_time:
                return await self._pass_on(caller, request, body)
        return await self._pass_on(caller, request, body)

    async def _pass_on(self, caller: str, request: web.Request, body: bytes) -> web.Response:
        headers = _without_hops(request.headers)
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as response:
            content = await response.read()
        if request.method == "PUT" and response.status == HTTPStatus.OK:
            self.writes.append(Write(time.monotonic(), caller, request.path.lstrip("/")))
        return web.Response(status=response.status, headers=_without_hops(response.headers), body=content)


def _without_hops(headers: Mapping[str, str]) -> CIMultiDict[str]:
    kept: CIMultiDict[str] = CIMultiDict(headers)
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


def _shorten(answer: web.Response) -> web.Response:
    """Halve the answer to a ranged read, with headers that fit. The last of several parts stays whole, so that a file
    with holes has the right size."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    if match is None or not isinstance(answer.body, bytes) or len(answer.body) < 2:
        return answer
    first, last, size = (int(number) for number in match.groups())
    if first > 0 and last == size - 1:
        return answer
    body = answer.body[: len(answer.body) // 2]
    headers = answer.headers.copy()
    headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{size}"
    return web.Response(status=answer.status, headers=_without_hops(headers), body=body)


def _refusal(is_sqs: bool, status: HTTPStatus, code: str) -> web.Response:
    if is_sqs:
        return web.Response(
            status=status,
            body=json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "chaos"}).encode(),
            content_type="application/x-amz-json-1.0",
        )
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>chaos</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


def _abort(request: web.Request) -> web.Response:
    """Break the connection; the returned response reaches no one."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
