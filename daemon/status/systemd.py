"""systemd notifications: ready, stopping, and a watchdog that depends on the poller's progress.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import asyncio
import os
import socket
from collections.abc import Callable


def notify(state: str) -> None:
    """Send a state such as `READY=1` to systemd. Does nothing if NOTIFY_SOCKET is not set."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


async def feed_watchdog(gets_on: Callable[[], bool]) -> None:
    """Notify the watchdog at half its period, as long as `gets_on()` is true. Runs until cancelled.

    A running event loop alone does not count as alive.
    """
    period_seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    while period_seconds:
        if gets_on():
            notify("WATCHDOG=1")
        await asyncio.sleep(period_seconds / 2)
    await asyncio.Event().wait()
