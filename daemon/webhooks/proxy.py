"""The proxy for webhooks, from the environment variables and by the rules that the AWS SDK follows for S3 and SQS.

A proxy resolves the receiver's name itself, so the socket of the connection does not show the receiver's address. The daemon
therefore resolves the name first and checks every address that it finds. This cannot prove that the proxy finds the same one.
"""

import asyncio
import base64
import socket
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]  # no stub

from yarl import URL

from daemon.errors import ConfigError
from daemon.webhooks.ssrf import NotPublic, is_public

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. Its URL has no credentials, so that errors may quote it."""

    url: URL
    authorization: str | None = field(repr=False)  # value of the header Proxy-Authorization

    def parameters(self, scheme: str) -> dict[str, Any]:
        """Return aiohttp's parameters for a request to a URL with this scheme."""
        if self.authorization is None:
            return {"proxy": self.url}
        # The proxy reads the headers of CONNECT for https, and the headers of the request itself for http.
        kind = "proxy_headers" if scheme == "https" else "headers"
        return {"proxy": self.url, kind: {"Proxy-Authorization": self.authorization}}


class Proxies:
    """The proxies that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name, also in lower case, which wins."""

    def __init__(self, variables: dict[str, str]) -> None:
        """`variables` is a result of `getproxies_environment`. Raises ConfigError, without the credentials."""
        self._variables = variables
        self._by_scheme = {
            scheme: _parse(f"{scheme.upper()}_PROXY", variables[scheme])
            for scheme in DEFAULT_PORTS
            if variables.get(scheme)
        }

    @classmethod
    def from_environment(cls) -> Self:
        return cls(getproxies_environment())

    def for_url(self, url: str) -> Proxy | None:
        """Return the proxy for requests to the URL, or None for a direct connection."""
        try:
            parts = urlsplit(url)
        except ValueError:  # the request will be refused
            return None
        receiver = parts.netloc.rpartition("@")[2]
        if proxy_bypass_environment(receiver, self._variables):
            return None
        return self._by_scheme.get(parts.scheme)


async def check_receiver(url: str, timeout_seconds: float) -> None:
    """Resolve the URL's host and check that all its addresses are public. Raises NotPublic, or OSError if it has none."""
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    async with asyncio.timeout(timeout_seconds):
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    if not all(is_public(str(address[0])) for *_, address in found):
        raise NotPublic


def _parse(variable: str, value: str) -> Proxy:
    try:
        url = URL(value if "://" in value else f"http://{value}")
        usable = url.scheme in DEFAULT_PORTS and bool(url.host)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{variable}: must be http://host:port, or https:// for a proxy that uses TLS itself")
    if not url.user:
        return Proxy(url.origin(), None)
    encoded = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
    return Proxy(url.origin(), f"Basic {encoded}")
