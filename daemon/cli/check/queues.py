"""The queues: their attributes, and the daemon's permissions on them. No message is received or sent.

Permissions are tested with an invalid receipt handle, which changes nothing: SQS checks the permission before the
handle.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from daemon.aws.sqs import open_client
from daemon.cli.check.aws import CONFIG, DENIED, NO_QUEUE, Denied, calling
from daemon.cli.check.registry import CheckAborted, CheckResult, CheckStatus, check, failed, passed, skipped, warned
from daemon.config import Settings
from daemon.job_queues import JobQueue
from daemon.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

NO_HANDLE = "transcriptd-check"
LEAST_RECEIVES = 10  # docs/delivery.md
LEAST_RECEIVES_WITH_LIMIT = 100  # of messages per tenant: docs/publishing.md
RECEIVES_PER_TRY = 2  # a long wait on the outbox takes more than one receive
LOOK = "sqs:GetQueueAttributes"
NOT_TRIED = "The first job shows whether it works; the role needs it (deploy/terraform/iam.tf)."

QueueAttributes = Mapping[str, str]


@asynccontextmanager
async def _sqs(url: str) -> "AsyncIterator[SQSClient]":
    """Open a client for the queue; any failure ends the check."""
    with calling("sqs", "SQS"):
        async with open_client(CONFIG, Metrics(), url) as client:
            yield client


async def _look(sqs: "SQSClient", url: str) -> QueueAttributes:
    """Return the queue's attributes. Raises Denied or CheckAborted."""
    with calling(LOOK, url):
        answer: dict[str, Any] = {**await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])}
        return dict(answer.get("Attributes") or {})


async def _try_handles(sqs: "SQSClient", url: str) -> list[CheckResult]:
    """Test the permissions for ChangeMessageVisibility and DeleteMessage. Raises CheckAborted."""
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


def _judge_kind(attributes: QueueAttributes, url: str) -> list[CheckResult]:
    """Check that the queue is standard and encrypted."""
    findings = []
    if attributes.get("FifoQueue") == "true" or url.endswith(".fifo"):
        findings.append(failed(f"{url} is a FIFO queue", "Use a standard queue: jobs are independent."))
    if attributes.get("SqsManagedSseEnabled") != "true" and not attributes.get("KmsMasterKeyId"):
        findings.append(warned(f"{url} is not encrypted at rest", "Enable SSE-SQS (SqsManagedSseEnabled) or SSE-KMS."))
    return findings


@check(
    "queue",
    "each job queue exists, is standard and encrypted; the role can extend and delete messages. Receiving is not tested: it would take a job",
    actions="`sqs:GetQueueAttributes`, `sqs:ChangeMessageVisibility`, `sqs:DeleteMessage`",
)
async def queue(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    for url in (queue.url for queue in settings.queues):
        async with _sqs(url) as sqs:
            attributes = await _look(sqs, url)
            yield passed(f"{url}: about {attributes.get('ApproximateNumberOfMessages', '?')} waiting")
            for finding in (*_judge_kind(attributes, url), *await _try_handles(sqs, url)):
                yield finding
    yield skipped("sqs:ReceiveMessage was not tested: it would take a job", NOT_TRIED)


@check(
    "redrive",
    "each job queue's redrive policy, the last resort for messages that no daemon settles, is well above the daemon's own limits",
    actions="`sqs:GetQueueAttributes` on the job queue",
)
async def redrive(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    for queue in settings.queues:
        async with _sqs(queue.url) as sqs:
            attributes = await _look_again(sqs, queue.url)
        for finding in _judge_redrive(queue, attributes, settings):
            yield finding


def _judge_redrive(queue: JobQueue, attributes: QueueAttributes, settings: Settings) -> Iterator[CheckResult]:
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    target = str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]
    ours = queue.dlq_url.rstrip("/").rpartition("/")[2]
    if not target:
        yield warned(
            f"{queue.url} has no redrive policy: a message that no daemon settles is redelivered until it expires",
            f"Set its redrive policy to {ours} with a maxReceiveCount of {_wanted(settings)} or more.",
        )
        return
    receives = int(policy.get("maxReceiveCount", 0))
    found = f"SQS moves messages to {target} after {receives} receives; the daemon gives up after {settings.max_attempts} attempts"
    if receives <= settings.max_attempts:
        yield failed(
            f"{found}: SQS moves jobs first, without a reason",
            f"Raise maxReceiveCount to {_wanted(settings)} or more: {_others(settings)} count too.",
        )
    elif receives < _wanted(settings):
        yield warned(found, f"Raise maxReceiveCount to {_wanted(settings)} or more: {_others(settings)} count too.")
    else:
        yield passed(found)
    if target != ours:
        yield warned(
            f"SQS moves messages to {target}, the daemon to {ours}",
            "Use the same queue in the redrive policy and in TRANSCRIPTD_DLQ_URL.",
        )


def _wanted(settings: Settings) -> int:
    """Return the lowest maxReceiveCount that is well above the daemon's own limits."""
    own = settings.max_attempts + settings.max_crashed_deliveries
    return max(LEAST_RECEIVES_WITH_LIMIT if settings.max_jobs_per_tenant else LEAST_RECEIVES, own + own // 2)


def _others(settings: Settings) -> str:
    """Name the receives that are no attempts."""
    return "interruptions" + (
        ", and returns because of TRANSCRIPTD_MAX_JOBS_PER_TENANT," if settings.max_jobs_per_tenant else ""
    )


@check(
    "dead-letters",
    "each dead-letter queue exists, is standard and encrypted, and keeps messages longer than its job queue. Sending is not tested",
    actions="`sqs:GetQueueAttributes` on all queues; without it the check is skipped",
)
async def dead_letters(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    for queue in settings.queues:
        async with _sqs(queue.dlq_url) as sqs:
            attributes = await _look_if_allowed(sqs, queue.dlq_url)
            yield passed(f"{queue.dlq_url}: about {attributes.get('ApproximateNumberOfMessages', '?')} in it")
            for finding in _judge_kind(attributes, queue.dlq_url):
                yield finding
            jobs = await _look_again(sqs, queue.url)
        kept, waiting = _retention(attributes), _retention(jobs)
        # A message that SQS moves keeps its age.
        if kept <= waiting:
            yield warned(
                f"{queue.dlq_url} keeps messages for {kept / 86400:g} days, {queue.url} for {waiting / 86400:g}: a message that SQS moves may expire at once",
                f"Raise the MessageRetentionPeriod of {queue.dlq_url} to 14 days.",
            )
    yield skipped("sqs:SendMessage was not tested: it would create a dead letter", NOT_TRIED)


@check(
    "outbox",
    "the webhook outbox exists, is standard and encrypted, and keeps events to the end of the retry schedule. Sending and receiving are not tested",
    actions="`sqs:ChangeMessageVisibility`, `sqs:DeleteMessage`, `sqs:GetQueueAttributes`",
)
async def outbox(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    url, schedule = settings.outbox_url, settings.outbox_retry_schedule_seconds
    if url is None:
        yield skipped(
            "TRANSCRIPTD_OUTBOX_URL is not set",
            "Set it to keep retrying webhooks through a long outage of the receiver.",
        )
        return
    async with _sqs(url) as sqs:
        attributes: QueueAttributes | None = None
        try:
            attributes = await _look_if_allowed(sqs, url)
        except CheckAborted as end:
            if end.finding.status is not CheckStatus.SKIPPED:
                raise
            yield end.finding
        for finding in await _try_handles(sqs, url):
            yield finding
    yield skipped(
        "sqs:SendMessage and sqs:ReceiveMessage were not tested: they would create or take an event", NOT_TRIED
    )
    if attributes is None:
        return
    yield passed(f"{url}: about {attributes.get('ApproximateNumberOfMessages', '?')} waiting")
    for finding in _judge_kind(attributes, url):
        yield finding
    if (kept := _retention(attributes)) <= schedule[-1]:
        yield warned(
            f"events are kept for {kept / 3600:g} h, but the retry schedule lasts {schedule[-1] / 3600:g} h",
            "Raise the outbox's MessageRetentionPeriod above the last value of TRANSCRIPTD_OUTBOX_RETRY_SCHEDULE_SECONDS.",
        )
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    if policy and int(policy.get("maxReceiveCount", 0)) < RECEIVES_PER_TRY * len(schedule):
        yield warned(
            f"SQS moves events after {policy.get('maxReceiveCount')} receives; the schedule has {len(schedule)} attempts",
            "Raise the maxReceiveCount of the outbox to 50, or remove its redrive policy.",
        )


async def _look_again(sqs: "SQSClient", url: str) -> QueueAttributes:
    """Return the job queue's attributes for another check than `queue`. Raises CheckAborted."""
    try:
        return await _look(sqs, url)
    except CheckAborted as end:
        raise CheckAborted(
            skipped(f"not known: {end.finding.found}", "Fix the findings of the check `queue` first.")
        ) from end


async def _look_if_allowed(sqs: "SQSClient", url: str) -> QueueAttributes:
    """Return the attributes of a queue of which the daemon itself only reads the depth. Raises CheckAborted."""
    try:
        return await _look(sqs, url)
    except Denied as denied:
        found = f"{url} was not checked: {LOOK} is denied; the daemon works, but cannot report the queue's depth"
        raise CheckAborted(skipped(found, f"Run the check with credentials that allow {LOOK} on it.")) from denied


def _retention(attributes: QueueAttributes) -> int:
    """Retention period in seconds; SQS's default is 4 days."""
    return int(attributes.get("MessageRetentionPeriod", 345_600))
