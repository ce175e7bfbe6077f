"""Bounds on HTTP connections, so that silent clients and clients that do not read lock no one out.

aiohttp has no time limit for the arrival of a request's head and no bound on connections.
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger("transcriptd.http")

MAX_CONNECTIONS = 64
HEAD_TIMEOUT_SECONDS = 10.0  # from the connection, or from a request's first byte, to the end of its head
WRITE_TIMEOUT_SECONDS = 10.0  # during which a client may read nothing of a response
HEAD_END = b"\r\n\r\n"


class Connections:
    """A protocol factory: wraps each protocol of another factory in one with limits.

    One connection too many closes the connection that has waited longest for its client, so that new clients are served.
    """

    def __init__(self, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._open: dict[_Connection, None] = {}  # in the order of their last change

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self._factory(), self)

    def opened(self, connection: "_Connection") -> None:
        self._open[connection] = None
        if len(self._open) > MAX_CONNECTIONS:
            silent = next((other for other in self._open if other.awaits_client), next(iter(self._open)))
            silent.abort("too many connections")

    def changed(self, connection: "_Connection") -> None:
        """Move the connection to the end of the order."""
        if self._open.pop(connection, self) is None:
            self._open[connection] = None

    def closed(self, connection: "_Connection") -> None:
        self._open.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Passes everything on to aiohttp's protocol, and aborts the connection when the client is too slow."""

    def __init__(self, inner: asyncio.Protocol, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._tail = b""  # of an incomplete head
        self._timer: asyncio.TimerHandle | None = None
        self.awaits_client = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"HTTP over {type(transport).__name__}")
        self._transport = transport
        self._wait(HEAD_TIMEOUT_SECONDS, "no request")
        self._inner.connection_made(transport)
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        unfinished = (self._tail + data).rpartition(HEAD_END)
        if unfinished[1]:
            self._proceed()
        self._tail = unfinished[2][-len(HEAD_END) :]
        if self._tail and not self.awaits_client:
            self._wait(HEAD_TIMEOUT_SECONDS, "an incomplete request")
        self._connections.changed(self)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._wait(WRITE_TIMEOUT_SECONDS, "a response that is not read")
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._proceed()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proceed()
        self._connections.closed(self)
        self._inner.connection_lost(exc)

    def abort(self, problem: str) -> None:
        log.debug("connection closed", extra={"reason": problem})
        self._connections.closed(self)
        if self._transport is not None:
            self._transport.abort()

    def _wait(self, seconds: float, problem: str) -> None:
        """Abort unless the client makes progress in this time."""
        self._proceed()
        self.awaits_client = True
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort, problem)

    def _proceed(self) -> None:
        self.awaits_client = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
