"""A real HTTP proxy for CONNECT on a loopback port, which leads every tunnel to one local server."""

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.waiting import PATIENCE_SECONDS


class ConnectProxy:
    """`targets` are the CONNECT requests in order of arrival, with wrong credentials too."""

    def __init__(self, target_port: int, credentials: str) -> None:
        self._target_port = target_port
        self._expected = "Basic " + base64.b64encode(credentials.encode()).decode()
        self.targets: list[str] = []
        self.refused = 0
        self.port = 0

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        async with await asyncio.start_server(self._handle, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await stop.wait()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        method, target, _ = head[0].split()
        self.targets.append(target)
        if method != "CONNECT" or headers.get("proxy-authorization") != self._expected:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        from_target, to_target = await asyncio.open_connection("127.0.0.1", self._target_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_copy(reader, to_target), _copy(from_target, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


@contextmanager
def connect_proxy(target_port: int, credentials: str) -> Iterator[ConnectProxy]:
    """Run the proxy in a thread. `credentials` are `user:password`."""
    proxy, loop = ConnectProxy(target_port, credentials), asyncio.new_event_loop()
    started, stop = threading.Event(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(proxy.serve(started, stop))

    thread = threading.Thread(target=run, name="connect proxy")
    thread.start()
    try:
        if not started.wait(PATIENCE_SECONDS):
            raise TimeoutError("the proxy did not start")
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
