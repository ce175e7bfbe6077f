"""A real HTTP server that receives webhooks, with injectable faults."""

import asyncio
import json
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from bench.waiting import PATIENCE_SECONDS

PATH = "/hooks/transcripts"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How to answer one request."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_seconds: float = 0.0
    hold: asyncio.Event | None = None  # the response waits until this is set
    drop: bool = False  # close the connection instead of answering
    raw: bytes = b""  # sent instead of a response before the connection is closed

    @classmethod
    def redirect(cls, target: str) -> Self:
        return cls(status=307, headers={"Location": target})


OK = Behaviour()


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One request as it arrived. Header names are lower case."""

    headers: dict[str, str]
    body: bytes
    event: dict[str, Any]
    at: float  # monotonic


class Receiver:
    """`async with Receiver(Behaviour(status=503)) as receiver:` listens on a free loopback port.

    Each request consumes one of `behaviours`; after the last one, every request gets `default`. Both can be changed at
    any time. `events` holds every request in order of arrival, recorded before it is answered.
    """

    def __init__(self, *behaviours: Behaviour, default: Behaviour = OK, tls: ssl.SSLContext | None = None) -> None:
        self.behaviours = deque(behaviours)
        self.default = default
        self.events: list[ReceivedEvent] = []
        self._arrived = asyncio.Condition()
        self._tls = tls
        self.port = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{PATH}"

    @property
    def types(self) -> list[str]:
        """Return the types of the events, in order of arrival."""
        return [received.event["type"] for received in self.events]

    async def wait_for(self, count: int, timeout_seconds: float = PATIENCE_SECONDS) -> list[ReceivedEvent]:
        """Wait until there are `count` events and return them. Raises TimeoutError."""
        async with asyncio.timeout(timeout_seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.events) >= count)
        return self.events

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post(PATH, self._receive)
        app.router.add_post("/", self._receive)  # as an endpoint of AWS
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        async with self._arrived:
            self.events.append(ReceivedEvent(headers, body, json.loads(body), time.monotonic()))
            self._arrived.notify_all()
        behaviour = self.behaviours.popleft() if self.behaviours else self.default
        await asyncio.sleep(behaviour.delay_seconds)
        if behaviour.hold is not None:
            await behaviour.hold.wait()
        if behaviour.raw and request.transport is not None:
            request.transport.write(behaviour.raw)
            request.transport.close()
        if behaviour.drop and request.transport is not None:
            request.transport.abort()
        return web.Response(status=behaviour.status, headers=behaviour.headers, body=behaviour.body)


@contextmanager
def threaded_receiver(receiver: Receiver) -> Iterator[Receiver]:
    """Run a receiver in a thread, for tests that are not asynchronous: they set behaviours and read events."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with receiver:
            started.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="webhook receiver")
    thread.start()
    try:
        if not started.wait(PATIENCE_SECONDS):
            raise TimeoutError("the receiver did not start")
        yield receiver
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
