"""Registry of the checks, and the types of their findings."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from enum import StrEnum

from daemon.config import Settings


class CheckStatus(StrEnum):
    PASS = "pass"  # noqa: S105  # not a password
    WARN = "warn"  # the daemon works, but not as well as it could, or not for long
    FAIL = "fail"  # the daemon, or every job of some kind, will fail
    SKIPPED = "skipped"  # not checked; the fix explains how to check it


@dataclass(frozen=True, slots=True)
class CheckResult:
    status: CheckStatus
    found: str
    fix: str | None = None  # one sentence; None if passed


def passed(found: str) -> CheckResult:
    return CheckResult(CheckStatus.PASS, found)


def warned(found: str, fix: str) -> CheckResult:
    return CheckResult(CheckStatus.WARN, found, fix)


def failed(found: str, fix: str) -> CheckResult:
    return CheckResult(CheckStatus.FAIL, found, fix)


def skipped(found: str, fix: str) -> CheckResult:
    return CheckResult(CheckStatus.SKIPPED, found, fix)


class CheckAborted(Exception):
    """Raised to end a check with this finding, because its later steps cannot run."""

    def __init__(self, finding: CheckResult) -> None:
        super().__init__(finding.found)
        self.finding = finding


CheckFunction = Callable[[Settings], AsyncGenerator[CheckResult, None]]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    about: str  # for docs/cli.md
    actions: str  # required IAM actions
    timeout_seconds: float
    call: CheckFunction


CHECKS: dict[str, Check] = {}


def check(
    name: str, about: str, *, actions: str = "", timeout_seconds: float = 60
) -> Callable[[CheckFunction], CheckFunction]:
    """Register the decorated function as a check. It yields findings; an exception becomes a finding too."""

    def declare(call: CheckFunction) -> CheckFunction:
        CHECKS[name] = Check(name, about, actions, timeout_seconds, call)
        return call

    return declare
