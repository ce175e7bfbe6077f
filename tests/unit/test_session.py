"""Credentials that another program rotates are used for the next request, or for the repetition of a refused one."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiobotocore.config import AioConfig
from aiohttp import web

from daemon.aws.autoscaling import open_group
from daemon.aws.s3 import open_storage
from daemon.aws.sqs import open_client
from daemon.errors import StorageRefused
from daemon.telemetry.metrics import Metrics
from tests.support.builders import some_settings


def write(file: Path, key: str) -> None:
    """Replace the file as a rotating program does."""
    new = file.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")
    new.replace(file)


@pytest.fixture
def keys() -> list[str]:
    """The access keys that signed the requests so far."""
    return []


@asynccontextmanager
async def service(answer: Callable[[str, str], web.Response], keys: list[str]) -> AsyncIterator[str]:
    """Serve AWS's answers, made from the access key and the method of a request. Yields the address."""

    async def handle(request: web.Request) -> web.Response:
        found = re.search(r"Credential=(\w+)/", request.headers["Authorization"])
        keys.append(found[1] if found else "")
        return answer(keys[-1], request.method)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = web.AppRunner(app)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{server.addresses[0][1]}"
    finally:
        await server.cleanup()


@pytest.fixture
def credentials_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return tmp_path / "credentials"


def sqs_answer(*_: str) -> web.Response:
    return web.json_response({"Attributes": {}}, content_type="application/x-amz-json-1.0")


async def test_rotated_credentials_sign_the_next_request(
    credentials_file: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(credentials_file, "FIRST")
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: write(credentials_file, "SECOND"),
        lambda: credentials_file.write_text("[defau"),
        credentials_file.unlink,
        lambda: write(credentials_file, "THIRD"),
    ]
    async with service(sqs_answer, keys) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        async with open_client(AioConfig(), Metrics(), None) as client:
            for change in changes:
                change()
                await client.get_queue_attributes(QueueUrl=f"{url}/1/q")
    assert keys == ["FIRST", "SECOND", "SECOND", "SECOND", "THIRD"], "an incomplete or missing file changes nothing"


def write_program(credentials_file: Path, key: str) -> None:
    """Let a program return the key. Its credentials have no expiration, so botocore never runs it again."""
    output = credentials_file.with_name("output.json")
    output.write_text(f'{{"Version": 1, "AccessKeyId": "{key}", "SecretAccessKey": "secret"}}')
    credentials_file.with_name("config").write_text(f"[default]\ncredential_process = cat {output}\n")


async def test_refused_credentials_are_looked_up_again_whatever_their_source(
    credentials_file: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_first(key: str, _: str) -> web.Response:
        if key != "FIRST":
            return sqs_answer()
        write_program(credentials_file, "SECOND")
        body = {"__type": "com.amazonaws.sqs#ExpiredTokenException", "message": "expired"}
        return web.json_response(body, status=403, content_type="application/x-amz-json-1.0")

    write_program(credentials_file, "FIRST")
    async with service(refuse_first, keys) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        config = AioConfig(retries={"mode": "standard", "total_max_attempts": 1})
        async with open_client(config, Metrics(), None) as client:
            await client.get_queue_attributes(QueueUrl=f"{url}/1/q")
    assert keys == ["FIRST", "SECOND"]


async def test_refusal_of_a_head_request_has_no_code_and_is_repeated_too(
    credentials_file: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_first(key: str, _: str) -> web.Response:
        write_program(credentials_file, "SECOND")
        return web.Response(status=403 if key == "FIRST" else 200)

    write_program(credentials_file, "FIRST")
    async with service(refuse_first, keys) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        async with open_storage(some_settings()) as storage:
            await storage.head("results")
    assert keys == ["FIRST", "SECOND"]


async def test_request_is_not_repeated_with_the_credentials_that_were_refused(
    credentials_file: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: str) -> web.Response:
        return web.Response(status=403, text="<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>")

    write_program(credentials_file, "FIRST")
    async with service(refuse, keys) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        async with open_storage(some_settings()) as storage:
            with pytest.raises(StorageRefused):
                await storage.read("results", "manifest.json")
    assert keys == ["FIRST"]


async def test_auto_scaling_follows_the_rotation(
    credentials_file: Path, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_first(key: str, _: str) -> web.Response:
        if key != "FIRST":
            return web.Response(text="<R><SetInstanceHealthResult/></R>", content_type="text/xml")
        write(credentials_file, "SECOND")
        error = "<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>no</Message></Error></ErrorResponse>"
        return web.Response(status=403, text=error, content_type="text/xml")

    write(credentials_file, "FIRST")
    async with service(refuse_first, keys) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        async with open_group("fleet", "i-1") as group:
            assert await group.report_unhealthy()
    assert keys == ["FIRST", "SECOND"]
