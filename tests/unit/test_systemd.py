"""systemd's notification protocol: used only under systemd, and the watchdog is notified only while the daemon makes
progress."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.status.systemd import feed_watchdog, notify
from tests.support.time.virtual import in_virtual_time


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(listener: socket.socket) -> list[str]:
    messages = []
    with contextlib.suppress(BlockingIOError):
        while True:
            messages.append(listener.recv(1000).decode())
    return messages


def test_state_is_sent(systemd: socket.socket) -> None:
    notify("READY=1")
    assert heard(systemd) == ["READY=1"]


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


@in_virtual_time
async def test_watchdog_is_notified_only_while_polling_succeeds(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    gets_on = True
    task = asyncio.create_task(feed_watchdog(lambda: gets_on))
    await asyncio.sleep(0.3)
    assert heard(systemd).count("WATCHDOG=1") >= 3
    gets_on = False
    await asyncio.sleep(0.1)
    heard(systemd)
    await asyncio.sleep(0.3)
    assert heard(systemd) == []
    task.cancel()
