"""Sends one webhook request: signed as in https://www.standardwebhooks.com, only to public addresses, without redirects."""

import base64
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from socket import socket
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.telemetry.outage import Outage
from daemon.telemetry.redaction import describe
from daemon.telemetry.spans import Tracer
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.proxy import Proxies, check_receiver
from daemon.webhooks.sinks import DeliveryFailed, SinkName
from daemon.webhooks.ssrf import NotPublic, public_socket

log = logging.getLogger("transcriptd.webhook")

MAX_RECEIVERS = 1000  # number of receivers whose outage state is kept


class WebhookClient:
    """The sink of all receivers: `async with WebhookClient(settings) as client:`.

    Raises ConfigError for an invalid secret or proxy.
    """

    name: SinkName = "webhook"

    def __init__(self, settings: Settings, tracer: Tracer | None = None) -> None:
        self._settings = settings
        self._tracer = tracer or Tracer()
        secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        self._signers = [_signer(secret, number) for number, secret in enumerate(secrets, 1)]
        self._proxies = Proxies.from_environment()
        self._session: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        self._outages: OrderedDict[str, Outage] = OrderedDict()

    async def __aenter__(self) -> Self:
        self._session = self._open_session(None if self._settings.webhook_allow_http else public_socket)
        self._proxied = self._open_session(None)  # the proxy is the operator's choice and may have a private address
        return self

    def _open_session(self, socket_factory: Callable[[aiohttp.AddrInfoType], socket] | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No connection limit: pending events are bounded, and hung receivers must not block the others.
            connector=aiohttp.TCPConnector(limit=0, socket_factory=socket_factory),
            timeout=aiohttp.ClientTimeout(total=self._settings.webhook_timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Content-Type": "application/json", "User-Agent": "transcriptd"},
        )

    async def __aexit__(self, *_: object) -> None:
        for session in (self._session, self._proxied):
            if session is not None:
                await session.close()
        self._session = self._proxied = None

    @property
    def ready(self) -> bool:
        """Whether the client is open and can sign."""
        return self._session is not None and bool(self._signers)

    async def post(self, url: str, event: WebhookEvent) -> int:
        """Make one attempt, as a span of the event's trace. Return the HTTP status. Raises DeliveryFailed unless it is 2xx."""
        outage = self._outage_for(url)
        about = {"http.request.method": "POST", "transcriptd.job_id": event.job_id}
        with self._tracer.span(f"webhook {event.type}", event.trace, "client", about) as span:
            try:
                status = await self._try(url, event, span.context.headers() if span.context else {})
            except DeliveryFailed as failure:
                if failure.retryable:
                    outage.failed(str(failure))
                span.set({"http.response.status_code": failure.status})
                span.fail(str(failure.status or failure.result))
                raise
            span.set({"http.response.status_code": status})
        outage.worked()
        return status

    def _outage_for(self, url: str) -> Outage:
        try:
            receiver = urlsplit(url).netloc.rpartition("@")[2]
        except ValueError:  # the request will be refused
            receiver = ""
        outage = self._outages.pop(receiver, None) or Outage(
            log, "webhook receiver failing", "webhook receiver working again", receiver=receiver
        )
        self._outages[receiver] = outage  # most recently used last
        if len(self._outages) > MAX_RECEIVERS:
            self._outages.popitem(last=False)
        return outage

    async def _try(self, url: str, event: WebhookEvent, headers: dict[str, str]) -> int:
        try:
            response = await self._post(url, event, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _undelivered(error) from error
        if 200 <= response.status < 300:
            return response.status
        # Any other status may be temporary. Redirects are not followed: they could lead to an address that is not
        # allowed, so a receiver that has moved needs a new URL. Only 410 is permanent.
        raise DeliveryFailed(
            f"HTTP {response.status}",
            status=response.status,
            result="gone" if response.status == HTTPStatus.GONE else "failed",
            wait_seconds=_retry_after_seconds(response),
        )

    async def probe(self, url: str) -> int:
        """Send a HEAD request without an event. Return the HTTP status. Raises DeliveryFailed."""
        try:
            async with self._request("HEAD", url) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _undelivered(error) from error

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, headers: dict[str, str] | None = None, data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, through the proxy that the environment names for the URL. Raises DeliveryFailed, ClientError."""
        if self._session is None or self._proxied is None:
            raise RuntimeError("the client is not open")
        proxy = self._proxies.for_url(url)
        session, parameters = self._session, {}
        if proxy is not None:
            if not self._settings.webhook_allow_http:
                await self._check_before_proxy(url)
            session, parameters = self._proxied, proxy.parameters(urlsplit(url).scheme)
        parameters["headers"] = (headers or {}) | parameters.get("headers", {})
        async with session.request(method, url, data=data, allow_redirects=False, **parameters) as response:
            yield response

    async def _check_before_proxy(self, url: str) -> None:
        try:
            await check_receiver(url, self._settings.webhook_timeout_seconds)
        except NotPublic as error:
            raise DeliveryFailed(str(error), result="refused") from error
        except ValueError as error:
            raise DeliveryFailed("the URL is not valid", result="refused") from error
        except OSError as error:
            raise DeliveryFailed(
                f"cannot resolve the receiver's name to check its address before the proxy is used: {describe(error)}"
            ) from error

    async def _post(self, url: str, event: WebhookEvent, more_headers: dict[str, str]) -> aiohttp.ClientResponse:
        if not self.ready:
            raise RuntimeError("the client is not open, or has no secret")
        now, body = datetime.now(UTC), event.body()
        headers = more_headers | {
            "webhook-id": event.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signer.sign(event.id, now, body) for signer in self._signers),
        }
        # Only the status matters: leaving the block discards the body unread.
        async with self._request("POST", url, data=body.encode(), headers=headers) as response:
            return response


def _undelivered(error: Exception) -> DeliveryFailed:
    if isinstance(error.__cause__, NotPublic):
        return DeliveryFailed(str(error.__cause__), result="refused")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return DeliveryFailed("the URL is not valid", result="refused")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return DeliveryFailed(f"the proxy answered HTTP {error.status}")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return DeliveryFailed(str(error))
    if isinstance(error, aiohttp.ClientConnectorError):  # its own text has "None" in place of some reasons
        return DeliveryFailed(f"cannot connect to {error.host}:{error.port}: {describe(error.os_error)}")
    # The messages of other errors may quote the URL.
    if isinstance(error, TimeoutError):
        return DeliveryFailed("no complete response in time")
    return DeliveryFailed(type(error).__name__)


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """Return the Retry-After of a throttling receiver, in seconds, or 0 if it is missing or invalid."""
    value = response.headers.get("Retry-After", "")
    if response.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return 0
    try:
        return float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0


def _signer(secret: str, number: int) -> Webhook:
    """Raises ConfigError, which states the rule but never the secret."""
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if encoded == secret or not 24 <= len(key) <= 64:
        raise ConfigError(
            f"WEBHOOK_SECRET: secret {number} must be `whsec_` followed by 24 to 64 random bytes in base64; "
            "generate one with: echo whsec_$(openssl rand -base64 32)"
        )
    return Webhook(key)
