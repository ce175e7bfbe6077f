"""The reason of a failure is never empty."""

import asyncio

import pytest

from daemon.aws import imds
from daemon.aws.imds import Imds, MetadataUnavailable
from daemon.aws.sqs import translate_errors
from daemon.errors import QueueUnavailable
from daemon.telemetry.redaction import describe


def test_exception_without_a_message_is_named() -> None:
    assert describe(TimeoutError()) == "TimeoutError: no response in time"
    assert describe(ConnectionResetError()) == "ConnectionResetError"
    assert describe(OSError(" no route ")) == "no route"


def test_queue_timeout_has_a_reason() -> None:
    with (
        pytest.raises(QueueUnavailable, match="SQS ReceiveMessage failed: TimeoutError: no response in time"),
        translate_errors("ReceiveMessage"),
    ):
        raise TimeoutError


async def test_metadata_service_that_never_answers_has_a_reason_and_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an instance whose hop limit is 1, seen from a container: the connection opens, the response is dropped."""
    monkeypatch.setattr(imds, "TIMEOUT_SECONDS", 0.2)
    ended = asyncio.Event()

    async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Imds(f"http://127.0.0.1:{port}") as metadata:
        with pytest.raises(
            MetadataUnavailable, match=r"latest/api/token: .+; in a container, set the hop limit .* to 2"
        ):
            await metadata.get("instance-id")
        ended.set()
