"""`transcriptd webhook send` and `resend`: a signed test event, and the final events of ended jobs once more.

A re-sent event is built from the job's manifest or its status, and keeps its ID, so a receiver that has it ignores it.
"""

import asyncio
import json
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from daemon.cli.command import (
    EXIT_FAILED,
    EXIT_OK,
    ToolError,
    UsageError,
    contract_settings,
    err,
    open_s3,
    printable,
    read_object,
    require_job_id,
    required,
    results_place,
)
from daemon.cli.jobs import find_jobs
from daemon.config import Settings
from daemon.errors import WebhookNotAllowed
from daemon.jobs.notifications import past_completion, past_end
from daemon.jobs.result_store import WEBHOOK_NAME
from daemon.schema.job_status import STATUS_NAME, JobStatus
from daemon.schema.manifest import MANIFEST_NAME, Manifest
from daemon.webhooks.client import WebhookClient
from daemon.webhooks.events import WebhookEvent
from daemon.webhooks.sinks import DeliveryFailed
from daemon.webhooks.ssrf import check_webhook_url

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

TESTED = "2xx expected; a receiver must accept this type of event and do nothing else"


def send(arguments: Namespace) -> int:
    """Send a test event. Its signature is real, its job is not."""
    settings, url = _receiver(arguments)
    event = WebhookEvent(job_id=None, status="test", attempt=0, metadata={"sent_by": "transcriptd webhook send"})
    return asyncio.run(_post(settings, url, [event]))


def resend(arguments: Namespace) -> int:
    """Send the final events of the named jobs, or of all that changed within --since."""
    if bool(arguments.job_ids) == (arguments.since is not None):
        raise UsageError("name the jobs, or select them with --since")
    for job_id in arguments.job_ids:
        require_job_id(job_id)
    settings, url = _receiver(arguments)
    bucket, prefix = results_place(arguments)
    s3 = open_s3(settings)
    if arguments.job_ids:
        places = [f"{prefix}{job_id}/" for job_id in arguments.job_ids]
    else:
        found, _ = find_jobs(s3, bucket, prefix, time.time() - arguments.since)
        places = [each.prefix for each in sorted(found)]
    events = []
    for place in places:
        event = _event(s3, bucket, place)
        if event is None:
            if arguments.job_ids:
                raise ToolError(f"the job at s3://{bucket}/{place} has not ended; nothing was sent")
        elif not (arguments.undelivered and _delivered(s3, bucket, place, event)):
            events.append(event)
    return asyncio.run(_post(settings, url, events))


def _event(s3: "S3Client", bucket: str, place: str) -> WebhookEvent | None:
    """Return the final event of the job at `place` (`<prefix><job_id>/`), or None if the job has not ended."""
    try:
        if body := read_object(s3, bucket, place + MANIFEST_NAME):
            return past_completion(Manifest.model_validate_json(body), bucket, place)
        if body := read_object(s3, bucket, place + STATUS_NAME):
            return past_end(JobStatus.model_validate_json(body), bucket, place)
    except ValidationError as error:
        raise ToolError(f"s3://{bucket}/{place} has a manifest or a status that is not valid") from error
    return None


def _receiver(arguments: Namespace) -> tuple[Settings, str]:
    """Return the settings and the address to send to."""
    url, _ = required(arguments.url, "webhook_url"), required(None, "webhook_secret")
    settings = contract_settings()
    try:
        return settings, check_webhook_url(url, settings)
    except WebhookNotAllowed as error:
        raise UsageError(error.message) from error


def _delivered(s3: "S3Client", bucket: str, place: str, event: WebhookEvent) -> bool:
    """Return whether the daemon recorded that it delivered this event."""
    try:
        record = json.loads(read_object(s3, bucket, place + WEBHOOK_NAME) or "{}")
    except ValueError:
        return False
    return isinstance(record, dict) and (record.get("event_id"), record.get("result")) == (event.id, "delivered")


async def _post(settings: Settings, url: str, events: Sequence[WebhookEvent]) -> int:
    """Make one attempt for each event, and report it."""
    failed = 0
    async with WebhookClient(settings) as client:
        for event in events:
            started_at = time.monotonic()
            try:
                result = f"HTTP {await client.post(url, event)}"
            except DeliveryFailed as failure:
                failed += 1
                result = f"failed: {failure}" + (f" ({TESTED})" if event.status == "test" and failure.status else "")
            seconds = time.monotonic() - started_at
            print(printable(f"{event.job_id or '–'}  {event.type}  {event.id}  {result}  {seconds:.2f} s"))
    err.print(f"{len(events) - failed} delivered, {failed} failed")
    return EXIT_FAILED if failed else EXIT_OK
