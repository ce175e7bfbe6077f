"""The queues: what they are, how they are set, and which of the daemon's calls they take. No message is received or sent.

A call with a receipt handle that is none changes nothing, and is refused for the handle only where it is allowed: SQS
looks at permissions first.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from daemon.metrics import Metrics
from daemon.sqs import open_client
from daemon.tools.check.aws import CONFIG, DENIED, NO_QUEUE, Denied, calling
from daemon.tools.check.registry import Context, Ends, Finding, Status, check, failed, passed, skipped, warned

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

NO_HANDLE = "transcriptd-check"
LEAST_RECEIVES = 10  # docs/delivery.md
RECEIVES_PER_TRY = 2  # an event waits on the outbox in several steps
LOOK = "sqs:GetQueueAttributes"
NOT_TRIED = "The first job shows it; the role needs it (deploy/terraform/iam.tf)."

Attributes = Mapping[str, str]


@asynccontextmanager
async def _sqs() -> "AsyncIterator[SQSClient]":
    """A client; whatever goes wrong with it ends the check."""
    with calling("sqs", "SQS"):
        async with open_client(CONFIG, Metrics()) as client:
            yield client


async def _look(sqs: "SQSClient", url: str) -> Attributes:
    """The queue's attributes. Raises Denied or Ends."""
    with calling(LOOK, _where(url, sqs)):
        answer: dict[str, Any] = {**await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])}
        return dict(answer.get("Attributes") or {})


def _where(url: str, sqs: "SQSClient") -> str:
    named = re.match(r"https://sqs\.([a-z0-9-]+)\.amazonaws\.", url)
    differs = named and named[1] != sqs.meta.region_name
    return f"{url} (asked in {sqs.meta.region_name}, the URL says {named[1]})" if named and differs else url


async def _try_handles(sqs: "SQSClient", url: str) -> list[Finding]:
    """Which of ChangeMessageVisibility and DeleteMessage are allowed, tried with a handle that is none. Raises Ends."""
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "sqs:ChangeMessageVisibility": lambda: sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=NO_HANDLE, VisibilityTimeout=0
        ),
        "sqs:DeleteMessage": lambda: sqs.delete_message(QueueUrl=url, ReceiptHandle=NO_HANDLE),
    }
    findings = []
    for action, call in calls.items():
        try:
            with calling(action, url):
                try:
                    await call()
                except ClientError as error:
                    answer = error.response.get("Error", {})
                    about_handle = "receipt" in (answer.get("Code", "") + answer.get("Message", "")).lower()
                    if not about_handle or answer.get("Code") in DENIED | NO_QUEUE:
                        raise
        except Denied as denied:
            findings.append(denied.finding)
    return findings or [passed(f"{' and '.join(calls)} are allowed")]


def _judge_kind(attributes: Attributes, url: str) -> list[Finding]:
    """Standard, and encrypted."""
    findings = []
    if attributes.get("FifoQueue") == "true" or url.endswith(".fifo"):
        findings.append(failed(f"{url} is a FIFO queue", "Use a standard queue: jobs are independent of each other."))
    if attributes.get("SqsManagedSseEnabled") != "true" and not attributes.get("KmsMasterKeyId"):
        findings.append(
            warned(f"{url} is not encrypted at rest", "Turn on SSE-SQS (SqsManagedSseEnabled), or SSE-KMS.")
        )
    return findings


@check(
    "queue",
    "the job queue exists, is standard and encrypted; messages may be extended and deleted. Receiving is not tried: it would take a job",
    actions="`sqs:GetQueueAttributes`, `sqs:ChangeMessageVisibility`, `sqs:DeleteMessage`",
)
async def queue(context: Context) -> AsyncGenerator[Finding, None]:
    url = context.settings.queue_url
    async with _sqs() as sqs:
        attributes = await _look(sqs, url)
        yield passed(f"{url}: about {attributes.get('ApproximateNumberOfMessages', '?')} waiting")
        for finding in (*_judge_kind(attributes, url), *await _try_handles(sqs, url)):
            yield finding
    yield skipped("sqs:ReceiveMessage was not tried: it would take a job", NOT_TRIED)


@check(
    "redrive",
    "the job queue's redrive policy: the backstop for messages that no daemon settles, well above the daemon's own limits",
    actions="`sqs:GetQueueAttributes` on the job queue",
)
async def redrive(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    async with _sqs() as sqs:
        attributes = await _look_again(sqs, settings.queue_url)
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    target = str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]
    ours = settings.dlq_url.rstrip("/").rpartition("/")[2]
    if not target:
        yield warned(
            f"{settings.queue_url} has no redrive policy: a message that no daemon settles comes back until it expires",
            f"Set its redrive policy to {ours} with a maxReceiveCount of {_wanted(context)} or more.",
        )
        return
    receives = int(policy.get("maxReceiveCount", 0))
    found = f"after {receives} receives to {target}; the daemon gives up after {settings.max_attempts} attempts"
    if receives <= settings.max_attempts:
        yield failed(
            f"{found}: SQS moves jobs first, without a reason",
            f"Raise maxReceiveCount to {_wanted(context)} or more: interruptions count there as well.",
        )
    elif receives < _wanted(context):
        yield warned(found, f"Raise maxReceiveCount to {_wanted(context)} or more: interruptions count there as well.")
    else:
        yield passed(found)
    if target != ours:
        yield warned(
            f"SQS moves messages to {target}, the daemon to {ours}",
            "Let the redrive policy and TRANSCRIPTD_DLQ_URL name one queue.",
        )


def _wanted(context: Context) -> int:
    """The least maxReceiveCount that is well above the daemon's own limits."""
    own = context.settings.max_attempts + context.settings.quarantine_deliveries
    return max(LEAST_RECEIVES, own + own // 2)


@check(
    "dead-letters",
    "the dead-letter queue exists, is standard and encrypted, and keeps messages longer than the job queue. Sending is not tried",
    actions="`sqs:GetQueueAttributes` on both queues; without it the check is skipped",
)
async def dead_letters(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    async with _sqs() as sqs:
        attributes = await _look_if_allowed(sqs, settings.dlq_url)
        yield passed(f"{settings.dlq_url}: about {attributes.get('ApproximateNumberOfMessages', '?')} in it")
        for finding in _judge_kind(attributes, settings.dlq_url):
            yield finding
        jobs = await _look_again(sqs, settings.queue_url)
    kept, waiting = _retention(attributes), _retention(jobs)
    # A message that SQS moves keeps the age it has.
    if kept <= waiting:
        yield warned(
            f"dead letters are kept {kept / 86400:g} days, jobs {waiting / 86400:g}: what SQS moves may expire at once",
            "Raise the dead-letter queue's MessageRetentionPeriod to 14 days.",
        )
    yield skipped("sqs:SendMessage was not tried: it would make a dead letter", NOT_TRIED)


@check(
    "outbox",
    "the webhook outbox exists, is standard and encrypted, and keeps events to the end of the schedule. Sending and receiving are not tried",
    actions="`sqs:ChangeMessageVisibility`, `sqs:DeleteMessage`, `sqs:GetQueueAttributes`",
)
async def outbox(context: Context) -> AsyncGenerator[Finding, None]:
    url, schedule = context.settings.outbox_url, context.settings.webhook_schedule_seconds
    if url is None:
        yield skipped("TRANSCRIPTD_OUTBOX_URL is not set", "Set it if webhooks are to outlive a receiver's bad day.")
        return
    async with _sqs() as sqs:
        attributes: Attributes | None = None
        try:
            attributes = await _look_if_allowed(sqs, url)
        except Ends as end:
            if end.finding.status is not Status.SKIPPED:
                raise
            yield end.finding
        for finding in await _try_handles(sqs, url):
            yield finding
    yield skipped("sqs:SendMessage and sqs:ReceiveMessage were not tried: they would make or take an event", NOT_TRIED)
    if attributes is None:
        return
    yield passed(f"{url}: about {attributes.get('ApproximateNumberOfMessages', '?')} waiting")
    for finding in _judge_kind(attributes, url):
        yield finding
    if (kept := _retention(attributes)) <= schedule[-1]:
        yield warned(
            f"events are kept {kept / 3600:g} h, the schedule takes {schedule[-1] / 3600:g} h",
            "Raise the outbox's MessageRetentionPeriod above the last of TRANSCRIPTD_WEBHOOK_SCHEDULE_SECONDS.",
        )
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    if policy and int(policy.get("maxReceiveCount", 0)) < RECEIVES_PER_TRY * len(schedule):
        yield warned(
            f"SQS takes events away after {policy.get('maxReceiveCount')} receives; there are {len(schedule)} tries",
            "Raise the maxReceiveCount of the outbox to 50, or remove its redrive policy.",
        )


async def _look_again(sqs: "SQSClient", url: str) -> Attributes:
    """The attributes of the job queue, for another check than its own. Raises Ends."""
    try:
        return await _look(sqs, url)
    except Ends as end:
        raise Ends(skipped(f"not known: {end.finding.found}", "Mend first what the check `queue` finds.")) from end


async def _look_if_allowed(sqs: "SQSClient", url: str) -> Attributes:
    """The attributes of a queue that the daemon can do without: it asks for their number alone. Raises Ends."""
    try:
        return await _look(sqs, url)
    except Denied as denied:
        found = f"{url} was not looked at: {LOOK} is denied; the daemon works, but cannot tell how much is in it"
        raise Ends(skipped(found, f"Run the check as somebody who has {LOOK} on it.")) from denied


def _retention(attributes: Attributes) -> int:
    """Seconds."""
    return int(attributes.get("MessageRetentionPeriod", 345_600))
