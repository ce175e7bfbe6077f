"""This machine's clock against AWS's: signatures of a wrong one are refused."""

import time
from collections.abc import AsyncGenerator
from email.utils import parsedate_to_datetime

import aioboto3
import aiohttp

from daemon.tools.check.aws import CONFIG, calling
from daemon.tools.check.registry import Context, Finding, check, failed, passed, skipped, warned

WARN_SECONDS = 30
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, RequestTimeTooSkewed: 15 minutes; SQS allows 5.
FAIL_SECONDS = 300
TIMEOUT_SECONDS = 10.0
FIX = "Set the clock: start chrony or systemd-timesyncd; on EC2 169.254.169.123 gives the time."


@check("clock", "this machine's clock against the Date of answers of SQS and S3, which are asked without a signature")
async def clock(_: Context) -> AsyncGenerator[Finding, None]:
    skews: dict[str, float] = {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
        for service in ("sqs", "s3"):
            with calling("its address", service.upper()):
                async with aioboto3.Session().client(service, config=CONFIG) as client:
                    url = client.meta.endpoint_url
            with calling("HEAD", url):
                skew = await _skew(session, url)
            if skew is not None:
                skews[service] = skew
    if not skews:
        yield skipped("no answer of SQS or S3 has a Date", "Check what answers in AWS's place, and the clock by hand.")
        return
    service, worst = max(skews.items(), key=lambda item: abs(item[1]))
    found = f"{abs(worst):.0f} s {'behind' if worst > 0 else 'ahead of'} {service.upper()}"
    if abs(worst) > FAIL_SECONDS:
        yield failed(f"{found}: AWS refuses signatures", FIX)
    elif abs(worst) > WARN_SECONDS:
        yield warned(found, FIX)
    else:
        yield passed(f"within {max(1, round(abs(worst)))} s of {service.upper()}")


async def _skew(session: aiohttp.ClientSession, url: str) -> float | None:
    """Seconds that AWS's clock is ahead of ours; None where the answer, of whatever status, has no Date."""
    sent_at = time.time()
    async with session.head(url, allow_redirects=False) as response:
        middle = (sent_at + time.time()) / 2
        try:
            # It is cut to whole seconds.
            return parsedate_to_datetime(response.headers.get("Date", "")).timestamp() + 0.5 - middle
        except (ValueError, OverflowError):
            return None
