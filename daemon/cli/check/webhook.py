"""The webhook receiver, tested by the daemon's own rules. No event is sent."""

from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

from daemon.cli.check.registry import CheckResult, check, failed, passed, skipped, warned
from daemon.config import Settings
from daemon.errors import ConfigError
from daemon.webhooks.client import WebhookClient
from daemon.webhooks.sinks import DeliveryFailed


@check(
    "webhook",
    "WEBHOOK_SECRET is well formed; WEBHOOK_URL resolves to an allowed address, its TLS certificate is valid, and it answers a HEAD request, with any status",
)
async def webhook(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    try:
        client = WebhookClient(settings)
    except ConfigError as error:
        rule, _, make = error.message.partition("; ")
        yield failed(rule, f"{make[:1].upper()}{make[1:]}")
        return
    if settings.webhook_secret:
        yield passed(f"{len(settings.webhook_secret)} well-formed signing secrets")
    if settings.webhook_url is None:
        yield skipped("WEBHOOK_URL is not set", "Set it and WEBHOOK_SECRET to send events by default.")
        return
    parts = urlsplit(settings.webhook_url)
    where = f"{parts.scheme}://{parts.hostname}" + (
        f":{parts.port}" if parts.port else ""
    )  # the rest of the URL may contain a token
    try:
        async with client:
            status = await client.probe(settings.webhook_url)
    except DeliveryFailed as error:
        if error.result == "refused":
            fix = "Use a receiver with a public address; in a closed network TRANSCRIPTD_WEBHOOK_ALLOW_HTTP=true allows any address."
        else:
            fix = "Check the URL, the receiver, its certificate, the route from this machine, and the proxy variables."
        yield failed(f"{where}: {error}", fix)
        return
    found = f"{where} answers, HTTP {status}"
    if 300 <= status < 400:
        yield warned(f"{found}: a redirect, which the daemon does not follow", "Set WEBHOOK_URL to its target.")
    else:
        yield passed(found)
