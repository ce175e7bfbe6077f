"""A job's objects in S3: its results, its manifest, and its state until it is finished.

<prefix><job_id>/transcript.json …     outputs
<prefix><job_id>/manifest.json         written last; its existence means that the job is finished
<prefix><job_id>/webhook.json          result of the final webhook
<prefix><job_id>/status.json           state for readers (job_status.py)
<prefix><job_id>/cancel                request to cancel the job (cancellation.py)
<prefix><job_id>/checkpoints/          deliveries.json and checkpoints; removed after the manifest is written
"""

import asyncio
import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.aws.s3 import MAX_READ_BYTES, Storage
from daemon.errors import (
    AccessDenied,
    ObjectMissing,
    ObjectRefused,
    OutputOccupied,
    OutputRefused,
    StorageUnavailable,
    TranscriptdError,
)
from daemon.jobs.delivery_log import DeliveryLog, DeliveryRecord
from daemon.jobs.fingerprint import FINGERPRINT
from daemon.outputs import OUTPUT_NAME, OutputFile
from daemon.schema.job import CHECKPOINTS, Job, Place
from daemon.schema.job_status import CANCEL_NAME, STATUS_NAME
from daemon.schema.manifest import MANIFEST_NAME, Manifest, StoredOutput
from daemon.webhooks.events import WebhookEvent

log = logging.getLogger("transcriptd.results")

WEBHOOK_NAME = "webhook.json"
PROBE_NAME = ".transcriptd-probe"  # shared by all daemons: without s3:DeleteObject, only one object remains
DELIVERY_LOG_NAME = CHECKPOINTS + "deliveries.json"

# Far more than the longest recording needs. Anyone with write access to the bucket could otherwise fill the disk.
CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")
_CHECKPOINT_PATH = re.compile(rf"{FINGERPRINT.pattern}/{CHECKPOINT_NAME.pattern}")  # below checkpoints/
MAX_CHECKPOINTS = 1000
MAX_CHECKPOINTS_BYTES = 256 * 1024 * 1024

# Time for a concurrent delivery to finish publishing before its outputs are overwritten: it may have crashed.
CONCURRENT_WRITER_TIMEOUT_SECONDS = 10.0
CONCURRENT_WRITER_POLL_SECONDS = 0.5
# Attempts to read and conditionally write a contended object.
WRITE_ROUNDS = 5


# The names of a job's objects, whatever its prefix, and of the objects of probes and checks.
_RESULT_NAME = re.compile(
    rf"(.*/)?({'|'.join(map(re.escape, (MANIFEST_NAME, STATUS_NAME, WEBHOOK_NAME, DELIVERY_LOG_NAME)))}|{OUTPUT_NAME.pattern}"
    rf"|[^/]+/{CANCEL_NAME}|{CHECKPOINTS}{_CHECKPOINT_PATH.pattern}|\.transcriptd-[^/]*)",
    re.DOTALL,
)


def occupied(bucket: str, key: str) -> OutputOccupied:
    problem = f"s3://{bucket}/{key} exists, and transcriptd did not write it"
    return OutputOccupied(f"{problem}; remove it, or use another prefix or job_id")


def contended(bucket: str, key: str) -> StorageUnavailable:
    return StorageUnavailable(f"s3://{bucket}/{key} was changed by other writers {WRITE_ROUNDS} times in a row")


def is_result_name(key: str) -> bool:
    """Return whether transcriptd writes objects of this name. They are never recordings."""
    return bool(_RESULT_NAME.fullmatch(key))


class ResultStore:
    """Reads and writes the objects of all jobs."""

    def __init__(
        self,
        storage: Storage,
        checkpoint_tag: str | None = None,
        *,
        own_bucket: str | None = None,
        own_prefix: str = "",
    ) -> None:
        """`checkpoint_tag` (`key=value`) is set on objects that only an unfinished job needs.

        `own_bucket` and `own_prefix` are the deployment's default location for results. If S3 denies access there, the
        deployment is at fault (OutputRefused); in a location that the job chose, the job is.
        """
        self._storage = storage
        self._checkpoint_tag = checkpoint_tag
        self._own_bucket = own_bucket
        self._own_prefix = own_prefix

    @contextmanager
    def attribute_errors(self, place: Place) -> Iterator[None]:
        """Raise OutputRefused for what S3 refuses in the deployment's own location: the deployment is at fault, not the job."""
        try:
            yield
        except ObjectMissing as error:  # the bucket is missing: a missing object raises nothing here
            if place.bucket != self._own_bucket:
                raise
            raise OutputRefused(
                f"the output bucket {place.bucket} does not exist; correct TRANSCRIPTD_OUTPUT_BUCKET or create it"
            ) from error
        except (AccessDenied, ObjectRefused) as error:
            # The job may have chosen a prefix that the role may not write to.
            if place.bucket != self._own_bucket or not place.prefix.startswith(self._own_prefix):
                raise
            raise OutputRefused(error.message) from error

    async def probe(self) -> None:
        """Make the calls of a job in the deployment's default location. Raises a TranscriptdError if one fails."""
        if self._own_bucket is None:
            return
        key = self._own_prefix + PROBE_NAME
        await self._storage.read(self._own_bucket, key + "-none")  # 403 instead of 404 without s3:ListBucket
        await self._storage.write(self._own_bucket, key, b"safe to delete", "text/plain", tag=self._checkpoint_tag)
        await self._storage.read(self._own_bucket, key)
        with suppress(TranscriptdError):  # jobs succeed without this permission, but their checkpoints remain
            await self._storage.delete(self._own_bucket, [key])

    # --- finished jobs --------------------------------------------------------------------------------------------

    async def find_manifest(self, job: Job) -> Manifest | None:
        """Return the manifest if the job is already finished, otherwise None."""
        found = await self.find_result(job.place)
        return found and found[0]

    async def find_result(self, place: Place) -> tuple[Manifest, str] | None:
        """Return the manifest at this place with its ETag, or None if there is none."""
        key = place.prefix + MANIFEST_NAME
        with self.attribute_errors(place):
            stored = await self._storage.read(place.bucket, key)
        if stored is None:
            return None
        try:
            return Manifest.model_validate_json(stored.body), stored.etag
        except ValidationError as error:
            # Publishing would fail later, so fail now. pydantic's message would quote the content.
            problem = f"is not a manifest: {error.error_count()} fields are missing or wrong"
            raise OutputOccupied(
                f"s3://{place.bucket}/{key} {problem}; remove it, or change prefix or job_id"
            ) from None

    async def publish(
        self,
        job: Job,
        files: list[OutputFile],
        make_manifest: Callable[[list[StoredOutput]], Manifest],
        proceed: Callable[[], None],
    ) -> tuple[Manifest, bool]:
        """Write the outputs, then the manifest. Return the valid manifest, and whether this delivery wrote it.

        `proceed` is called after each step and raises if the next one must not happen.

        Two deliveries may publish at the same time, and one that lost its lease may write late. So every write is
        conditional: only if there is no object, or over the same object that was there when no manifest existed. The first
        output acts as a lock: a delivery that finds one waits for the manifest of the delivery that wrote it.
        """
        with self.attribute_errors(job.place):
            return await self._publish(job, files, make_manifest, proceed)

    async def _publish(
        self,
        job: Job,
        files: list[OutputFile],
        make_manifest: Callable[[list[StoredOutput]], Manifest],
        proceed: Callable[[], None],
    ) -> tuple[Manifest, bool]:
        try:
            first = await self._put(job, files[0], wait_seconds=CONCURRENT_WRITER_TIMEOUT_SECONDS)
            proceed()
            others = await asyncio.gather(*(self._put(job, file) for file in files[1:]))
            proceed()
        except _ConcurrentPublish as rival:
            return rival.manifest, False
        manifest = make_manifest([first, *others])
        body = manifest.model_dump_json(indent=2).encode()
        key = job.output_key(MANIFEST_NAME)
        if await self._storage.write(job.output_bucket, key, body, only_if_absent=True) is not None:
            return manifest, True
        found = await self.find_manifest(job)
        if found is None:
            raise StorageUnavailable(f"s3://{job.output_bucket}/{key} could not be created, but does not exist")
        # Equal: this delivery's own write; the client retried it after losing the response.
        return found, found == manifest

    async def _put(self, job: Job, file: OutputFile, wait_seconds: float = 0) -> StoredOutput:
        """Write one output. Raises _ConcurrentPublish if a manifest exists."""
        key = job.output_key(file.name)
        token = uuid.uuid4().hex
        conditions: dict[str, Any] = {"only_if_absent": True}
        for _ in range(WRITE_ROUNDS):
            metadata = {"delivery": token}
            if await self._storage.write(
                job.output_bucket, key, file.body, file.content_type, metadata=metadata, **conditions
            ):
                return describe_output(job.place, file)
            there = await self._storage.read(job.output_bucket, key)
            if there is not None and there.metadata.get("delivery") == token:
                return describe_output(job.place, file)  # this delivery's own write; its response was lost
            if there is not None and "delivery" not in there.metadata:
                raise occupied(job.output_bucket, key)
            await self._wait_for_concurrent_writer(job, wait_seconds)
            conditions = {"only_if_etag": there.etag} if there else {"only_if_absent": True}
        raise contended(job.output_bucket, key)

    async def _wait_for_concurrent_writer(self, job: Job, wait_seconds: float) -> None:
        """Wait for the manifest of the delivery that wrote an output. Returns if none appears: that delivery crashed."""
        deadline = time.monotonic() + wait_seconds
        while True:
            if manifest := await self.find_manifest(job):
                raise _ConcurrentPublish(manifest)
            if time.monotonic() >= deadline:
                return
            await asyncio.sleep(CONCURRENT_WRITER_POLL_SECONDS)

    async def webhook_delivered(self, job: Job, event_id: str) -> bool:
        """Return whether the job's receiver is recorded as having this event of its completion."""
        with self.attribute_errors(job.place):
            record, _ = await self._webhook_record(job.output_bucket, job.output_prefix)
        expected = {"event_id": event_id, "result": "delivered", "receiver": _receiver(job.webhook_url)}
        return record.items() >= expected.items()

    async def record_webhook(self, url: str, event: WebhookEvent, result: str, status: int | None) -> None:
        """Record the result of a job's final event: delivered, gone, refused, exhausted or failed.

        Raises OutputOccupied if the object there is not such a record.
        """
        place = event.record_place
        if place is None:
            return
        bucket, prefix = place.bucket, place.prefix
        record = {
            "event_id": event.id,
            "type": event.type,
            "result": result,
            "status": status,
            "receiver": _receiver(url),
            "at": round(time.time()),
        }
        condition: dict[str, Any] = {"only_if_absent": True}
        for _ in range(WRITE_ROUNDS):
            body = json.dumps(record).encode()
            if await self._storage.write(bucket, prefix + WEBHOOK_NAME, body, **condition) is not None:
                return
            earlier, etag = await self._webhook_record(bucket, prefix)
            if etag is not None and not earlier:
                raise OutputOccupied(f"s3://{bucket}/{prefix}{WEBHOOK_NAME} exists, and transcriptd did not write it")
            condition = {"only_if_etag": etag} if etag else {"only_if_absent": True}
        raise StorageUnavailable(f"s3://{bucket}/{prefix}{WEBHOOK_NAME} was changed by others {WRITE_ROUNDS} times")

    async def webhook_known(self, url: str, event: WebhookEvent) -> bool:
        """Return whether this event, by its ID, is recorded as delivered to the receiver."""
        place = event.record_place
        if place is None:
            return False
        record, _ = await self._webhook_record(place.bucket, place.prefix)
        expected = {"event_id": event.id, "result": "delivered", "receiver": _receiver(url)}
        return record.items() >= expected.items()

    async def _webhook_record(self, bucket: str, prefix: str) -> tuple[dict[str, Any], str | None]:
        """Return the record of the final event and its ETag. The record is empty if there is none, or another object."""
        stored = await self._storage.read(bucket, prefix + WEBHOOK_NAME)
        if stored is None:
            return {}, None
        try:
            record = json.loads(stored.body)
        except ValueError:
            record = None
        return record if isinstance(record, dict) and "event_id" in record else {}, stored.etag

    # --- deliveries -----------------------------------------------------------------------------------------------

    async def begin(self, job: Job, message_id: str, receive_count: int, worker_id: str) -> DeliveryLog:
        """Record the start of a delivery. Return the log of the earlier ones.

        On the first receive, no log is expected, so this takes only one request.
        """
        with self.attribute_errors(job.place):
            return await self._begin(job, message_id, receive_count, worker_id)

    async def _begin(self, job: Job, message_id: str, receive_count: int, worker_id: str) -> DeliveryLog:
        key = job.output_key(DELIVERY_LOG_NAME)
        # Written at most once: the client repeats a write whose response was lost.
        entry = DeliveryRecord(message_id=message_id, receive_count=receive_count, worker_id=worker_id)
        if receive_count == 1:
            first = DeliveryLog().begin(entry).model_dump_json().encode()
            if await self._write_unfinished(job, key, first, only_if_absent=True) is not None:
                return DeliveryLog()
        found = await self._update(job, lambda history: history.begin(entry))
        return found.before(entry)

    async def end(
        self,
        job: Job,
        message_id: str,
        receive_count: int,
        outcome: str,
        reason: str,
        *,
        message: str | None = None,
        consumes_attempt: bool,
    ) -> None:
        """Record the outcome of a delivery. If the log no longer exists, the job is finished and nothing is recorded."""
        with self.attribute_errors(job.place):
            await self._update(
                job,
                lambda history: history.end(
                    message_id, receive_count, outcome, reason, message=message, consumes_attempt=consumes_attempt
                ),
                create=False,
            )

    async def interrupt(self, job: Job, message_id: str, receive_count: int) -> None:
        """Record that a delivery was interrupted, unless it has recorded an outcome."""
        await self._update(job, lambda history: history.interrupt(message_id, receive_count), create=False)

    async def _update(
        self, job: Job, change: Callable[[DeliveryLog], DeliveryLog], *, create: bool = True
    ) -> DeliveryLog:
        """Update the delivery log, retrying on concurrent changes. Return the previous version."""
        key = job.output_key(DELIVERY_LOG_NAME)
        for _ in range(WRITE_ROUNDS):
            stored = await self._storage.read(job.output_bucket, key)
            before = DeliveryLog()
            if stored is None and not create:
                return before
            if stored is not None:
                try:
                    before = DeliveryLog.model_validate_json(stored.body)
                except ValidationError:
                    log.warning("delivery record unreadable, starting a new one", extra={"key": key})
            body = change(before).model_dump_json().encode()
            condition: dict[str, Any] = {"only_if_etag": stored.etag} if stored else {"only_if_absent": True}
            if await self._write_unfinished(job, key, body, **condition) is not None:
                return before
        raise contended(job.output_bucket, key)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    async def restore_checkpoints(self, job: Job, fingerprint: str, folder: Path) -> int:
        """Download the checkpoints of earlier deliveries to the folder. Return their number."""
        prefix = job.output_key(f"{CHECKPOINTS}{fingerprint}/")
        keys = await self._storage.list_keys(job.output_bucket, prefix)
        names = [name for key in keys if CHECKPOINT_NAME.fullmatch(name := key.removeprefix(prefix))]
        if len(names) > MAX_CHECKPOINTS:
            raise StorageUnavailable(
                f"s3://{job.output_bucket}/{prefix} has {len(names)} objects, more than transcriptd writes; remove the foreign ones"
            )
        left_bytes = MAX_CHECKPOINTS_BYTES
        for name in names:
            if stored := await self._storage.read(job.output_bucket, prefix + name, min(left_bytes, MAX_READ_BYTES)):
                left_bytes -= len(stored.body)
                await asyncio.to_thread((folder / name).write_bytes, stored.body)
        return len(names)

    async def keep_checkpoint(self, job: Job, fingerprint: str, file: Path) -> None:
        body = await asyncio.to_thread(file.read_bytes)
        key = job.output_key(f"{CHECKPOINTS}{fingerprint}/{file.name}")
        await self._write_unfinished(job, key, body)

    async def _write_unfinished(self, job: Job, key: str, body: bytes, **condition: Any) -> str | None:
        """Write an object that only an unfinished job needs. Return its ETag, or None if the condition failed."""
        return await self._storage.write(job.output_bucket, key, body, tag=self._checkpoint_tag, **condition)

    async def remove_checkpoints(self, job: Job, known: Sequence[str] | None = None) -> None:
        """Remove everything that only an unfinished job needs.

        `known` lists the checkpoints as `fingerprint/name` if these and the delivery log are the only objects, which saves
        a list call. A delivery that started later may have more; it lists and removes them when it finds the manifest.
        """
        if known is None:
            prefix = job.output_key(CHECKPOINTS)
            found = await self._storage.list_keys(job.output_bucket, prefix)
            keys = [key for key in found if _is_ours(key.removeprefix(prefix))]
        else:
            keys = [job.output_key(name) for name in (DELIVERY_LOG_NAME, *(CHECKPOINTS + part for part in known))]
        await self._storage.delete(job.output_bucket, keys)


class _ConcurrentPublish(Exception):
    """Raised when another delivery has published first."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__("another delivery published first")
        self.manifest = manifest


def _receiver(url: str | None) -> str | None:
    """Return a name for a receiver that does not contain its URL, which may have a token."""
    return None if url is None else hashlib.sha256(url.encode()).hexdigest()


def _is_ours(path: str) -> bool:
    """Return whether transcriptd writes objects of this name below checkpoints/. Others are not removed."""
    return CHECKPOINTS + path == DELIVERY_LOG_NAME or bool(_CHECKPOINT_PATH.fullmatch(path))


def describe_output(place: Place, file: OutputFile) -> StoredOutput:
    return StoredOutput(
        format=file.format,
        key=place.prefix + file.name,
        content_type=file.content_type,
        size_bytes=len(file.body),
        sha256=hashlib.sha256(file.body).hexdigest(),
        rendered_with=file.rendered_with,
    )
