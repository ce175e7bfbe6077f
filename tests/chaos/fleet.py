"""The daemons of a run, the faults applied to them, and a supervisor that restarts them as systemd would."""

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.demo.process import DaemonProcess
from tests.chaos.schedule import Action, Fault, Moment, Step
from tests.chaos.site import Site

MARKER = "CHAOS_RUN"  # set in the environment of every process of a run, so that all can be found
STOP_SECONDS = 60.0
CLEAN_EXITS = (0, 1)  # finished everything; interrupted and released jobs


@dataclass
class _Member:
    """A position in the fleet: one daemon, replaced by the next after its death."""

    caller: str
    process: DaemonProcess
    lives: int = 1
    killed: bool = False
    asked_at: float | None = None  # SIGTERM was sent
    thaw_at: float | None = None


@dataclass
class Fleet:
    """`with Fleet(site, callers) as fleet:` starts the daemons; leaving the block ends every process in any case."""

    site: Site
    callers: list[str]
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # forbidden behaviour of a daemon

    def __post_init__(self) -> None:
        self._marker = f"{os.getpid()}-{time.monotonic_ns()}"
        self._lock = threading.RLock()  # the proxy's thread kills, too
        self._members: dict[str, _Member] = {}

    def __enter__(self) -> "Fleet":
        for caller in self.callers:
            self._members[caller] = _Member(caller, self._start(caller, 1))
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members.values():
            self._signal(member, signal.SIGKILL)
            member.process.process.wait(10)
        for pid in self.strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        return all(member.process.wait_until_ready(timeout_seconds) for member in self._members.values())

    # --- faults

    def carry_out(self, step: Step) -> None:
        caller = None if step.daemon is None else self.callers[step.daemon]
        self.done[step.action] += 1
        if step.action is Action.FAULT:
            self.site.proxy.fail(step.calls, Fault(step.how), step.seconds, caller)
        elif step.action is Action.TRAP:
            self.site.proxy.trap(step.calls, Moment(step.how))
        elif caller is not None:
            self._hurt(self._members[caller], step)

    def kill(self, caller: str) -> None:
        with self._lock:
            member = self._members[caller]
            member.killed = True
            self._signal(member, signal.SIGKILL)

    def _hurt(self, member: _Member, step: Step) -> None:
        match step.action:
            case Action.KILL_DAEMON:
                self.kill(member.caller)
            case Action.KILL_RUNNER:
                for pid in children(member.process.process.pid, b"daemon.pipeline"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case Action.TERM_DAEMON:
                # A daemon that has not yet installed its signal handlers may die of this, like any program.
                member.killed = member.killed or not any(member.process.log_entries("listening"))
                member.asked_at = member.asked_at or time.monotonic()
                self._signal(member, signal.SIGTERM)
            case Action.FREEZE_DAEMON:
                self._signal(member, signal.SIGSTOP)
                member.thaw_at = time.monotonic() + step.seconds

    def _signal(self, member: _Member, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            member.process.process.send_signal(number)

    # --- supervision

    def tend(self) -> None:
        """Resume frozen daemons that are due and replace daemons that ended. Call several times per second."""
        now = time.monotonic()
        with self._lock:
            for member in self._members.values():
                if member.thaw_at is not None and now >= member.thaw_at:
                    self._thaw(member)
                if member.process.process.poll() is not None:
                    self._judge(member)
                    member.lives += 1
                    member.process = self._start(member.caller, member.lives)
                    member.killed, member.asked_at, member.thaw_at = False, None, None
                elif member.asked_at is not None and member.thaw_at is None and now > member.asked_at + STOP_SECONDS:
                    self._stuck(member)

    def stop(self) -> float:
        """Stop all daemons, check their exit status, and return the seconds that it took."""
        started_at = time.monotonic()
        with self._lock:
            for member in self._members.values():
                self._thaw(member)
                self._signal(member, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            for member in self._members.values():
                while member.process.process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                if member.process.process.poll() is None:
                    self._stuck(member)
                self._judge(member)
        return time.monotonic() - started_at

    def thaw(self) -> None:
        """Resume all frozen daemons."""
        with self._lock:
            for member in self._members.values():
                self._thaw(member)

    def _thaw(self, member: _Member) -> None:
        if member.thaw_at is not None:
            member.thaw_at = None
            member.asked_at = time.monotonic() if member.asked_at is not None else None
            self._signal(member, signal.SIGCONT)

    def _start(self, caller: str, life: int) -> DaemonProcess:
        environment = {**self.site.environment(caller), MARKER: self._marker}
        return DaemonProcess(environment, self.site.folder / f"{caller}-{life:02d}.log").__enter__()

    def _judge(self, member: _Member) -> None:
        status = member.process.process.returncode
        if not member.killed and status not in CLEAN_EXITS:
            self.faults.append(f"{member.process.log_path.name}: ended with {status} without being killed")
        # Every line that a daemon writes is JSON: anything else is a traceback of a crashed interpreter.
        if lines := [entry["line"] for entry in member.process.log_entries("unstructured")]:
            self.faults.append(
                f"{member.process.log_path.name}: {len(lines)} lines that are not log entries, last: {lines[-1][:300]}"
            )
        if unsettled := len(list(member.process.log_entries("delivery not settled"))):
            self.faults.append(f"{member.process.log_path.name}: {unsettled} deliveries were not settled")

    def _stuck(self, member: _Member) -> None:
        self.faults.append(f"{member.process.log_path.name}: still running {STOP_SECONDS:g} s after SIGTERM")
        member.killed = True
        self._signal(member, signal.SIGKILL)
        member.process.process.wait(10)

    def strays(self) -> dict[int, str]:
        """Return the running processes of this run, found by the marker in their environment or by their working
        directory."""
        mark, scratch = f"{MARKER}={self._marker}".encode(), str(self.site.scratch)
        found: dict[int, str] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # Decoders and their fork server have an empty environment, but work in the scratch directory.
                cwd = str((process / "cwd").readlink())
                if mark in (process / "environ").read_bytes().split(b"\0") or cwd.startswith(scratch):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(process.name)] = command
        return found


def children(parent: int, word: bytes) -> Iterator[int]:
    """Return the children of a process that have the word in their command line."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            after_name = (process / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) == parent and word in (process / "cmdline").read_bytes():
                yield int(process.name)
