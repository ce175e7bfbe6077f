"""Virtual time for several processes at once: hours pass in milliseconds, in the same order every time.

Each simulated process has an event loop of its own, so that one can stand still, as after SIGSTOP, while the others and
the services that they call go on. A process that goes on finds that its clock has jumped.
"""

import asyncio
import heapq
import itertools
import sys
import time
from collections.abc import Callable
from contextvars import Context
from types import SimpleNamespace
from typing import Any, TypeVarTuple

import pytest

EPOCH = 1_800_000_000.0
NEVER = float("inf")
TURN_SECONDS = 1e-6  # a turn of a loop takes time, or code that waits for a moment to pass would wait for ever

Args = TypeVarTuple("Args")


class Clock:
    """The time that all loops share, and what services do at some time outside of any process."""

    def __init__(self) -> None:
        self.now = 0.0
        self._loops: list[VirtualLoop] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def open_loop(self) -> "VirtualLoop":
        loop = VirtualLoop(self)
        self._loops.append(loop)
        return loop

    def close_loop(self, loop: "VirtualLoop") -> None:
        """End what still runs on the loop. What it would do to the world on its way out is for the caller to prevent."""
        self._loops.remove(loop)
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.drive()
        loop.close()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), callback))

    def advance(self, seconds: float) -> None:
        """Let everything happen that is due within so many seconds, in the order of its time."""
        end = self.now + seconds
        while (due := self._next_due()) <= end:
            self.now = max(self.now, due)
            while self._timers and self._timers[0][0] <= self.now:
                heapq.heappop(self._timers)[2]()
            for loop in self._loops:
                if loop.wakes_at <= self.now:
                    loop.drive()
        self.now = max(self.now, end)

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Show this time to every module of the daemon that asks for the time."""
        shown = SimpleNamespace(**vars(time))
        shown.monotonic = lambda: self.now
        shown.time = lambda: EPOCH + self.now
        for name, module in list(sys.modules.items()):
            if name.startswith("daemon.") and vars(module).get("time") is time:
                monkeypatch.setattr(module, "time", shown)

    def _next_due(self) -> float:
        return min([self._timers[0][0] if self._timers else NEVER, *(loop.wakes_at for loop in self._loops)])


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that runs until it would have to wait, and says until when."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.paused = False
        self._clock = clock
        self._due = 0.0
        self._selector = SimpleNamespace(select=self._select)  # what BaseEventLoop waits with

    @property
    def wakes_at(self) -> float:
        return NEVER if self.paused else self._due

    def drive(self) -> None:
        self.run_forever()

    def time(self) -> float:
        return self._clock.now

    def call_soon(
        self, callback: Callable[[*Args], object], *args: *Args, context: Context | None = None
    ) -> asyncio.Handle:
        self._due = 0.0  # it may be called from outside, with an answer
        return super().call_soon(callback, *args, context=context)

    def _select(self, timeout: float | None) -> list[Any]:
        self._clock.now += TURN_SECONDS
        if timeout is None or timeout > 0:
            self._due = NEVER if timeout is None else self._clock.now + timeout
            self.stop()
        return []

    def _process_events(self, events: list[Any]) -> None:
        """There are none: nothing real is waited for."""
