"""Adds outputs to a finished job: renders them from its stored transcript.json, and updates the manifest.

An object that a manifest names is never changed. A new file gets the usual name if that is free, otherwise one with a digest
of its content. The manifest is replaced, conditionally, after all its objects exist. So every step can be repeated, and a
reader finds each file that its manifest names, with the digest that it states.
"""

import asyncio
import datetime
import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.aws.s3 import Storage
from daemon.errors import StorageUnavailable, TranscriptUnavailable
from daemon.jobs.result_store import WRITE_ROUNDS, ResultStore, contended, describe_output, occupied
from daemon.outputs import OUTPUT_NAME, OutputFile, Presentation, render, rendered_with
from daemon.schema.job import Place
from daemon.schema.manifest import MANIFEST_NAME, Manifest, Rendering, StoredOutput
from daemon.schema.options import Format, JobOptions
from daemon.schema.stored_transcript import MAX_TRANSCRIPT_BYTES, parse_transcript
from daemon.schema.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Wanted:
    """Outputs that a finished job shall have."""

    message_id: str  # a message is honored once
    formats: Sequence[Format]
    presentation: Presentation

    @classmethod
    def by(cls, message_id: str, options: JobOptions) -> "Wanted":
        return cls(message_id, options.formats, Presentation.of(options))

    def missing_in(self, manifest: Manifest) -> "Wanted | None":
        """Return the outputs that the result lacks, or has with other rendering options; None if there are none.

        The message that made the result, or was honored later, wants nothing any more: it may be delivered again after
        another one, or after the deployment's defaults have changed.
        """
        if manifest.honors(self.message_id):
            return None
        formats = [name for name in self.formats if not _has(manifest, name, rendered_with(name, self.presentation))]
        return Wanted(self.message_id, formats, self.presentation) if formats else None


def _has(manifest: Manifest, name: Format, digest: str | None) -> bool:
    output = manifest.output(name)
    return output is not None and output.rendered_with == digest


class LateOutputs:
    """Adds outputs to results."""

    def __init__(self, storage: Storage, results: ResultStore) -> None:
        self._storage = storage
        self._results = results
        self._rendering = asyncio.Semaphore(1)  # bounds memory: a transcript may take several times its size

    async def add(self, place: Place, wanted: Wanted, proceed: Callable[[], None]) -> Manifest:
        """Write the outputs and update the manifest. Return the manifest.

        `proceed` is called before the manifest is replaced, and raises if that must not happen. Raises
        TranscriptUnavailable, OutputOccupied, StorageUnavailable.
        """
        with self._results.attribute_errors(place):
            return await self._add(place, wanted, proceed)

    async def _add(self, place: Place, wanted: Wanted, proceed: Callable[[], None]) -> Manifest:
        manifest, etag = await self._find(place)
        async with self._rendering:
            transcript = await read_transcript(self._storage, place, manifest)
            files = await asyncio.to_thread(render, transcript, wanted.formats, wanted.presentation)
        added = await asyncio.gather(*(self._put(place, file, manifest) for file in files))
        rendering = Rendering(
            message_id=wanted.message_id,
            at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            formats=list(wanted.formats),
            subtitles=wanted.presentation.subtitles.model_dump(mode="json"),
        )
        source = manifest.output("json")
        for _ in range(WRITE_ROUNDS):
            proceed()
            changed = manifest.with_outputs(added, rendering)
            body = changed.model_dump_json(indent=2).encode()
            if await self._storage.write(place.bucket, place.prefix + MANIFEST_NAME, body, only_if_etag=etag):
                return changed
            manifest, etag = await self._find(place)
            if manifest.honors(wanted.message_id):
                return manifest  # this delivery's own write, whose response was lost, or that of another delivery
            if manifest.output("json") != source:
                raise StorageUnavailable(
                    f"the result of job {place.job_id} was replaced while outputs were added; try again"
                )
        raise contended(place.bucket, place.prefix + MANIFEST_NAME)

    async def _find(self, place: Place) -> tuple[Manifest, str]:
        found = await self._results.find_result(place)
        if found is None:
            raise StorageUnavailable(f"the manifest of job {place.job_id} was removed while outputs were added")
        return found

    async def _put(self, place: Place, file: OutputFile, manifest: Manifest) -> StoredOutput:
        """Write a file where no object is. Nothing is overwritten: the manifest may name any object there."""
        output = describe_output(place, file)
        digest, earlier = output.sha256, manifest.output(file.format)
        if earlier is not None and earlier.sha256 == digest:  # other options, same text
            return earlier.model_copy(update={"rendered_with": file.rendered_with})
        for name in (file.name, file.later_name):
            key = place.prefix + name
            # An unfinished delivery of the job may overwrite objects of its kind, but never one that was added later.
            marks = {"delivery": uuid.uuid4().hex, "rendered": digest}
            described = output.model_copy(update={"key": key})
            if await self._storage.write(
                place.bucket, key, file.body, file.content_type, only_if_absent=True, metadata=marks
            ):
                return described
            there = await self._storage.read(place.bucket, key)
            if there is not None and there.metadata.get("rendered") == digest and there.body == file.body:
                return described  # from an earlier try, or a try whose response was lost
            if there is not None and "delivery" not in there.metadata:
                raise occupied(place.bucket, key)
        raise occupied(place.bucket, place.prefix + file.later_name)


async def read_transcript(storage: Storage, place: Place, manifest: Manifest) -> Transcript:
    """Return the transcript of a finished job, if it is the one that the manifest describes.

    Raises TranscriptUnavailable otherwise.
    """
    output = manifest.output("json")
    if output is None:
        formats = ", ".join(each.format for each in manifest.outputs)
        raise TranscriptUnavailable(
            f"job {place.job_id} has no transcript.json, which later work needs (its formats: {formats}); send the "
            "recording with another job_id and json among the formats"
        )
    where = f"s3://{place.bucket}/{output.key}"
    if output.key.removeprefix(place.prefix) == output.key or not OUTPUT_NAME.fullmatch(
        output.key.removeprefix(place.prefix)
    ):
        raise TranscriptUnavailable(f"the manifest of job {place.job_id} names a transcript outside of its place")
    if output.size_bytes > MAX_TRANSCRIPT_BYTES:
        raise TranscriptUnavailable(f"{where} is larger than {MAX_TRANSCRIPT_BYTES} bytes")
    stored = await storage.read(place.bucket, output.key, output.size_bytes, too_large=TranscriptUnavailable)
    if stored is None:
        raise TranscriptUnavailable(f"{where} was removed; send the recording with another job_id")
    if hashlib.sha256(stored.body).hexdigest() != output.sha256:
        raise TranscriptUnavailable(f"{where} is not the file that the manifest describes: it was replaced")
    return await asyncio.to_thread(parse_transcript, stored.body, where)
