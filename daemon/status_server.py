"""The status page over HTTP: `/`, `/status.json`, and `/events`, which keeps an open page up to date. Read-only."""

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import web

from daemon.snapshot import Snapshot
from daemon.status_page import Element, parts, policy, render, title

MAX_LISTENERS = 8
PERIOD_SECONDS = 1.0
WRITE_TIMEOUT_SECONDS = 10.0

# Scrapers and load balancers call these by whatever name they like; they say nothing worth a name.
UNCHECKED = ("/metrics", "/healthz", "/readyz")

HEADERS = {
    "Content-Security-Policy": policy(),
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StatusServer:
    """The routes, for an application to `attach`."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._listeners = 0
        self._closing = asyncio.Event()

    def attach(self, app: web.Application) -> None:
        app.middlewares.append(refuse_strange_hosts)
        app.router.add_get("/", self._get_page)
        app.router.add_get("/status.json", self._get_json)
        app.router.add_get("/events", self._get_events, allow_head=False)
        app.on_shutdown.append(self._close)

    async def _close(self, _: web.Application) -> None:
        self._closing.set()

    async def _get_page(self, _: web.Request) -> web.Response:
        page = render(self._take())
        return web.Response(text=page, content_type="text/html", charset="utf-8", headers=HEADERS)

    async def _get_json(self, _: web.Request) -> web.Response:
        return web.json_response(self._take().to_dict(), headers=HEADERS)

    async def _get_events(self, request: web.Request) -> web.StreamResponse:
        """Server-Sent Events, each a JSON object: the page's title, and those of its parts that changed."""
        if self._listeners >= MAX_LISTENERS:
            return web.Response(
                status=503, text=f"{MAX_LISTENERS} pages are open already\n", headers={"Retry-After": "10"}
            )
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        self._listeners += 1
        try:
            await self._stream(request, response)
        except ConnectionError:
            pass  # the page was closed
        except TimeoutError:
            if request.transport:
                request.transport.abort()  # it sleeps: what waits for it would never go
        finally:
            self._listeners -= 1
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse) -> None:
        await response.prepare(request)
        sent: dict[str, Element] = {}
        while not self._closing.is_set():
            snapshot = self._take()
            now = parts(snapshot)
            # The time of the snapshot is in one of them: something is sent every time, which is the heartbeat.
            changed = {name: part for name, part in now.items() if sent.get(name) != part}
            event = json.dumps({"title": title(snapshot), "parts": changed}, separators=(",", ":"))
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await response.write(f"retry: 2000\ndata: {event}\n\n".encode())
            sent = now
            await _set_within(self._closing, PERIOD_SECONDS)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


@web.middleware
async def refuse_strange_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for names that are not this machine's: a foreign site that points its own name here (DNS rebinding) would be
    allowed by the browser to read what it gets.
    """
    if request.path in UNCHECKED or is_this_machine(request.headers.getall("Host", [])):
        return await handler(request)
    return web.Response(status=403, text="use the machine's address, its own name or localhost\n")


def is_this_machine(hosts: list[str]) -> bool:
    """Whether the Host headers are one that names an address, localhost or this machine."""
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    name = (match["v6"] or match["name"]).lower().removesuffix(".")
    own = socket.gethostname().lower()
    if name in ("localhost", own, own.partition(".")[0]):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
