"""The real daemon with faults injected into some of its parts: `python -m tests.support.dying_daemon PART…`.

`background` makes each supervised task raise on its first start and work after its restart. The other parts raise when
they are used.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from daemon import __main__, composition
from daemon.background import Supervisor, TaskName
from daemon.poller import Poller
from daemon.supervisor.state import RunnerRecord


class Fault(Exception):
    pass


class DyingSupervisor(Supervisor):
    def start(self, name: TaskName, run: Callable[[], Awaitable[None]], *, ends: bool = False) -> None:
        runs = 0

        async def fail_first() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                raise Fault
            await run()

        super().start(name, fail_first, ends=ends)


def fail(*_: Any) -> Any:
    raise Fault


FAULTS: dict[str, Callable[[], None]] = {
    "background": lambda: setattr(composition, "Supervisor", DyingSupervisor),
    "poller": lambda: setattr(Poller, "_dispatch", fail),
    "runner": lambda: setattr(RunnerRecord, "ended", fail),  # called when a runner process exits
}

if __name__ == "__main__":
    for part in sys.argv[1:]:
        FAULTS[part]()
    sys.argv[1:] = ["run"]
    sys.exit(__main__.main())
