"""Who may have a job in the runner process: as many at once as it has memory for, or one alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Guest:
    audio_seconds: float
    alone: bool
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """All enter in the order in which they came, so that nobody starves: who does not fit holds up those behind.

    Together they have no more audio than the limit, with which the runner's memory grows. One that has more than that by
    itself, or wants to be alone, enters when nobody is inside.
    """

    def __init__(self, max_audio_seconds: float) -> None:
        self._max_audio_seconds = max_audio_seconds
        self._inside: list[_Guest] = []
        self._waiting: list[_Guest] = []

    @property
    def audio_seconds(self) -> float:
        """Of those who are inside."""
        return sum(guest.audio_seconds for guest in self._inside)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_audio_seconds(self) -> float:
        return sum(guest.audio_seconds for guest in self._waiting)

    @asynccontextmanager
    async def enter(self, audio_seconds: float, *, alone: bool = False) -> AsyncIterator[None]:
        guest = _Guest(audio_seconds, alone)
        self._waiting.append(guest)
        try:
            self._admit()
            await guest.admitted.wait()
            yield
        finally:
            (self._inside if guest.admitted.is_set() else self._waiting).remove(guest)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            guest = self._waiting.pop(0)
            self._inside.append(guest)
            guest.admitted.set()

    def _fits(self, guest: _Guest) -> bool:
        if not self._inside:
            return True
        if guest.alone or any(other.alone for other in self._inside):
            return False
        return self.audio_seconds + guest.audio_seconds <= self._max_audio_seconds
