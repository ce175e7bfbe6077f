"""The download of one object: several parts of one version in parallel, each proved to be what was requested.

A gateway may shorten an answer, or send other bytes than requested, and the response is still valid HTTP. So the position and
the number of bytes are checked part by part, and the whole by its size and S3's checksum.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from daemon.aws.checksums import FullChecksum, full_checksum
from daemon.errors import (
    DiskFull,
    DiskTooSmall,
    ObjectEmpty,
    ObjectMissing,
    ObjectTooLarge,
    StorageUnavailable,
    TranscriptdError,
)
from daemon.telemetry.redaction import describe

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

Result = TypeVar("Result")

PART_BYTES = 16 * 1024 * 1024
PARTS_AT_ONCE = 4
CHUNK_BYTES = 1024 * 1024
# Tries of a part whose answer is wrong or ends early. Calls that fail before that are repeated by the client.
PART_ATTEMPTS = 4
PART_BACKOFF_MAX_SECONDS = 4.0
# The key is longer than S3 allows, or the version ID is invalid.
_NO_NAME = {"KeyTooLongError", "InvalidArgument", "InvalidURI"}
_OVERWRITTEN = {"412", "PreconditionFailed"}
# Errors of the call for the checksum that concern the object, rather than a store without checksums.
_CHANGED = {*_OVERWRITTEN, "404", "NoSuchKey", "NoSuchVersion"}


@dataclass(frozen=True, slots=True)
class Downloaded:
    etag: str
    size_bytes: int
    version_id: str | None
    content_encoding: str
    checksum: str | None  # algorithm of the checksum that proved the bytes; None if S3 has none for the whole object


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer whose headers fit the request. Its body is still to be read, up to the offset `end`."""

    body: Any
    end: int
    size_bytes: int
    etag: str
    version_id: str | None
    content_encoding: str
    ranged: bool  # False: the store ignores ranges and sends the whole object


class _WrongPart(Exception):
    """The answer is not the part that was requested, or ends early. Another try may succeed."""


class Download:
    """Downloads one object into a file."""

    def __init__(
        self, client: "S3Client", request: dict[str, Any], *, max_bytes: int, on_repeat: Callable[[], None]
    ) -> None:
        """`request` names the object. `on_repeat` is called before a part is requested again."""
        self._client = client
        self._request = request
        self._where = f"s3://{request['Bucket']}/{request['Key']}"
        self._max_bytes = max_bytes
        self._on_repeat = on_repeat

    async def run(self, target: Path) -> Downloaded:
        """Download the object to `target`. Raises the errors of Storage.fetch, and botocore's and aiohttp's."""
        disk = await asyncio.to_thread(shutil.disk_usage, target.parent)

        async def request_first() -> _Answer:
            return await self._first(disk.total, disk.free)

        first = await self._repeat_if_wrong(request_first)
        limit = asyncio.Semaphore(PARTS_AT_ONCE)
        with target.open("wb") as file:
            try:
                async with asyncio.TaskGroup() as group:
                    stated = group.create_task(self._stated_checksum(first))
                    group.create_task(self._part(file.fileno(), 0, first, limit, begun=first))
                    for start in range(first.end, first.size_bytes, PART_BYTES):
                        group.create_task(self._part(file.fileno(), start, first, limit))
            except ExceptionGroup as failures:
                error = failures.exceptions[0]
                if isinstance(error, ClientError) and error.response["Error"]["Code"] in _OVERWRITTEN:
                    raise StorageUnavailable(f"{self._where} was overwritten during the download") from error
                raise error from error.__cause__
            finally:
                first.body.close()
        checksum = stated.result()
        await asyncio.to_thread(self._prove, target, first.size_bytes, checksum)
        return Downloaded(
            first.etag,
            first.size_bytes,
            first.version_id,
            first.content_encoding,
            checksum.algorithm if checksum else None,
        )

    async def _first(self, disk_bytes: int, free_bytes: int) -> _Answer:
        """Request the first part. Its answer has the size, so a short recording needs no further part.

        A recording that does not fit on the disk is refused here, before its bytes are read.
        """
        empty = f"{self._where} is empty (0 bytes); upload it again"
        try:
            answer = await self._request_part(0, None)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code == "InvalidRange":
                raise ObjectEmpty(empty) from error
            if code in _NO_NAME:
                raise ObjectMissing(f"{self._where} cannot exist ({code}); correct the key or version_id") from error
            raise
        size_bytes = answer.size_bytes
        refusal: TranscriptdError | None = None
        if size_bytes == 0:
            refusal = ObjectEmpty(empty)
        elif size_bytes > self._max_bytes:
            refusal = ObjectTooLarge(f"{self._where} has {size_bytes} bytes; the limit is {self._max_bytes}")
        elif size_bytes > disk_bytes:
            refusal = DiskTooSmall(f"{self._where} has {size_bytes} bytes; the whole scratch disk has {disk_bytes}")
        elif size_bytes > free_bytes:
            refusal = DiskFull(f"{self._where} has {size_bytes} bytes; the scratch disk has {free_bytes} free")
        if refusal:
            answer.body.close()
            raise refusal
        return answer

    async def _part(
        self, descriptor: int, start: int, first: _Answer, limit: asyncio.Semaphore, begun: _Answer | None = None
    ) -> None:
        """Write the part at `start` to the file. `begun` is an answer whose body was not read yet."""
        unread = [begun] if begun else []

        async def once() -> None:
            answer = unread.pop() if unread else await self._request_part(start, first)
            try:
                await _write_body(answer.body, descriptor, start, answer.end)
            finally:
                answer.body.close()

        async with limit:
            await self._repeat_if_wrong(once)

    async def _request_part(self, start: int, first: _Answer | None) -> _Answer:
        """Request a part and check the headers of the answer. Raises _WrongPart if it is another part."""
        # IfMatch: if the object is overwritten during the download, never mix parts of two versions.
        condition: dict[str, Any] = {"IfMatch": first.etag} if first else {}
        end = min(start + PART_BYTES, first.size_bytes) if first else start + PART_BYTES
        response = await self._client.get_object(**self._request, **condition, Range=f"bytes={start}-{end - 1}")
        try:
            answer = self._check_headers(response, start)
            if first is not None:
                if answer.etag != first.etag:
                    raise StorageUnavailable(f"{self._where} was overwritten during the download")
                if (answer.size_bytes, answer.ranged) != (first.size_bytes, first.ranged):
                    raise _WrongPart(f"S3 sent {answer.size_bytes} bytes as the size after {first.size_bytes}")
        except BaseException:
            response["Body"].close()
            raise
        return answer

    def _check_headers(self, response: Any, start: int) -> _Answer:
        etag: str | None = response.get("ETag")
        if not etag:
            raise StorageUnavailable(f"{self._where}: the response has no ETag, so it is not from S3")
        encoding = response.get("ContentEncoding", "")
        length, sent = response.get("ContentLength"), response.get("ContentRange", "")
        if not sent and start == 0 and response["ResponseMetadata"]["HTTPStatusCode"] == 200 and length is not None:
            return _Answer(response["Body"], length, length, etag, response.get("VersionId"), encoding, ranged=False)
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", sent)
        if not match:
            raise _WrongPart(f"S3 sent no valid Content-Range for the part at {start}: {sent[:60]!r}")
        first_byte, last_byte, size_bytes = (int(number) for number in match.groups())
        end = min(start + PART_BYTES, size_bytes)
        if (first_byte, last_byte, length) != (start, end - 1, end - start):
            raise _WrongPart(f"S3 sent {sent!r} with {length} bytes when bytes {start}-{end - 1} were requested")
        return _Answer(response["Body"], end, size_bytes, etag, response.get("VersionId"), encoding, ranged=True)

    async def _stated_checksum(self, first: _Answer) -> FullChecksum | None:
        """Return S3's checksum of the whole object. Responses to parts do not have it."""
        try:
            return full_checksum(
                await self._client.head_object(**self._request, IfMatch=first.etag, ChecksumMode="ENABLED")
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _CHANGED or (status >= 500 and status != 501) or status == 429:
                raise
            return None  # the store refuses this call although it serves the object

    def _prove(self, target: Path, size_bytes: int, checksum: FullChecksum | None) -> None:
        found = target.stat().st_size
        if found != size_bytes:
            raise StorageUnavailable(f"{self._where}: {found} of {size_bytes} bytes were received")
        if checksum is not None and not checksum.matches(target):
            raise StorageUnavailable(
                f"{self._where}: the received bytes do not have S3's checksum {checksum.algorithm}"
            )

    async def _repeat_if_wrong(self, call: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await AsyncRetrying(
                retry=retry_if_exception_type(_WrongPart),
                stop=stop_after_attempt(PART_ATTEMPTS),
                wait=wait_random_exponential(max=PART_BACKOFF_MAX_SECONDS),
                before_sleep=lambda _: self._on_repeat(),
                reraise=True,
            )(call)
        except _WrongPart as error:
            raise StorageUnavailable(f"{self._where}: {error}, {PART_ATTEMPTS} times in a row") from error.__cause__


async def _write_body(body: Any, descriptor: int, start: int, end: int) -> None:
    """Stream a response body to its range of a file. Disk writes run off the event loop.

    Raises _WrongPart if the body has another length: the file would keep a hole, which reads as zeros.
    """
    offset = start
    try:
        async for chunk in body.iter_chunks(CHUNK_BYTES):
            if offset + len(chunk) > end:
                raise _WrongPart("S3 sent more bytes than it announced")
            await asyncio.to_thread(os.pwrite, descriptor, chunk, offset)
            offset += len(chunk)
    except (BotoCoreError, aiohttp.ClientError, TimeoutError) as error:
        raise _WrongPart(
            f"the answer broke off after {offset - start} of {end - start} bytes: {describe(error)}"
        ) from error
    if offset != end:
        raise _WrongPart(f"S3 sent {offset - start} of {end - start} bytes")
