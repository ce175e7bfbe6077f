"""Who may have a job in the runner process: many at once, or one alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Admission:
    """Many are inside together, unless somebody wants to be alone: then nobody enters before it has been."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = 0  # those who want to be alone, the one who is among them
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def enter(self, *, alone: bool = False) -> AsyncIterator[None]:
        self._alone += alone
        try:
            await self._wait_until(lambda: self._inside == 0 if alone else self._alone == 0)
            self._inside += 1
            try:
                yield
            finally:
                self._inside -= 1
        finally:
            self._alone -= alone
            self._wake()

    async def _wait_until(self, free: Callable[[], bool]) -> None:
        while not free():
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():  # whoever waited for it may have been cancelled
                turn.set_result(None)
