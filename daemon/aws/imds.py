"""Client of the EC2 instance metadata service, version 2 (IMDSv2) only.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

from types import TracebackType
from typing import Self

import aiohttp

from daemon.clock import SYSTEM_CLOCK, Clock
from daemon.telemetry.redaction import describe

TIMEOUT_SECONDS = 2.0  # the service is on the host and responds quickly
TOKEN_TTL_SECONDS = 6 * 3600
HINT = "in a container, set the hop limit of the instance's metadata options to 2"
TOKEN_REFRESH_SECONDS = TOKEN_TTL_SECONDS / 2


class MetadataUnavailable(Exception):
    """The service did not respond, or not as documented. This says nothing about the instance and affects no job."""


class Imds:
    """`async with Imds(endpoint) as imds: await imds.get("instance-id")`."""

    def __init__(self, endpoint: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._clock = clock
        self._token: tuple[str, float] | None = None  # and its monotonic time of issue
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> str | None:
        """Return the content of `latest/meta-data/<path>`, or None for 404. Raises MetadataUnavailable."""
        status, body = await self._get(path)
        if status == 401:  # the token is no longer valid, for example after a migration of the host
            self._token = None
            status, body = await self._get(path)
        if status == 404:
            return None
        if status != 200:
            raise MetadataUnavailable(f"instance metadata {path}: HTTP {status}")
        return body

    async def _get(self, path: str) -> tuple[int, str]:
        headers = {"X-aws-ec2-metadata-token": await self._valid_token()}
        return await self._request("GET", f"latest/meta-data/{path}", headers)

    async def _valid_token(self) -> str:
        if self._token is None or self._clock.monotonic() - self._token[1] > TOKEN_REFRESH_SECONDS:
            issued_at = self._clock.monotonic()
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_SECONDS)}
            status, token = await self._request("PUT", "latest/api/token", headers)
            if status != 200:
                raise MetadataUnavailable(f"no token for instance metadata: HTTP {status}")
            self._token = token, issued_at
        return self._token[0]

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if self._session is None:
            raise MetadataUnavailable("not opened")
        try:
            url = f"{self._endpoint}/{path}"
            async with self._session.request(method, url, headers=headers, allow_redirects=False) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError) as error:
            hint = f"; {HINT}" if isinstance(error, TimeoutError) else ""
            raise MetadataUnavailable(f"instance metadata {path}: {describe(error)}{hint}") from error
