"""All job queues. A call about a message goes to the queue that the message came from."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from aiobotocore.config import AioConfig

from daemon.aws.sqs import CONNECT_TIMEOUT_SECONDS, Queue, QueueLimits, ReceivedMessage, open_client
from daemon.config import Settings
from daemon.errors import TranscriptdError
from daemon.telemetry.metrics import Metrics


@asynccontextmanager
async def open_queues(settings: Settings, metrics: Metrics) -> AsyncIterator["Queues"]:
    """Open the queues of the settings with their own connections.

    The client does not retry: the lease limits a heartbeat's retries, the poller's backoff a receive's.
    """
    config = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT_SECONDS, settings.queue_timeout_seconds),
        read_timeout=settings.receive_wait_time_seconds + settings.queue_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=settings.max_jobs_in_flight * 2 + 4 * len(settings.queues),
    )
    # All queues are in one region (settings_rules.py).
    async with open_client(config, metrics, settings.queues[0].url) as client:
        yield Queues(Queue(client, settings, about) for about in settings.queues)


class Queues:
    """The job queues by name, the most urgent one first."""

    def __init__(self, queues: Iterable[Queue]) -> None:
        self._queues = {queue.about.name: queue for queue in queues}

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    async def limits(self, message: ReceivedMessage) -> QueueLimits:
        return await self._of(message).limits()

    async def extend(self, message: ReceivedMessage, seconds: float) -> None:
        await self._of(message).extend(message, seconds)

    async def release(self, message: ReceivedMessage) -> None:
        await self._of(message).release(message)

    async def retry(self, message: ReceivedMessage, delay_seconds: float) -> None:
        await self._of(message).retry(message, delay_seconds)

    async def delete(self, message: ReceivedMessage) -> None:
        await self._of(message).delete(message)

    async def dead_letter(self, message: ReceivedMessage, error: TranscriptdError, attempt: int) -> None:
        await self._of(message).dead_letter(message, error, attempt)

    def _of(self, message: ReceivedMessage) -> Queue:
        return self._queues[message.queue]
