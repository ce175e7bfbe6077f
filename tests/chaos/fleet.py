"""The daemons of a run, the faults applied to them, and a supervisor that restarts them as systemd would."""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.demo.process import DaemonProcess
from tests.chaos.schedule import Action, Fault, Moment, Rotation, Step
from tests.chaos.site import Site
from tests.chaos.suspects import Harm, Stop

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
    asked_at_unix: float = 0.0
    thaw_at: float | None = None
    kill_at: float | None = None  # the end of the grace period

    @property
    def worker_id(self) -> str:
        """The ID of this life."""
        return f"{self.caller}-{self.lives:03d}"


@dataclass
class Fleet:
    """`with Fleet(site, callers) as fleet:` starts the daemons; leaving the block ends every process in any case."""

    site: Site
    callers: list[str]
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # forbidden behaviour of a daemon
    harms: list[Harm] = field(default_factory=list)  # after which a daemon may have lost what only it knew
    stops: list[Stop] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._marker = f"{os.getpid()}-{time.monotonic_ns()}"
        self._lock = threading.RLock()  # the proxy's thread kills, too
        self._members: dict[str, _Member] = {}
        self._later: list[tuple[float, Callable[[], None]]] = []  # the second halves of rotations, and when

    def __enter__(self) -> "Fleet":
        for caller in self.callers:
            self._members[caller] = _Member(caller, self._start(caller, f"{caller}-001"))
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members.values():
            self._signal(member, signal.SIGKILL)
            member.process.process.wait(10)
        for pid in self.strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def lives(self) -> int:
        """The number of daemons that were started."""
        return sum(member.lives for member in self._members.values())

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        return all(member.process.wait_until_ready(timeout_seconds) for member in self._members.values())

    # --- faults

    def carry_out(self, step: Step) -> None:
        caller = None if step.daemon is None else self.callers[step.daemon]
        self.done[step.action] += 1
        if step.action is Action.FAULT:
            self.site.proxy.fail(step.calls, Fault(step.how), step.seconds, caller)
        elif step.action is Action.REFUSE_RECORDING:
            self.site.proxy.fail(step.calls, Fault(step.how), math.inf)
        elif step.action is Action.REFUSE_LETTERS:
            self.site.proxy.fail(step.calls, Fault(step.how), step.seconds)
        elif step.action is Action.TRAP:
            self.site.proxy.trap(step.calls, Moment(step.how))
        elif step.action is Action.ROTATE_KEYS:
            for each in self.callers if caller is None else [caller]:
                self._rotate(each, step)
        elif caller is not None:
            self._hurt(self._members[caller], step)

    def kill(self, caller: str) -> None:
        with self._lock:
            member = self._members[caller]
            member.killed = True
            self._harm(member)
            self._signal(member, signal.SIGKILL)

    def _harm(self, member: _Member) -> None:
        self.harms.append(Harm(time.monotonic(), member.caller))

    def _rotate(self, caller: str, step: Step) -> None:
        keys, refused = self.site.keys, self.site.proxy.refused_keys
        old, new = keys.written[caller].key, keys.next_key()
        halves: list[Callable[[], None]] = [lambda: keys.write(caller, new), lambda: refused.add(old)]
        if step.how == Rotation.REFUSAL_FIRST:
            halves.reverse()
        halves[0]()
        self._later.append((time.monotonic() + step.seconds, halves[1]))

    def _hurt(self, member: _Member, step: Step) -> None:
        match step.action:
            case Action.KILL_DAEMON:
                self.kill(member.caller)
            case Action.KILL_RUNNER:
                for pid in children(member.process.process.pid, b"daemon.pipeline"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case Action.TERM_DAEMON:
                self._ask(member)
            case Action.TERM_THEN_KILL:
                self._ask(member)
                member.kill_at = time.monotonic() + step.seconds
            case Action.FREEZE_DAEMON:
                self._harm(member)
                self._signal(member, signal.SIGSTOP)
                member.thaw_at = time.monotonic() + step.seconds

    def _ask(self, member: _Member) -> None:
        # A daemon that has not yet installed its signal handlers may die of this, like any program.
        member.killed = member.killed or not any(member.process.log_entries("listening"))
        member.asked_at = member.asked_at or time.monotonic()
        member.asked_at_unix = member.asked_at_unix or time.time()
        self._signal(member, signal.SIGTERM)

    def _cut_short(self, member: _Member) -> None:
        """End the grace period, as a container's runtime does."""
        if member.asked_at is not None and member.thaw_at is None and not member.killed:
            self.stops.append(
                Stop(member.worker_id, member.caller, member.asked_at, member.asked_at_unix, time.monotonic())
            )
        self.kill(member.caller)

    def _signal(self, member: _Member, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            member.process.process.send_signal(number)

    # --- supervision

    def tend(self) -> None:
        """Carry out overdue actions and replace daemons that ended. Call several times per second."""
        now = time.monotonic()
        for due in [each for each in self._later if each[0] <= now]:
            self._later.remove(due)
            due[1]()
        with self._lock:
            for member in self._members.values():
                if member.thaw_at is not None and now >= member.thaw_at:
                    self._thaw(member)
                if member.process.process.poll() is not None:
                    self._judge(member)
                    member.lives += 1
                    member.process = self._start(member.caller, member.worker_id)
                    member.killed, member.asked_at, member.asked_at_unix = False, None, 0.0
                    member.thaw_at, member.kill_at = None, None
                elif member.kill_at is not None and now >= member.kill_at:
                    self._cut_short(member)
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

    def calm(self) -> None:
        """Resume all frozen daemons and finish the rotations."""
        while self._later:
            self._later.pop(0)[1]()
        with self._lock:
            for member in self._members.values():
                self._thaw(member)

    def _thaw(self, member: _Member) -> None:
        if member.thaw_at is not None:
            member.thaw_at = None
            if member.asked_at is not None:
                member.asked_at, member.asked_at_unix = time.monotonic(), time.time()
            self._signal(member, signal.SIGCONT)

    def _start(self, caller: str, worker_id: str) -> DaemonProcess:
        environment = {**self.site.environment(caller, worker_id), MARKER: self._marker}
        return DaemonProcess(environment, self.site.folder / f"{worker_id}.log").__enter__()

    def _judge(self, member: _Member) -> None:
        status = member.process.process.returncode
        if not member.killed and status not in CLEAN_EXITS:
            self.faults.append(f"{member.process.log_path.name}: ended with {status} without being killed")
        # Every line that a daemon writes is JSON: anything else is a traceback of a crashed interpreter.
        if lines := [entry["line"] for entry in member.process.log_entries("unstructured")]:
            self.faults.append(
                f"{member.process.log_path.name}: {len(lines)} lines that are not log entries, last: {lines[-1][:300]}"
            )
        for event in ("unhandled exception", "background task failed"):
            if lines := [json.dumps(entry) for entry in member.process.log_entries(event)]:
                self.faults.append(f"{member.process.log_path.name}: {len(lines)} times {event}: {lines[-1][:600]}")
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
