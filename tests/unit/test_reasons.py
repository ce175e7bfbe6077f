"""The reason of a failure is never empty."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from boto3.exceptions import Boto3Error

from daemon.aws import imds
from daemon.aws.download import _write_body, _WrongPart
from daemon.aws.imds import Imds, MetadataUnavailable
from daemon.aws.sqs import translate_errors
from daemon.cli.check.command import run_check
from daemon.cli.check.registry import Check, CheckResult, passed
from daemon.cli.command import EXIT_AWS, run
from daemon.config import Settings
from daemon.errors import QueueUnavailable
from daemon.jobs.processor import _fault
from daemon.telemetry.redaction import describe, describe_with_type
from daemon.webhooks.client import WebhookClient
from daemon.webhooks.sinks import DeliveryFailed
from tests.support.builders import some_settings


def test_exception_without_a_message_is_named() -> None:
    assert describe(TimeoutError()) == "TimeoutError: no response in time"
    assert describe(ConnectionResetError()) == "ConnectionResetError"
    assert describe(OSError(" no route ")) == "no route"


def test_type_of_an_exception_stands_before_its_message() -> None:
    assert describe_with_type(TimeoutError()) == "TimeoutError: no response in time"
    assert describe_with_type(MemoryError()) == "MemoryError"
    assert describe_with_type(ValueError("ValueErrors are bad")) == "ValueError: ValueErrors are bad"
    assert _fault(AssertionError()).message == "AssertionError"


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


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """The port of a server that accepts connections and never answers."""
    ended = asyncio.Event()

    async def never_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        ended.set()


async def test_webhook_receiver_that_never_answers_has_a_reason_without_the_url(silent_port: int) -> None:
    async with WebhookClient(some_settings(webhook_allow_http=True, webhook_timeout_seconds=0.2)) as client:
        with pytest.raises(DeliveryFailed, match=r"^no complete response in time$"):
            await client.probe(f"http://127.0.0.1:{silent_port}/?token=secret")


async def test_webhook_receiver_whose_addresses_all_refuse_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several failed addresses become one error without a system message, which aiohttp shows as `None`."""

    async def resolve(_: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [
            {"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for address in ("127.0.0.1", "127.0.0.2")
        ]

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with WebhookClient(some_settings(webhook_allow_http=True)) as client:
        with pytest.raises(DeliveryFailed) as failure:
            await client.probe(f"http://receiver.test:{port}/?token=secret")
    start, _, reason = str(failure.value).partition(": ")
    assert start == f"cannot connect to receiver.test:{port}"
    assert "Connect call failed" in reason


async def test_download_that_stalls_has_a_reason(tmp_path: Path) -> None:
    class Body:
        async def iter_chunks(self, _: int) -> AsyncIterator[bytes]:
            yield b"RIFF"
            raise TimeoutError

    with (
        (tmp_path / "recording").open("wb") as file,
        pytest.raises(_WrongPart, match="after 4 of 8 bytes: TimeoutError: no response in time"),
    ):
        await _write_body(Body(), file.fileno(), 0, 8)


def test_command_that_aws_fails_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise Boto3Error

    assert run("submit", fail) == EXIT_AWS
    assert capsys.readouterr().err == "transcriptd submit: AWS: Boto3Error\n"


async def test_check_that_crashes_has_a_reason() -> None:
    async def crash(settings: Settings) -> AsyncGenerator[CheckResult, None]:
        if settings.queue_url:
            raise AssertionError
        yield passed("nothing")

    (finding,) = await run_check(Check("crashing", "about", "none", 60.0, crash), some_settings())
    assert finding.found == "the check itself failed: AssertionError"
