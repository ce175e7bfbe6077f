"""A job's place in S3: its results, its manifest, and what is kept until it is finished.

<prefix><job_id>/transcript.json …     outputs
<prefix><job_id>/manifest.json         written last and once: from here on the job is finished
<prefix><job_id>/webhook.json          what became of the final webhook
<prefix><job_id>/checkpoints/          deliveries.json and finished parts; removed after the manifest is written
"""

import asyncio
import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.errors import StorageUnavailable
from daemon.events import Event
from daemon.history import Delivery, History
from daemon.job import Job
from daemon.manifest import MANIFEST_NAME, Manifest, StoredOutput
from daemon.outputs import OutputFile
from daemon.storage import MAX_READ_BYTES, Storage

log = logging.getLogger("transcriptd.results")

WEBHOOK_NAME = "webhook.json"
CHECKPOINTS = "checkpoints/"
HISTORY_NAME = CHECKPOINTS + "deliveries.json"

# Far above what the longest recording leaves; whoever may write there could fill the instance's disk.
CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,99}")
MAX_CHECKPOINTS = 1000
MAX_CHECKPOINTS_BYTES = 256 * 1024 * 1024

# A rival that has begun to publish gets so long to finish before its work is written over: it may have died.
RIVAL_PATIENCE_SECONDS = 10.0
RIVAL_POLL_SECONDS = 0.5
# Rounds of a read and a conditional write before a contended record is given up.
WRITE_ROUNDS = 5


class Results:
    """All jobs' places; every method names the job."""

    def __init__(self, storage: Storage, checkpoint_tag: str | None = None) -> None:
        """`checkpoint_tag`, `key=value`, is put on all that only an unfinished job needs."""
        self._storage = storage
        self._checkpoint_tag = checkpoint_tag

    # --- finished jobs --------------------------------------------------------------------------------------------

    async def find_manifest(self, job: Job) -> Manifest | None:
        """The manifest of a job that is already finished, or None."""
        key = job.output_key(MANIFEST_NAME)
        stored = await self._storage.read(job.output_bucket, key)
        if stored is None:
            return None
        try:
            return Manifest.model_validate_json(stored.body)
        except ValidationError as error:
            # Something else lies under our name: publishing would be refused, so say it now.
            raise StorageUnavailable(
                f"s3://{job.output_bucket}/{key} is not a manifest: {error.error_count()} fields are missing or wrong; remove it"
            ) from None  # pydantic would quote what it holds

    async def publish(
        self,
        job: Job,
        files: list[OutputFile],
        make_manifest: Callable[[list[StoredOutput]], Manifest],
        proceed: Callable[[str], None],
    ) -> tuple[Manifest, bool]:
        """Write the outputs, then the manifest; the manifest that counts, and whether it is ours.

        `proceed` is called after each step with its name; it raises when the next one must not be taken.

        Two deliveries may publish at the same time, and one that was given up may wake and write late. So no output
        is written blindly: only where there is none, or over the very object that was seen there when no manifest
        existed. The first output is the gate: who finds one there waits for its owner's manifest.
        """
        try:
            first = await self._put(job, files[0], patience_seconds=RIVAL_PATIENCE_SECONDS)
            proceed("first-output-stored")
            others = await asyncio.gather(*(self._put(job, file) for file in files[1:]))
            proceed("outputs-stored")
        except _RivalWasFaster as rival:
            return rival.manifest, False
        manifest = make_manifest([first, *others])
        body = manifest.model_dump_json(indent=2).encode()
        key = job.output_key(MANIFEST_NAME)
        if await self._storage.write(job.output_bucket, key, body, only_if_absent=True) is not None:
            return manifest, True
        found = await self.find_manifest(job)
        if found is None:
            raise StorageUnavailable(f"s3://{job.output_bucket}/{key} was refused and is not there")
        return found, found == manifest  # equal: our own write, whose answer was lost, and the client tried again

    async def _put(self, job: Job, file: OutputFile, patience_seconds: float = 0) -> StoredOutput:
        """Write one output. Raises _RivalWasFaster once there is a manifest."""
        key = job.output_key(file.name)
        token = uuid.uuid4().hex
        conditions: dict[str, Any] = {"only_if_absent": True}
        for _ in range(WRITE_ROUNDS):
            metadata = {"delivery": token}
            if await self._storage.write(
                job.output_bucket, key, file.body, file.content_type, metadata=metadata, **conditions
            ):
                return _describe(job, file)
            there = await self._storage.read(job.output_bucket, key)
            if there is not None and there.metadata.get("delivery") == token:
                return _describe(job, file)  # our own write, whose answer was lost
            await self._await_rival(job, patience_seconds)
            conditions = {"only_if_etag": there.etag} if there else {"only_if_absent": True}
        raise StorageUnavailable(f"s3://{job.output_bucket}/{key} was changed by others {WRITE_ROUNDS} times in a row")

    async def _await_rival(self, job: Job, patience_seconds: float) -> None:
        """Give the rival who wrote an output time for its manifest. Returns if none appears: it died."""
        deadline = time.monotonic() + patience_seconds
        while True:
            if manifest := await self.find_manifest(job):
                raise _RivalWasFaster(manifest)
            if time.monotonic() >= deadline:
                return
            await asyncio.sleep(RIVAL_POLL_SECONDS)

    async def webhook_delivered(self, job: Job) -> bool:
        """Whether the final webhook is on record as delivered."""
        stored = await self._storage.read(job.output_bucket, job.output_key(WEBHOOK_NAME))
        try:
            record = json.loads(stored.body) if stored else {}
            return (record.get("type"), record.get("result")) == ("job.completed", "delivered")
        except (ValueError, AttributeError):
            return False  # told twice is better than never

    async def record_webhook(self, event: Event, result: str, status: int | None) -> None:
        """Write down what became of a job's final event: delivered, gone, refused, exhausted or failed."""
        if event.output is None:
            return  # the message was too broken to have a place
        record = {
            "event_id": event.id,
            "type": event.type,
            "result": result,
            "status": status,
            "at": round(time.time()),
        }
        await self._storage.write(event.output.bucket, event.output.prefix + WEBHOOK_NAME, json.dumps(record).encode())

    async def webhook_known(self, event: Event) -> bool:
        """Whether this very event is on record as delivered."""
        if event.output is None:
            return False
        stored = await self._storage.read(event.output.bucket, event.output.prefix + WEBHOOK_NAME)
        try:
            record = json.loads(stored.body) if stored else {}
            return (record.get("event_id"), record.get("result")) == (event.id, "delivered")
        except (ValueError, AttributeError):
            return False

    # --- deliveries -----------------------------------------------------------------------------------------------

    async def begin(self, job: Job, message_id: str, receive_count: int, worker_id: str) -> History:
        """Note that a delivery begins; what was noted before it.

        On a first receive nothing is expected there: that costs one request.
        """
        key = job.output_key(HISTORY_NAME)
        # One entry, however often it is written: the client repeats a write whose answer was lost.
        entry = Delivery(message_id=message_id, receive_count=receive_count, worker_id=worker_id)
        if receive_count == 1:
            first = History().begin(entry).model_dump_json().encode()
            if await self._write_unfinished(job, key, first, only_if_absent=True) is not None:
                return History()
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
        counts: bool,
    ) -> None:
        """Note what a delivery came to. Where the record is gone the job is finished: nothing is noted."""
        await self._update(
            job,
            lambda history: history.end(message_id, receive_count, outcome, reason, message=message, counts=counts),
            create=False,
        )

    async def _update(self, job: Job, change: Callable[[History], History], *, create: bool = True) -> History:
        """Change the history in place, whoever else does; what it was before."""
        key = job.output_key(HISTORY_NAME)
        for _ in range(WRITE_ROUNDS):
            stored = await self._storage.read(job.output_bucket, key)
            before = History()
            if stored is None and not create:
                return before
            if stored is not None:
                try:
                    before = History.model_validate_json(stored.body)
                except ValidationError:
                    log.warning("delivery record unreadable, begun anew", extra={"key": key})
            body = change(before).model_dump_json().encode()
            condition: dict[str, Any] = {"only_if_etag": stored.etag} if stored else {"only_if_absent": True}
            if await self._write_unfinished(job, key, body, **condition) is not None:
                return before
        raise StorageUnavailable(f"s3://{job.output_bucket}/{key} was changed by others {WRITE_ROUNDS} times in a row")

    # --- checkpoints ----------------------------------------------------------------------------------------------

    async def restore_checkpoints(self, job: Job, fingerprint: str, folder: Path) -> int:
        """Bring what earlier deliveries finished into the folder; how many parts those are."""
        prefix = job.output_key(f"{CHECKPOINTS}{fingerprint}/")
        keys = await self._storage.list_keys(job.output_bucket, prefix)
        names = [name for key in keys if CHECKPOINT_NAME.fullmatch(name := key.removeprefix(prefix))]
        if len(names) > MAX_CHECKPOINTS:
            raise StorageUnavailable(
                f"s3://{job.output_bucket}/{prefix} has {len(names)} objects; somebody else wrote there"
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
        """Write what only an unfinished job needs; its ETag, or None when the condition did not hold."""
        return await self._storage.write(job.output_bucket, key, body, tag=self._checkpoint_tag, **condition)

    async def remove_checkpoints(self, job: Job, known: Sequence[str] | None = None) -> None:
        """Remove everything that only an unfinished job needs.

        `known` has the parts, as `fingerprint/name`, where these and the history are all that is there: that saves a
        listing. A rival that began later may have more; it lists them when it finds the manifest.
        """
        if known is None:
            keys = await self._storage.list_keys(job.output_bucket, job.output_key(CHECKPOINTS))
        else:
            keys = [job.output_key(name) for name in (HISTORY_NAME, *(CHECKPOINTS + part for part in known))]
        await self._storage.delete(job.output_bucket, keys)


class _RivalWasFaster(Exception):
    """Another delivery published while we were about to."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__("another delivery published first")
        self.manifest = manifest


def _describe(job: Job, file: OutputFile) -> StoredOutput:
    return StoredOutput(
        format=file.format,
        key=job.output_key(file.name),
        content_type=file.content_type,
        size_bytes=len(file.body),
        sha256=hashlib.sha256(file.body).hexdigest(),
    )
