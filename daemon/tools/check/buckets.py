"""The buckets: every call that the daemon makes, on a key of the check's own."""

import asyncio
import secrets
from collections.abc import AsyncGenerator

from daemon.storage import Storage, open_storage
from daemon.tools.check.aws import Denied, calling
from daemon.tools.check.registry import Context, Ends, Finding, check, failed, passed, skipped

KEY_PREFIX = ".transcriptd-check-"
BODY = b"transcriptd check: safe to delete\n"
CLEAN_UP_SECONDS = 30.0
ANY = "*"


def throw_away_key(prefix: str) -> str:
    return f"{prefix}{KEY_PREFIX}{secrets.token_hex(8)}"


@check(
    "output",
    "an object of the check's own is put (also on conditions, and with the checkpoint tag), read, listed and deleted below TRANSCRIPTD_OUTPUT_PREFIX",
    actions="`s3:PutObject`, `s3:PutObjectTagging` with a checkpoint tag, `s3:GetObject`, `s3:ListBucket`, `s3:DeleteObject`",
    timeout_seconds=120,
)
async def output(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    with calling("s3", "S3"):
        async with open_storage(settings) as storage:
            if settings.output_bucket is None:
                yield skipped("TRANSCRIPTD_OUTPUT_BUCKET is not set: jobs name theirs", "Set it for a default.")
            else:
                key = throw_away_key(settings.output_prefix)
                where = f"s3://{settings.output_bucket}/{settings.output_prefix}"
                problems: list[Finding] = []
                try:
                    await _exercise(storage, settings.output_bucket, key, settings.checkpoint_tag)
                except Ends as end:
                    problems.append(end.finding)
                finally:  # also when the check is stopped: a call whose answer is lost may have written
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


async def _clean_up(storage: Storage, bucket: str, key: str) -> Ends | None:
    """Delete the key; what went wrong."""
    try:
        with calling("s3:DeleteObject", f"s3://{bucket}/{key}, which may be left behind"):
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                await storage.delete(bucket, [key])
    except Ends as end:
        return end
    return None


async def _exercise(storage: Storage, bucket: str, key: str, tag: str | None) -> None:
    """The calls of a job that succeeds. Raises Ends."""
    where = f"s3://{bucket}/{key}"
    with calling("s3:PutObject", where):
        etag = await storage.write(bucket, key, BODY, "text/plain", only_if_absent=True)
        again = await storage.write(bucket, key, BODY, "text/plain", only_if_absent=True)
    if etag is None or again is not None:
        raise Ends(
            failed(
                f"{where}: If-None-Match is not obeyed, so that two daemons may publish one job",
                "Use S3 itself, or a store that implements conditional writes.",
            )
        )
    with calling("s3:PutObject and s3:PutObjectTagging" if tag else "s3:PutObject", where):
        await storage.write(bucket, key, BODY, "text/plain", only_if_etag=etag, tag=tag)
    with calling("s3:GetObject", where):
        stored = await storage.read(bucket, key)
    with calling("s3:ListBucket", f"s3://{bucket}"):
        listed = await storage.list_keys(bucket, key)
    if stored is None or stored.body != BODY or listed != [key]:
        raise Ends(failed(f"{where}: what was written is not what is read and listed", "Check what answers as S3."))


@check(
    "inputs",
    "each bucket of TRANSCRIPTD_INPUT_BUCKETS exists and may be read: a key that does not exist is answered with 404, not 403",
    actions="`s3:ListBucket`, `s3:GetObject`",
    timeout_seconds=120,
)
async def inputs(context: Context) -> AsyncGenerator[Finding, None]:
    settings = context.settings
    buckets = [bucket for bucket in settings.input_buckets if bucket != ANY]
    if not buckets:
        yield skipped(
            "TRANSCRIPTD_INPUT_BUCKETS leaves it to the role which buckets may be read",
            "Name the buckets there: it is safer, and they are checked.",
        )
        return
    with calling("s3", "S3"):
        async with open_storage(settings) as storage:
            for bucket in buckets:
                yield await _readable(storage, bucket)


async def _readable(storage: Storage, bucket: str) -> Finding:
    finding = await _exists(storage, bucket, "input bucket")
    key = throw_away_key("")
    try:
        with calling("s3:GetObject", f"s3://{bucket}/{key}"):
            await storage.read(bucket, key)
    except Ends as end:
        return end.finding if finding.fix is None else finding
    return finding


async def _exists(storage: Storage, bucket: str, what: str) -> Finding:
    try:
        with calling("s3:ListBucket", f"{what} {bucket}"):
            await storage.head(bucket)
    except Ends as end:
        return end.finding
    return passed(f"{what} {bucket}")
