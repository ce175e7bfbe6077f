"""Outputs that are added to a finished job: whatever fails between two steps, a reader finds what the manifest names."""

import asyncio
import dataclasses
import hashlib
import re
from typing import Any, get_args

import pytest

from daemon.aws.s3 import StoredObject
from daemon.errors import LeaseLost, OutputOccupied, StorageUnavailable, TranscriptUnavailable
from daemon.jobs.conflict import require_same_work
from daemon.jobs.late_outputs import LateOutputs, Wanted
from daemon.jobs.notifications import completion_id
from daemon.jobs.result_store import ResultStore, describe_output, is_result_name
from daemon.outputs import OutputFile, Presentation, render, rendered_with
from daemon.schema.job import Place
from daemon.schema.manifest import MAX_RENDERINGS, Manifest
from daemon.schema.options import RENDERING_OPTIONS, Format, SubtitleOptions
from tests.support.aws.fakes import MemoryStorage
from tests.support.builders import a_job, a_manifest
from tests.support.transcripts import segment, transcript, word

PLACE = Place("job-1", "results", "transcripts/job-1/")
SAID = transcript(segment("Hello there.", 0, 2, "SPEAKER_00", (word("Hello", 0), word("there.", 1))))
USUAL = Presentation()
PLAIN = Presentation(SubtitleOptions(speaker_labels=False))
MANIFEST = PLACE.prefix + "manifest.json"


class Bucket(MemoryStorage):
    """S3 that breaks off at one of the calls, before or after it took effect. No manifest in it names what is not there."""

    def __init__(self, *formats: Format) -> None:
        super().__init__()
        self.calls = 0
        self.break_at: tuple[int, bool] | None = None
        files = render(SAID, formats)
        for file in files:
            self.put(PLACE.prefix + file.name, file.body, {"delivery": "the first"})
        outputs = [describe_output(PLACE, file) for file in files]
        self.put(MANIFEST, a_manifest(a_job(), outputs=outputs).model_dump_json().encode())

    async def read(self, *arguments: Any, **named: Any) -> StoredObject | None:
        self._call("before")
        found = await super().read(*arguments, **named)
        self._call("after")
        await asyncio.sleep(0)
        return found

    async def write(self, *arguments: Any, **named: Any) -> str | None:
        self._call("before")
        written = await super().write(*arguments, **named)
        self.check()
        self._call("after")
        await asyncio.sleep(0)
        return written

    def _call(self, when: str) -> None:
        self.calls += when == "before"
        if self.break_at == (self.calls, when == "after"):
            raise StorageUnavailable("broke off")

    @property
    def manifest(self) -> Manifest:
        return Manifest.model_validate_json(self.objects[MANIFEST].body)

    def check(self) -> None:
        for output in self.manifest.outputs:
            assert hashlib.sha256(self.objects[output.key].body).hexdigest() == output.sha256

    def body(self, name: str) -> bytes:
        output = self.manifest.output(name)
        assert output is not None
        return self.objects[output.key].body


async def add(
    bucket: Bucket, *formats: Format, presentation: Presentation = USUAL, message_id: str = "m-2"
) -> Manifest:
    late = LateOutputs(bucket, ResultStore(bucket))
    return await late.add(PLACE, Wanted(message_id, formats, presentation), proceed=lambda: None)


# --- what is rendered -------------------------------------------------------------------------------------------------


def test_rendering_options_are_those_that_shape_a_file() -> None:
    """One set decides which options a finished job may be sent again with; the renderers get exactly these."""
    assert {field.name for field in dataclasses.fields(Presentation)} == RENDERING_OPTIONS - {"formats"}
    job = a_job()
    for name in RENDERING_OPTIONS - {"audio_url"}:  # the URL is not in a manifest
        changed = {**job.options.model_dump(mode="json"), name: "another"}
        require_same_work(job, "m-2", a_manifest(job, options=changed))
    shaped = {name: rendered_with(name, Presentation()) for name in get_args(Format)}
    other = Presentation(SubtitleOptions(max_lines=1), "../a.wav")
    assert {name for name in shaped if rendered_with(name, other) != shaped[name]} == {"srt", "vtt", "ass", "html"}
    for name in shaped:
        (one,), (two,) = (render(SAID, [name], wanted) for wanted in (Presentation(), other))
        assert one.body == two.body or one.rendered_with != two.rendered_with
        assert is_result_name(PLACE.prefix + one.name)
        assert is_result_name(PLACE.prefix + one.later_name)


def test_only_what_is_missing_is_wanted() -> None:
    manifest = Bucket("json", "srt").manifest
    assert Wanted("m-2", ["srt", "json"], Presentation()).missing_in(manifest) is None
    missing = Wanted("m-2", ["json", "srt", "vtt"], Presentation()).missing_in(manifest)
    assert missing is not None
    assert missing.formats == ["vtt"]
    missing = Wanted("m-2", ["json", "srt"], PLAIN).missing_in(manifest)
    assert missing is not None
    assert missing.formats == ["srt"]
    # The message that made the result wants no more, even if the deployment's defaults have changed since.
    assert Wanted("m-1", ["vtt"], Presentation()).missing_in(manifest) is None


async def test_message_that_was_honored_does_not_turn_back_a_later_one() -> None:
    bucket = Bucket("json", "srt")
    await add(bucket, "srt", presentation=PLAIN)
    changed = await add(bucket, "srt", message_id="m-3")
    assert bucket.body("srt") == render(SAID, ["srt"])[0].body, "the first layout again"
    assert Wanted("m-2", ["srt"], PLAIN).missing_in(changed) is None
    assert len({completion_id(each, *PLACE[1:]) for each in (Bucket("json").manifest, changed)}) == 2


async def test_history_of_renderings_is_bounded() -> None:
    bucket = Bucket("json")
    for number in range(MAX_RENDERINGS + 2):
        await add(bucket, "txt", message_id=f"m-{number}")
    assert [each.message_id for each in bucket.manifest.renderings][-1] == f"m-{MAX_RENDERINGS + 1}"
    assert len(bucket.manifest.renderings) == MAX_RENDERINGS


# --- crashes and rivals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
async def test_crash_at_any_call_leaves_a_whole_result_and_its_repetition_finishes_it(after: bool) -> None:
    whole = Bucket("json", "srt")
    await add(whole, "srt", "vtt", presentation=PLAIN)
    for number in range(1, whole.calls + 1):
        bucket = Bucket("json", "srt")
        bucket.break_at = (number, after)
        with pytest.raises(StorageUnavailable, match="broke off"):
            await add(bucket, "srt", "vtt", presentation=PLAIN)
        bucket.check()
        bucket.break_at = None
        if Wanted("m-2", ["srt", "vtt"], PLAIN).missing_in(bucket.manifest):
            await add(bucket, "srt", "vtt", presentation=PLAIN)
        bucket.check()
        assert bucket.body("srt") == whole.body("srt")
        assert len(bucket.manifest.renderings) == 1
        assert bucket.objects.keys() == whole.objects.keys(), "no other file is left"


async def test_rivals_with_other_wishes_all_get_theirs() -> None:
    bucket = Bucket("json")
    await asyncio.gather(
        add(bucket, "srt", "txt", message_id="a"),
        add(bucket, "srt", "vtt", presentation=PLAIN, message_id="b"),
        add(bucket, "txt", message_id="c"),
    )
    bucket.check()
    assert {output.format for output in bucket.manifest.outputs} == {"json", "srt", "txt", "vtt"}
    assert {each.message_id for each in bucket.manifest.renderings} == {"a", "b", "c"}


async def test_daemon_without_a_lease_does_not_replace_the_manifest() -> None:
    bucket = Bucket("json")
    before = bucket.objects[MANIFEST]

    def lost() -> None:
        raise LeaseLost("lost")

    with pytest.raises(LeaseLost):
        await LateOutputs(bucket, ResultStore(bucket)).add(PLACE, Wanted("m", ["srt"], PLAIN), lost)
    assert bucket.objects[MANIFEST] == before


@pytest.mark.parametrize("named", [OutputFile("srt", "transcript.srt", "", b""), render(SAID, ["srt"], PLAIN)[0]])
async def test_objects_of_others_are_not_overwritten(named: OutputFile) -> None:
    bucket = Bucket("json", "srt") if named.body else Bucket("json")
    key = PLACE.prefix + (named.later_name if named.body else named.name)
    bucket.put(key, b"theirs")
    with pytest.raises(OutputOccupied, match=re.escape(key)):
        await add(bucket, "srt", presentation=PLAIN)
    assert bucket.objects[key].body == b"theirs"


async def test_leftover_of_an_unfinished_delivery_is_not_adopted() -> None:
    """Its writer may still be suspended, and overwrite it."""
    bucket, (file,) = Bucket("json"), render(SAID, ["srt"])
    bucket.put(PLACE.prefix + file.name, file.body, {"delivery": "suspended"})
    manifest = await add(bucket, "srt")
    output = manifest.output("srt")
    assert output is not None
    assert output.key == PLACE.prefix + file.later_name


# --- the stored transcript --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["transcripts/job-2/transcript.json", "transcript.json", PLACE.prefix + "x/transcript.json", MANIFEST]
)
async def test_manifest_cannot_name_a_transcript_elsewhere(key: str) -> None:
    bucket = Bucket("json")
    manifest = bucket.manifest
    (output,) = manifest.outputs
    bucket.put(key, bucket.body("json"))
    changed = manifest.model_copy(update={"outputs": [output.model_copy(update={"key": key})]})
    bucket.put(MANIFEST, changed.model_dump_json().encode())
    with pytest.raises(TranscriptUnavailable, match="outside of its place"):
        await add(bucket, "srt")


async def test_result_that_was_replaced_meanwhile_is_not_mixed_with_the_old_one() -> None:
    bucket = Bucket("json")
    other = render(transcript(segment("Something else.")), ["json"])[0]

    def replace_result() -> None:
        bucket.put(PLACE.prefix + other.name, other.body, {"delivery": "another"})
        manifest = a_manifest(a_job(), outputs=[describe_output(PLACE, other)])
        bucket.put(MANIFEST, manifest.model_dump_json().encode())

    with pytest.raises(StorageUnavailable, match="was replaced"):
        await LateOutputs(bucket, ResultStore(bucket)).add(PLACE, Wanted("m", ["srt"], PLAIN), replace_result)
    assert bucket.manifest.output("srt") is None
