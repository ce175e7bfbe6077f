"""What a check is, what it may find, and all that there are."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from daemon.config import Settings
from daemon.devices import Device, choose_devices
from daemon.errors import SetupFailed
from daemon.pipeline.probe import Facts
from daemon.tools.check.probing import run_probe


class Status(StrEnum):
    PASS = "pass"  # noqa: S105  # a word, not a password
    WARN = "warn"  # the daemon works, but not as well as it could, or not for long
    FAIL = "fail"  # the daemon, or every job of some kind, will fail
    SKIPPED = "skipped"  # not looked at; the fix says how it can be


@dataclass(frozen=True, slots=True)
class Finding:
    status: Status
    found: str
    fix: str | None = None  # what to do, in one sentence; None for what passed


def passed(found: str) -> Finding:
    return Finding(Status.PASS, found)


def warned(found: str, fix: str) -> Finding:
    return Finding(Status.WARN, found, fix)


def failed(found: str, fix: str) -> Finding:
    return Finding(Status.FAIL, found, fix)


def skipped(found: str, fix: str) -> Finding:
    return Finding(Status.SKIPPED, found, fix)


class Ends(Exception):
    """Ends a check with this finding: what comes after it makes no sense."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


class Context:
    """What checks share. `async with Context(settings) as context:`"""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._probing: dict[str, asyncio.Task[Facts]] = {}

    @cached_property
    def devices(self) -> list[Device]:
        """Those that the settings mean. Raises SetupFailed where one of them is not there."""
        return choose_devices(self.settings.devices, self.settings.cpu_threads)

    @property
    def any_device(self) -> Device:
        """For what is the same on all."""
        try:
            return self.devices[0]
        except SetupFailed:
            return Device("auto", "auto")

    async def facts(self, device: Device) -> Facts:
        """What the libraries say of a device; asked once, in a child process. Raises Ends when it failed."""
        if device.name not in self._probing:
            self._probing[device.name] = asyncio.create_task(run_probe(device), name="probe")
        try:
            # A check that runs out of time must not take the answer away from another.
            return await asyncio.shield(self._probing[device.name])
        except RuntimeError as error:
            fix = "Install the versions of requirements.lock (`make setup`, or deploy/install.sh) and check the driver with `nvidia-smi`."
            raise Ends(failed(str(error), fix)) from error

    async def __aenter__(self) -> "Context":
        return self

    async def __aexit__(self, *_: object) -> None:
        for probing in self._probing.values():
            probing.cancel()
            with suppress(asyncio.CancelledError, RuntimeError):
                await probing


Call = Callable[[Context], AsyncGenerator[Finding, None]]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    about: str  # for docs/tools.md
    actions: str  # IAM actions that it calls, or what it needs instead
    timeout_seconds: float
    call: Call


CHECKS: dict[str, Check] = {}


def check(name: str, about: str, *, actions: str = "", timeout_seconds: float = 60) -> Callable[[Call], Call]:
    """Declare the function below as a check. It yields what it finds; whatever it raises is a finding as well."""

    def declare(call: Call) -> Call:
        CHECKS[name] = Check(name, about, actions, timeout_seconds, call)
        return call

    return declare
