"""Serves the status page read-only: `/`, `/status.json`, and `/page.json`, which an open page polls."""

import re
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from aiohttp import web

from daemon.status.page import parts, policy, render, title
from daemon.status.status_collector import Status

# Scrapers and load balancers use arbitrary host names for these paths, and the responses are not sensitive.
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
    """Routes of the status page, added to an application by `attach`."""

    def __init__(self, take: Callable[[], Status]) -> None:
        self._take = take

    def attach(self, app: web.Application) -> None:
        app.middlewares.append(reject_unknown_hosts)
        app.router.add_get("/", self._get_page)
        app.router.add_get("/status.json", self._get_json)
        app.router.add_get("/page.json", self._get_parts)

    async def _get_page(self, _: web.Request) -> web.Response:
        page = render(self._take())
        return web.Response(text=page, content_type="text/html", charset="utf-8", headers=HEADERS)

    async def _get_json(self, _: web.Request) -> web.Response:
        return web.json_response(self._take().to_dict(), headers=HEADERS)

    async def _get_parts(self, _: web.Request) -> web.Response:
        """Return the title and the sections of the page as trees of elements."""
        status = self._take()
        return web.json_response({"title": title(status), "parts": parts(status)}, headers=HEADERS)


@web.middleware
async def reject_unknown_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return 403 for a foreign host name. Prevents DNS rebinding: a site that points its own name at this machine could
    otherwise read the responses.
    """
    if request.path in UNCHECKED or is_this_machine(request.headers.getall("Host", [])):
        return await handler(request)
    return web.Response(status=403, text="use the machine's address, its own name or localhost\n")


def is_this_machine(hosts: list[str]) -> bool:
    """Whether there is exactly one Host header, with an IP address, localhost or this machine's name."""
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
