"""A poller in the background, and a processor that only holds messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.aws.sqs import ReceivedMessage
from daemon.jobs.receive_limiter import WorkEstimate
from daemon.poller import Poller


class FakeProcessor:
    """A processor that holds each message for a while and records interruptions. Recordings have a known length after
    decoding."""

    def __init__(self, seconds: float, audio_seconds: float | None = None) -> None:
        self.seconds = seconds
        self.audio_seconds = audio_seconds
        self.estimates: list[WorkEstimate] = []
        self.done = asyncio.Event()
        self.held = self.most_held = self.finished = self.interrupted = 0

    async def process(self, message: ReceivedMessage, interrupt: asyncio.Event, estimate: WorkEstimate) -> None:
        self.estimates.append(estimate)
        if self.audio_seconds is not None:
            estimate.staged(self.audio_seconds)
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        try:
            async with asyncio.timeout(self.seconds):
                await interrupt.wait()
            self.interrupted += 1
        except TimeoutError:
            self.finished += 1
            self.done.set()
        finally:
            self.held -= 1


@asynccontextmanager
async def polling(poller: Poller) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(poller.run())
    try:
        yield task
    finally:
        poller.stop_receiving()
        poller.interrupt()
        await asyncio.wait((task,))
