"""The S3 adapter: only this module calls S3. All errors are raised as TranscriptdErrors."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, NoCredentialsError
from botocore.handlers import add_expect_header
from botocore.parsers import ResponseParserError

from daemon.aws.advice import advice_on
from daemon.aws.checksums import crc32
from daemon.aws.content_encoding import decode_content
from daemon.aws.download import PARTS_AT_ONCE, Download
from daemon.aws.faults import Fault, fault_of_response
from daemon.aws.session import open_session
from daemon.config import Settings
from daemon.errors import (
    AccessDenied,
    DiskFull,
    ObjectArchived,
    ObjectMissing,
    ObjectRefused,
    StorageRefused,
    StorageUnavailable,
    TranscriptdError,
)
from daemon.schema.job import Input
from daemon.schema.manifest import InputObject
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.outage import Outage
from daemon.telemetry.redaction import describe

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

log = logging.getLogger("transcriptd.storage")

CONNECT_TIMEOUT_SECONDS = 5.0
CHUNK_BYTES = 1024 * 1024
# Limit for objects read into memory: manifests, records, checkpoints. A few MB for the longest recording.
MAX_READ_BYTES = 64 * 1024 * 1024
# https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
MAX_KEYS_PER_DELETE = 1000

_MISSING = {
    "NoSuchKey",
    "NoSuchVersion",
    "NoSuchBucket",
    "404",
    "NotFound",
    "MethodNotAllowed",
}  # MethodNotAllowed: a delete marker
_CONDITION_FAILED = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
# Refusals by a policy, as opposed to wrong credentials.
_DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled"}


@asynccontextmanager
async def open_storage(settings: Settings, metrics: Metrics | None = None) -> AsyncIterator["Storage"]:
    """Open a Storage with its own connections. The client attempts each call up to four times, with backoff."""
    config = AioConfig(
        connect_timeout=min(CONNECT_TIMEOUT_SECONDS, settings.storage_timeout_seconds),
        read_timeout=settings.storage_timeout_seconds,
        retries={"mode": "standard", "total_max_attempts": 4},
        s3=settings.s3_options,
        max_pool_connections=settings.max_jobs_in_flight * PARTS_AT_ONCE + 4,
    )
    session = await open_session()
    async with session.client("s3", config=config) as client:
        # With this header, aiohttp sends no body before it receives "100 Continue": an extra round trip for each object,
        # and an endless wait if a store never sends it. The bodies are small, so sending one needlessly is cheap.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        settings.prepare_client(client)
        yield Storage(client, settings, metrics or Metrics())


@dataclass(frozen=True, slots=True)
class StoredObject:
    body: bytes
    etag: str
    metadata: dict[str, str]


class Storage:
    """Reads and writes S3 objects; result_store.py knows their meaning."""

    def __init__(self, client: "S3Client", settings: Settings, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics
        self._max_input_bytes = settings.max_input_bytes
        self._on_write = settings.write_parameters
        self._output_bucket = settings.output_bucket
        self._outage = Outage(log, "storage unavailable", "storage available again", level=logging.ERROR)

    async def fetch(self, source: Input, target: Path) -> InputObject:
        """Download the object to `target`, in parallel parts of one version, within the size limit, prove its bytes, and decode gzip.

        Raises ObjectMissing, AccessDenied, ObjectEmpty, ObjectTooLarge, MediaUnreadable, DiskFull, DiskTooSmall,
        StorageUnavailable.
        """
        request: dict[str, Any] = {"Bucket": source.bucket, "Key": source.key}
        if source.version_id is not None:
            request["VersionId"] = source.version_id
        download = Download(
            self._client, request, max_bytes=self._max_input_bytes, on_repeat=self._metrics.download_parts_repeated.inc
        )
        where = f"s3://{source.bucket}/{source.key}"
        with self._track_outage(where):
            done = await download.run(target)
            await asyncio.to_thread(
                decode_content, target, done.content_encoding, max_bytes=self._max_input_bytes, where=where
            )
        self._metrics.downloads_proved.labels(done.checksum or "none").inc()
        return InputObject(
            **source.model_dump() | {"version_id": done.version_id},
            etag=done.etag.strip('"'),
            size_bytes=done.size_bytes,
        )

    async def describe(self, source: Input) -> InputObject:
        """Return what identifies the object, as `fetch` does, without its content. Raises ObjectMissing, AccessDenied, StorageUnavailable."""
        request: dict[str, Any] = {"Bucket": source.bucket, "Key": source.key}
        if source.version_id is not None:
            request["VersionId"] = source.version_id
        where = f"s3://{source.bucket}/{source.key}"
        with self._track_outage(where):
            found = await self._client.head_object(**request)
        return InputObject(
            **source.model_dump() | {"version_id": found.get("VersionId")},
            etag=_etag(found, where).strip('"'),
            size_bytes=found["ContentLength"],
        )

    async def read(
        self,
        bucket: str,
        key: str,
        max_bytes: int = MAX_READ_BYTES,
        *,
        too_large: type[TranscriptdError] = StorageUnavailable,
    ) -> StoredObject | None:
        """Return a small object, or None if it does not exist. Raises `too_large` if it has more than `max_bytes`."""
        where = f"s3://{bucket}/{key}"
        try:
            with self._track_outage(where):
                # The client compares the body with the checksum that it was written with.
                response = await self._client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
                with closing(response["Body"]) as stream:  # a response that breaks off keeps its connection
                    etag = _etag(response, where)
                    body = bytearray()
                    async for chunk in stream.iter_chunks(CHUNK_BYTES):
                        body += chunk
                        if len(body) > max_bytes:  # while reading: anyone with write access may have replaced it
                            raise too_large(f"{where} is larger than {max_bytes} bytes; remove it")
                    return StoredObject(bytes(body), etag, response.get("Metadata", {}))
        except ObjectMissing as error:
            if _code(error) == "NoSuchBucket":
                raise
            return None

    async def write(
        self,
        bucket: str,
        key: str,
        body: bytes,
        content_type: str = "application/json",
        *,
        only_if_absent: bool = False,
        only_if_etag: str | None = None,
        metadata: dict[str, str] | None = None,
        tag: str | None = None,
    ) -> str | None:
        """Write an object. Return its ETag, or None if a condition failed and nothing was written.

        `tag` is `key=value`, for lifecycle rules.
        """
        conditions: dict[str, Any] = {"Tagging": tag} if tag else {}
        if only_if_absent:
            conditions["IfNoneMatch"] = "*"
        if only_if_etag is not None:
            conditions["IfMatch"] = only_if_etag
        try:
            with self._track_outage(f"s3://{bucket}/{key}"):
                response = await self._client.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=body,
                    ContentType=content_type,
                    Metadata=metadata or {},
                    ChecksumAlgorithm="CRC32",
                    ChecksumCRC32=crc32(body),  # S3 rejects a body that was changed on the way, and stores the checksum
                    **self._on_write,
                    **conditions,
                )
        except (StorageUnavailable, ObjectRefused, ObjectMissing) as error:
            # 409: another conditional write was in flight. 404 with IfMatch: the object is gone.
            if (only_if_absent or only_if_etag) and _code(error) in {*_CONDITION_FAILED, "NoSuchKey"}:
                return None
            raise
        return _etag(response, f"s3://{bucket}/{key}")

    async def list_keys(self, bucket: str, prefix: str) -> list[str]:
        """Return the keys below a prefix."""
        with self._track_outage(f"s3://{bucket}/{prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            return [item["Key"] async for page in pages for item in page.get("Contents", [])]

    async def delete(self, bucket: str, keys: list[str]) -> None:
        for start in range(0, len(keys), MAX_KEYS_PER_DELETE):
            batch: Any = [{"Key": key} for key in keys[start : start + MAX_KEYS_PER_DELETE]]
            with self._track_outage(f"s3://{bucket}"):
                response = await self._client.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
            if refused := response.get("Errors"):
                raise StorageUnavailable(
                    f"s3://{bucket}: {len(refused)} keys were not deleted, the first: {refused[0]}"
                )

    async def ping(self) -> None:
        """Check that S3 responds and the default output bucket exists."""
        if self._output_bucket is not None:
            await self.head(self._output_bucket)

    async def head(self, bucket: str) -> None:
        """Check that the bucket exists. Raises ObjectMissing, AccessDenied, StorageUnavailable."""
        with self._track_outage(f"s3://{bucket}"):
            await self._client.head_bucket(Bucket=bucket)

    @contextmanager
    def _track_outage(self, where: str) -> Iterator[None]:
        """Translate the errors of one or more calls for an object, and log S3 outages."""
        try:
            with _translate_errors(where):
                yield
        except StorageUnavailable as error:
            if _is_answer(error.__cause__):
                self._outage.worked()
            elif error.__cause__ is not None:  # otherwise S3 responded, and the content was rejected
                self._outage.failed(error)
            raise
        except TranscriptdError:  # S3 responded
            self._outage.worked()
            raise
        self._outage.worked()


def _etag(response: Any, where: str) -> str:
    """Return the ETag, which S3 always sends with an object and a proxy's error page does not have."""
    etag: str | None = response.get("ETag")
    if not etag:
        raise StorageUnavailable(f"{where}: the response has no ETag, so it is not from S3")
    return etag


def _is_answer(cause: BaseException | None) -> bool:
    """Return whether S3 itself responded to this call, so that its failure concerns one object and is no outage."""
    if isinstance(cause, FlexibleChecksumError):
        return True
    if not isinstance(cause, ClientError):
        return False
    fault = fault_of_response("s3", cause.response)
    return fault is not Fault.DEPENDENCY or cause.response.get("Error", {}).get("Code") in _CONDITION_FAILED


def _code(error: TranscriptdError) -> str:
    """Return S3's code of a translated error."""
    cause = error.__cause__
    return str(cause.response["Error"]["Code"]) if isinstance(cause, ClientError) else ""


@contextmanager
def _translate_errors(where: str) -> Iterator[None]:
    """Translate botocore errors into TranscriptdErrors that name the object."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "NoSuchBucket" or (code in _MISSING and error.operation_name == "HeadBucket"):
            raise ObjectMissing(
                f"{where}: the bucket does not exist ({code}); create it or correct its name"
            ) from error
        if code in _MISSING:
            raise ObjectMissing(f"{where} does not exist ({code}); upload it before you send the message") from error
        if code == "InvalidObjectState":
            raise ObjectArchived(f"{where} is archived; restore it, then send the message again") from error
        fault = fault_of_response("s3", error.response)
        if fault is Fault.DEPENDENCY:
            raise StorageUnavailable(f"{where}: S3 failed: {describe(error)}") from error
        if fault is Fault.DEPLOYMENT:
            raise StorageRefused(
                f"{where}: S3 refuses this instance's requests ({code}); check its credentials and its clock"
            ) from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _DENIED or code.startswith("KMS.") or (status == HTTPStatus.FORBIDDEN and not code):
            raise AccessDenied(
                f"{where}: access denied to {error.operation_name} ({code}); {advice_on(error)}"
            ) from error
        raise ObjectRefused(f"{where}: S3 refuses the request, and repeating it cures nothing: {error}") from error
    except NoCredentialsError as error:
        raise StorageRefused(
            f"{where}: this instance has no credentials; check its instance role or profile"
        ) from error
    except (BotoCoreError, ResponseParserError, aiohttp.ClientError, TimeoutError) as error:
        # The second is an invalid body with status 200; the third is a truncated body, which botocore does not wrap.
        raise StorageUnavailable(f"{where}: S3 failed: {describe(error)}") from error
    except OSError as error:
        if error.errno == 28:  # ENOSPC
            raise DiskFull("the scratch disk is full") from error
        raise StorageUnavailable(f"{where}: S3 failed: {describe(error)}") from error
