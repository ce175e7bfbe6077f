"""Which proxy a webhook uses, and the check of the receiver's address before a proxy is used."""

import asyncio
import base64
import socket
from typing import Any

import pytest
from pydantic import SecretStr

from bench.world import SECRET
from daemon.errors import ConfigError
from daemon.webhooks.client import WebhookClient
from daemon.webhooks.proxy import Proxies
from daemon.webhooks.sinks import DeliveryFailed
from tests.support.builders import some_settings

HTTPS = {"https": "http://proxy:3128"}
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "REQUEST_METHOD")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "https://hooks.example.com/", False),
        ("*", "https://hooks.example.com/", True),
        ("hooks.example.com", "https://hooks.example.com/", True),
        ("HOOKS.example.com", "https://hooks.EXAMPLE.com/", True),
        ("example.com", "https://hooks.example.com/", True),
        (".example.com", "https://hooks.example.com/", True),
        ("example.com", "https://badexample.com/", False),
        ("hooks.example.com", "https://example.com/", False),
        ("a.test, hooks.example.com ,b.test", "https://hooks.example.com/", True),
        ("hooks.example.com:8443", "https://hooks.example.com:8443/", True),
        ("hooks.example.com:8443", "https://hooks.example.com/", False),
        ("10.0.0.1", "https://10.0.0.1:9/", True),
        ("hooks.example.com", "https://user:p%40ss@hooks.example.com/", True),
        ("10.0.0.0/8", "https://10.0.0.1/", False),
    ],
)
def test_no_proxy(no_proxy: str, url: str, *, direct: bool) -> None:
    assert (Proxies({**HTTPS, "no": no_proxy}).for_url(url) is None) is direct


@pytest.mark.parametrize("upper", [True, False])
def test_both_cases_of_the_variables_count(upper: bool, environment: pytest.MonkeyPatch) -> None:
    for name, value in {"https_proxy": "http://a:1", "http_proxy": "b:2", "no_proxy": "near.test"}.items():
        environment.setenv(name.upper() if upper else name, value)
    proxies = Proxies.from_environment()
    chosen = [proxies.for_url(url) for url in ("https://far.test/", "http://far.test/", "https://near.test/")]
    assert [str(proxy.url) if proxy else None for proxy in chosen] == ["http://a:1", "http://b:2", None]


def test_lower_case_wins(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "http://upper:1")
    environment.setenv("https_proxy", "http://lower:1")
    proxy = Proxies.from_environment().for_url("https://far.test/")
    assert proxy is not None
    assert proxy.url.host == "lower"


def test_credentials_are_kept_apart_from_the_url() -> None:
    proxy = Proxies({"https": "http://us%40er:p%C3%A4ss@proxy:3128/"}).for_url("https://far.test/")
    assert proxy is not None
    assert str(proxy.url) == "http://proxy:3128"
    assert proxy.authorization == "Basic " + base64.b64encode("us@er:päss".encode()).decode()
    assert proxy.authorization not in repr(proxy)


@pytest.mark.parametrize("value", ["socks5://u:hidden@proxy:1080", "http://", "http://u:hidden@proxy:port"])
def test_unusable_proxy_is_refused_without_its_credentials(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY: must be http") as refused:
        Proxies({"https": value})
    assert "hidden" not in str(refused.value)


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    async def resolve(self: object, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("addresses", "result", "reason"),
    [
        (("10.0.0.1",), "refused", "the receiver's address is not public"),
        (("93.184.215.14", "10.0.0.1"), "refused", "the receiver's address is not public"),
        ((), "failed", "cannot resolve the receiver's name to check its address before the proxy is used"),
    ],
)
async def test_proxy_is_not_called_for_a_receiver_that_is_not_proved_public(
    addresses: tuple[str, ...], result: str, reason: str, environment: pytest.MonkeyPatch
) -> None:
    called = asyncio.Event()

    async def proxy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        environment.setenv("HTTPS_PROXY", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        resolves_to(environment, *addresses)
        async with WebhookClient(some_settings(webhook_secret=(SecretStr(SECRET),))) as client:
            with pytest.raises(DeliveryFailed, match=f"^{reason}") as failure:
                await client.probe("https://hooks.example.com/")
    assert failure.value.result == result
    assert not called.is_set()


async def test_plain_http_request_carries_the_credentials_of_the_proxy(environment: pytest.MonkeyPatch) -> None:
    heads: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        environment.setenv("HTTP_PROXY", f"http://u:p@127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with WebhookClient(some_settings(webhook_allow_http=True)) as client:
            assert await client.probe("http://hooks.example.com/a") == 204
    assert heads[0].startswith("HEAD http://hooks.example.com/a HTTP/1.1\r\n")
    assert "\r\nProxy-Authorization: Basic dTpw\r\n" in heads[0]
