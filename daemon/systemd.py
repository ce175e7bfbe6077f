"""What systemd hears of the daemon: ready, stopping, and a watchdog that is fed only while the poller gets on.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

import asyncio
import os
import socket
from collections.abc import Callable


def notify(state: str) -> None:
    """Tell systemd, for instance `READY=1`. Does nothing where no systemd listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # Linux's abstract namespace
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


async def feed_watchdog(gets_on: Callable[[], bool]) -> None:
    """Feed the watchdog at half its period while `gets_on()`: a loop that merely turns is not alive. For ever."""
    period_seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    while period_seconds:
        if gets_on():
            notify("WATCHDOG=1")
        await asyncio.sleep(period_seconds / 2)
    await asyncio.Event().wait()
