"""One webhook request: signed as https://www.standardwebhooks.com describes, sent to a public address, never redirected."""

import base64
import logging
import time
from collections import OrderedDict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Literal, Self
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from daemon.addresses import NotPublic, public_socket
from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.events import Event
from daemon.outage import Outage
from daemon.spans import Tracer

log = logging.getLogger("transcriptd.webhook")

MAX_RECEIVERS = 1000  # whose state is remembered


class Undelivered(Exception):
    """An attempt failed. `result` says whether another one makes sense.

    `failed`: it may succeed later; `gone`: the receiver wants no more of it (410); `refused`: we do not call this
    address.
    """

    def __init__(
        self,
        error: str,
        *,
        result: Literal["failed", "gone", "refused"] = "failed",
        status: int | None = None,
        wait_seconds: float = 0,
    ) -> None:
        super().__init__(error)
        self.result = result
        self.status = status
        self.wait_seconds = wait_seconds  # what the receiver asked for

    @property
    def retryable(self) -> bool:
        return self.result == "failed"


class WebhookClient:
    """`async with WebhookClient(settings) as client:`. Raises ConfigError for a secret that is none."""

    def __init__(self, settings: Settings, tracer: Tracer | None = None) -> None:
        self._settings = settings
        self._tracer = tracer or Tracer()
        secrets = [secret.get_secret_value() for secret in settings.webhook_secret]
        self._signers = [_signer(secret, number) for number, secret in enumerate(secrets, 1)]
        self._session: aiohttp.ClientSession | None = None
        self._outages: OrderedDict[str, Outage] = OrderedDict()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # Events in hand are bounded already, and hung receivers must not use up a limit that all of them share.
            connector=aiohttp.TCPConnector(
                limit=0, socket_factory=None if self._settings.webhook_allow_http else public_socket
            ),
            timeout=aiohttp.ClientTimeout(total=self._settings.webhook_timeout_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Content-Type": "application/json", "User-Agent": "transcriptd"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def ready(self) -> bool:
        """Open, and able to sign."""
        return self._session is not None and bool(self._signers)

    async def post(self, url: str, event: Event) -> int:
        """One attempt, a span of the event's trace; the status of an answer that accepts the event. Raises Undelivered."""
        outage = self._outage_of(url)
        about = {"http.request.method": "POST", "transcriptd.job_id": event.job_id}
        with self._tracer.span(f"webhook {event.type}", event.trace, "client", about) as span:
            try:
                status = await self._try(url, event, span.context.headers() if span.context else {})
            except Undelivered as failure:
                if failure.retryable:
                    outage.failed(str(failure))
                span.set({"http.response.status_code": failure.status})
                span.fail(str(failure.status or failure.result))
                raise
            span.set({"http.response.status_code": status})
        outage.worked()
        return status

    def _outage_of(self, url: str) -> Outage:
        try:
            receiver = urlsplit(url).netloc.rpartition("@")[2]
        except ValueError:  # it will be refused
            receiver = ""
        outage = self._outages.pop(receiver, None) or Outage(
            log, "webhook receiver failing", "webhook receiver working again", receiver=receiver
        )
        self._outages[receiver] = outage  # the last used comes last
        if len(self._outages) > MAX_RECEIVERS:
            self._outages.popitem(last=False)
        return outage

    async def _try(self, url: str, event: Event, headers: dict[str, str]) -> int:
        try:
            response = await self._post(url, event, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _undelivered(error) from error
        if 200 <= response.status < 300:
            return response.status
        # Any other answer may be a receiver's bad day, redirects included: a moved receiver must be configured
        # anew, since following would call an address that nobody allowed. 410 alone means never again.
        raise Undelivered(
            f"HTTP {response.status}",
            status=response.status,
            result="gone" if response.status == HTTPStatus.GONE else "failed",
            wait_seconds=_retry_after_seconds(response),
        )

    async def probe(self, url: str) -> int:
        """The status of the answer to a HEAD request, which carries nothing. Raises Undelivered."""
        if self._session is None:
            raise RuntimeError("the client is not open")
        try:
            async with self._session.head(url, allow_redirects=False) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _undelivered(error) from error

    async def _post(self, url: str, event: Event, more_headers: dict[str, str]) -> aiohttp.ClientResponse:
        if self._session is None or not self._signers:
            raise RuntimeError("the client is not open, or has no secret")
        now, body = datetime.now(UTC), event.body()
        headers = more_headers | {
            "webhook-id": event.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signer.sign(event.id, now, body) for signer in self._signers),
        }
        # The status is the whole answer: leaving the block discards the body unread.
        async with self._session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as response:
            return response


def _undelivered(error: Exception) -> Undelivered:
    if isinstance(error.__cause__, NotPublic):
        return Undelivered(str(error.__cause__), result="refused")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return Undelivered("the URL is not valid", result="refused")
    # A connector's message names host and port; those of other errors may quote the URL.
    connecting = isinstance(error, aiohttp.ClientConnectorError)
    return Undelivered(str(error) if connecting else type(error).__name__)


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """What a throttling receiver asks for, in seconds or as a date; 0 where it asks for nothing we understand."""
    value = response.headers.get("Retry-After", "")
    if response.status not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return 0
    try:
        return float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0


def _signer(secret: str, number: int) -> Webhook:
    """Raises ConfigError, with the rule and never the secret."""
    encoded = secret.removeprefix("whsec_")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        key = b""
    if encoded == secret or not 24 <= len(key) <= 64:
        raise ConfigError(
            f"WEBHOOK_SECRET: secret {number} must be `whsec_` and the base64 of 24 to 64 random bytes; "
            "make one with: echo whsec_$(openssl rand -base64 32)"
        )
    return Webhook(key)
