"""Virtual time for several processes at once: hours pass in milliseconds, always in the same order.

Each simulated process has its own event loop, so that one can be paused, as by SIGSTOP, while the others and the
services they call continue. A resumed process finds that its clock has jumped.
"""

import asyncio
import functools
import heapq
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from contextvars import Context
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import pytest

EPOCH = 1_800_000_000.0
NEVER = float("inf")
TURN_SECONDS = 1e-6  # an iteration of a loop takes time, or code that polls the clock would spin forever

# Modules that read the time directly instead of through a Clock.
PATCHED = ("daemon.", "tenacity")

Args = TypeVarTuple("Args")
P = ParamSpec("P")
T = TypeVar("T")


class VirtualTime:
    """The time shared by all loops, with timers for services outside of any process. Implements
    `daemon.clock.Clock`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._loops: list[VirtualLoop] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return EPOCH + self.now

    def open_loop(self) -> "VirtualLoop":
        loop = VirtualLoop(self)
        self._loops.append(loop)
        return loop

    def close_loop(self, loop: "VirtualLoop") -> None:
        """Cancel what still runs on the loop. The caller must prevent side effects of the cleanup."""
        self._loops.remove(loop)
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.drive()
        loop.close()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), callback))

    def advance(self, seconds: float) -> None:
        """Advance the time by `seconds` and run everything that becomes due, in order."""
        end = self.now + seconds
        while (due := self._next_due()) <= end:
            self.now = max(self.now, due)
            while self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()
            for loop in self._loops:
                if loop.wakes_at <= self.now:
                    loop.drive()
        self.now = max(self.now, end)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on its own loop until it ends, and return its result."""
        loop = self.open_loop()
        task = loop.create_task(work)
        try:
            while not task.done():
                due = self._next_due()
                if due == NEVER:
                    raise RuntimeError("deadlock: nothing is scheduled, and the coroutine has not ended")
                self.advance(max(0.0, due - self.now))
            return task.result()
        finally:
            self.close_loop(loop)

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the time in modules that read it directly: modules of the daemon, and tenacity."""
        shown = SimpleNamespace(**vars(time))
        shown.monotonic = self.monotonic
        shown.time = self.unix
        for name, module in list(sys.modules.items()):
            if name.startswith(PATCHED) and vars(module).get("time") is time:
                monkeypatch.setattr(module, "time", shown)

    def _next_due(self) -> float:
        return min([self._timers[0][0] if self._timers else NEVER, *(loop.wakes_at for loop in self._loops)])


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that runs until it would wait, and reports until when."""

    def __init__(self, clock: VirtualTime) -> None:
        super().__init__()
        self.clock = clock
        self.paused = False
        self._due = 0.0
        self._selector = SimpleNamespace(select=self._select)  # the method that BaseEventLoop waits with

    @property
    def wakes_at(self) -> float:
        return NEVER if self.paused else self._due

    def drive(self) -> None:
        self.run_forever()

    def stand_still(self, seconds: float) -> None:
        """Let time pass without running the loop, as during SIGSTOP."""
        self.clock.now += seconds

    def time(self) -> float:
        return self.clock.now

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        self._due = 0.0  # may be called from outside, with a response
        return super().call_soon(callback, *args, context=context)

    def _select(self, timeout: float | None) -> list[Any]:
        self.clock.now += TURN_SECONDS
        if timeout is None or timeout > 0:
            self._due = NEVER if timeout is None else self.clock.now + timeout
            self.stop()
        return []

    def _process_events(self, events: list[Any]) -> None:
        """Do nothing: no real I/O is awaited."""


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an asynchronous test on a virtual loop, so that the order of events does not depend on the speed of the
    machine.

    Only for tests without real I/O. The code under test reads the time from the loop or from `virtual_time()`.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        VirtualTime().run(test(*args, **kwargs))

    return run


def virtual_loop() -> VirtualLoop:
    """Return the loop of a test that runs in virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def virtual_time() -> VirtualTime:
    """Return the clock of a test that runs in virtual time."""
    return virtual_loop().clock
