"""Credentials that another program rotates in the shared credentials file are used for the next request."""

import re
from pathlib import Path

import pytest
from aiobotocore.config import AioConfig
from aiohttp import web

from daemon.aws.sqs import open_client
from daemon.telemetry.metrics import Metrics


def write(file: Path, key: str) -> None:
    """Replace the file as a rotating program does."""
    new = file.with_suffix(".new")
    new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")
    new.replace(file)


async def test_rotated_credentials_sign_the_next_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        found = re.search(r"Credential=(\w+)/", request.headers["Authorization"])
        keys.append(found[1] if found else "")
        return web.json_response({"Attributes": {}}, content_type="application/x-amz-json-1.0")

    app = web.Application()
    app.router.add_post("/", answer)
    server = web.AppRunner(app)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{server.addresses[0][1]}"

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    write(file, "FIRST")
    try:
        async with open_client(AioConfig(), Metrics(), None) as client:
            for change in (lambda: None, lambda: write(file, "SECOND"), lambda: file.write_text("[defau"), file.unlink):
                change()
                await client.get_queue_attributes(QueueUrl=f"{url}/1/q")
            write(file, "THIRD")
            await client.get_queue_attributes(QueueUrl=f"{url}/1/q")
    finally:
        await server.cleanup()
    assert keys == ["FIRST", "SECOND", "SECOND", "SECOND", "THIRD"], "an incomplete or missing file changes nothing"
