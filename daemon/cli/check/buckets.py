"""The buckets: every S3 call that the daemon makes, on a temporary key."""

import asyncio
import secrets
from collections.abc import AsyncGenerator

from daemon.aws.s3 import Storage, open_storage
from daemon.cli.check.aws import Denied, calling
from daemon.cli.check.registry import CheckAborted, CheckResult, check, failed, passed, skipped
from daemon.config import Settings

KEY_PREFIX = ".transcriptd-check-"
BODY = b"transcriptd check: safe to delete\n"
CLEAN_UP_SECONDS = 30.0
ANY = "*"


def random_key(prefix: str) -> str:
    return f"{prefix}{KEY_PREFIX}{secrets.token_hex(8)}"


@check(
    "output",
    "a temporary object below TRANSCRIPTD_OUTPUT_PREFIX can be put (also conditionally, and with the checkpoint tag), read, listed and deleted",
    actions="`s3:PutObject`, `s3:PutObjectTagging` with a checkpoint tag, `s3:GetObject`, `s3:ListBucket`, `s3:DeleteObject`",
    timeout_seconds=120,
)
async def output(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    with calling("s3", "S3"):
        async with open_storage(settings) as storage:
            if settings.output_bucket is None:
                yield skipped(
                    "TRANSCRIPTD_OUTPUT_BUCKET is not set: each job names its bucket", "Set it as the default."
                )
            else:
                key = random_key(settings.output_prefix)
                where = f"s3://{settings.output_bucket}/{settings.output_prefix}"
                problems: list[CheckResult] = []
                try:
                    await _exercise(storage, settings.output_bucket, key, settings.checkpoint_tag)
                except CheckAborted as end:
                    problems.append(end.finding)
                finally:  # also after a cancellation: a put without a response may have succeeded
                    left = await _clean_up(storage, settings.output_bucket, key)
                if isinstance(left, Denied) or (left is not None and not problems):
                    problems.append(left.finding)
                for problem in problems:
                    yield problem
                if not problems:
                    tag = " with a tag" if settings.checkpoint_tag else ""
                    yield passed(f"{where}: put{tag}, conditional put, get, list and delete work")
            for bucket in settings.output_buckets:
                if bucket not in (ANY, settings.output_bucket):
                    yield await _exists(storage, bucket, "output bucket")


async def _clean_up(storage: Storage, bucket: str, key: str) -> CheckAborted | None:
    """Delete the key. Returns the failure, if any."""
    try:
        with calling("s3:DeleteObject", f"s3://{bucket}/{key}, which may be left behind"):
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                await storage.delete(bucket, [key])
    except CheckAborted as end:
        return end
    return None


async def _exercise(storage: Storage, bucket: str, key: str, tag: str | None) -> None:
    """Make the calls of a successful job. Raises CheckAborted."""
    where = f"s3://{bucket}/{key}"
    with calling("s3:PutObject", where):
        etag = await storage.write(bucket, key, BODY, "text/plain", only_if_absent=True)
        again = await storage.write(bucket, key, BODY, "text/plain", only_if_absent=True)
    if etag is None or again is not None:
        raise CheckAborted(
            failed(
                f"{where}: If-None-Match is ignored, so two daemons could publish the same job",
                "Use S3, or another store with conditional writes.",
            )
        )
    with calling("s3:PutObject and s3:PutObjectTagging" if tag else "s3:PutObject", where):
        await storage.write(bucket, key, BODY, "text/plain", only_if_etag=etag, tag=tag)
    with calling("s3:GetObject", where):
        stored = await storage.read(bucket, key)
    with calling("s3:ListBucket", f"s3://{bucket}"):
        listed = await storage.list_keys(bucket, key)
    if stored is None or stored.body != BODY or listed != [key]:
        raise CheckAborted(
            failed(f"{where}: the object read or listed is not the one written", "Check the S3 endpoint.")
        )


@check(
    "inputs",
    "each bucket of TRANSCRIPTD_INPUT_BUCKETS exists and is readable: S3 answers 404, not 403, for a key that does not exist",
    actions="`s3:ListBucket`, `s3:GetObject`",
    timeout_seconds=120,
)
async def inputs(settings: Settings) -> AsyncGenerator[CheckResult, None]:
    buckets = [bucket for bucket in settings.input_buckets if bucket != ANY]
    if not buckets:
        yield skipped(
            "TRANSCRIPTD_INPUT_BUCKETS lists no buckets: only the role limits which buckets can be read",
            "List the buckets there: it is safer, and they can be checked.",
        )
        return
    with calling("s3", "S3"):
        async with open_storage(settings) as storage:
            for bucket in buckets:
                yield await _readable(storage, bucket)


async def _readable(storage: Storage, bucket: str) -> CheckResult:
    finding = await _exists(storage, bucket, "input bucket")
    key = random_key("")
    try:
        with calling("s3:GetObject", f"s3://{bucket}/{key}"):
            await storage.read(bucket, key)
    except CheckAborted as end:
        return end.finding if finding.fix is None else finding
    return finding


async def _exists(storage: Storage, bucket: str, what: str) -> CheckResult:
    try:
        with calling("s3:ListBucket", f"{what} {bucket}"):
            await storage.head(bucket)
    except CheckAborted as end:
        return end.finding
    return passed(f"{what} {bucket}")
