"""Serves the status page read-only: `/`, `/status.json`, and `/page.json`, which an open page polls."""

from collections.abc import Callable

from aiohttp import web

from daemon.status.page import parts, policy, render, title
from daemon.status.status_collector import Status

HEADERS = {
    "Content-Security-Policy": policy(),
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class StatusServer:
    """Routes of the status page, added to an application by `attach`."""

    def __init__(self, take: Callable[[], Status]) -> None:
        self._take = take

    def attach(self, app: web.Application) -> None:
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
