"""Which host names HTTP clients may use for this machine."""

import re
import socket
from ipaddress import ip_address

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::\d{1,5})?")


def reject_unknown_hosts(further: tuple[str, ...]) -> Middleware:
    """Return a middleware that answers 403 to a foreign host name.

    It prevents DNS rebinding: a site that points its own name at this machine could otherwise read the responses.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if further == ("*",) or is_this_machine(request.headers.getall("Host", []), further):
            return await handler(request)
        problem = "use the machine's address, its own name, localhost, or a name that TRANSCRIPTD_HTTP_HOSTS lists\n"
        return web.Response(status=403, text=problem)

    return check


def is_this_machine(hosts: list[str], further: tuple[str, ...] = ()) -> bool:
    """Whether there is exactly one Host header, with an IP address, localhost, this machine's name or a further one."""
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None:
        return False
    name = (match["v6"] or match["name"]).lower().removesuffix(".")
    own = socket.gethostname().lower()
    if name in ("localhost", own, own.partition(".")[0], *(each.lower() for each in further)):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
