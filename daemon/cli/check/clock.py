"""This machine's clock compared with AWS's: AWS rejects signatures made with a wrong clock."""

import time
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime

import aiohttp

from daemon.aws.session import open_session
from daemon.cli.check.aws import CONFIG, calling
from daemon.cli.check.registry import CheckResult, check, failed, passed, skipped, warned
from daemon.config import Settings

WARN_SECONDS = 30
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, RequestTimeTooSkewed: 15 minutes; SQS allows 5.
FAIL_SECONDS = 300
TIMEOUT_SECONDS = 10.0
FIX = "Synchronize the clock: start chrony or systemd-timesyncd; EC2's time server is 169.254.169.123."


@check("clock", "this machine's clock agrees with the Date header of SQS and S3, taken from unsigned requests")
async def clock(_: Settings) -> AsyncGenerator[CheckResult, None]:
    skews: dict[str, float] = {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        for service in ("sqs", "s3"):
            with calling("endpoint lookup", service.upper()):
                async with (await open_session()).client(service, config=CONFIG) as client:
                    url = client.meta.endpoint_url
            with calling("HEAD", url):
                skew = await _skew(session, url)
            if skew is not None:
                skews[service] = skew
    if not skews:
        yield skipped(
            "no response from SQS or S3 has a Date header", "Check the endpoint, and check the clock manually."
        )
        return
    service, worst = max(skews.items(), key=lambda item: abs(item[1]))
    found = f"{abs(worst):.0f} s {'behind' if worst > 0 else 'ahead of'} {service.upper()}"
    if abs(worst) > FAIL_SECONDS:
        yield failed(f"{found}: AWS rejects signatures", FIX)
    elif abs(worst) > WARN_SECONDS:
        yield warned(found, FIX)
    else:
        yield passed(f"within {max(1, round(abs(worst)))} s of {service.upper()}")


async def _skew(session: aiohttp.ClientSession, url: str) -> float | None:
    """Return how many seconds AWS's clock is ahead of ours; None if the response has no Date header."""
    sent_at = time.time()
    async with session.head(url, allow_redirects=False) as response:
        middle = (sent_at + time.time()) / 2
        try:
            # The header is truncated to whole seconds.
            return parsedate_to_datetime(response.headers.get("Date", "")).timestamp() + 0.5 - middle
        except (ValueError, OverflowError):
            return None
