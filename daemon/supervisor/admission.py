"""Admission of jobs to the runner process: as many at once as fit into its memory, or one alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Waiter:
    audio_seconds: float
    alone: bool
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """FIFO admission: a job that does not fit blocks later ones, so none starves.

    The runner's memory grows with its audio, so the total audio of admitted jobs is limited. A job that exceeds the limit
    or must run alone is admitted when no other job is in the runner.
    """

    def __init__(self, max_audio_seconds: float) -> None:
        self._max_audio_seconds = max_audio_seconds
        self._inside: list[_Waiter] = []
        self._waiting: list[_Waiter] = []

    @property
    def audio_seconds(self) -> float:
        """Audio of the admitted jobs."""
        return sum(waiter.audio_seconds for waiter in self._inside)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_audio_seconds(self) -> float:
        return sum(waiter.audio_seconds for waiter in self._waiting)

    @asynccontextmanager
    async def enter(self, audio_seconds: float, *, alone: bool = False) -> AsyncIterator[None]:
        waiter = _Waiter(audio_seconds, alone)
        self._waiting.append(waiter)
        try:
            self._admit()
            await waiter.admitted.wait()
            yield
        finally:
            (self._inside if waiter.admitted.is_set() else self._waiting).remove(waiter)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            waiter = self._waiting.pop(0)
            self._inside.append(waiter)
            waiter.admitted.set()

    def _fits(self, waiter: _Waiter) -> bool:
        if not self._inside:
            return True
        if waiter.alone or any(other.alone for other in self._inside):
            return False
        return self.audio_seconds + waiter.audio_seconds <= self._max_audio_seconds
