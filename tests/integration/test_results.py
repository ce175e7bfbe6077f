"""A job's place in S3, on a real S3 protocol: one manifest, outputs that match it, records that survive contention."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from daemon.embedded.aws import EmbeddedAws
from daemon.embedded.loopback import LoopbackServer, QuietHandler
from daemon.errors import AccessDenied, ObjectEmpty, ObjectMissing, ObjectTooLarge, StorageUnavailable
from daemon.job import Input, Job, parse_job
from daemon.manifest import InputObject, Manifest, StoredOutput
from daemon.outputs import OutputFile
from daemon.results import HISTORY_NAME, Results
from daemon.storage import Storage, open_storage
from daemon.transcript import Models
from tests.conftest import settings_with


@pytest.fixture(scope="module")
def aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws() as aws:
        yield aws


@asynccontextmanager
async def storage_on(aws: EmbeddedAws, **settings: Any) -> AsyncIterator[Storage]:
    access: Any = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    async with aioboto3.Session().client("s3", endpoint_url=aws.endpoint_url, **access) as client:
        yield Storage(client, settings_with(**settings))


def job_named(job_id: str) -> Job:
    return parse_job(json.dumps({"job_id": job_id, "input": {"bucket": "media", "key": "a.wav"}}), settings_with())


def files(author: str) -> list[OutputFile]:
    return [
        OutputFile("json", "transcript.json", "application/json", json.dumps({"author": author}).encode()),
        OutputFile("md", "transcript.md", "text/markdown", f"# {author}".encode()),
    ]


def manifest_of(job: Job, author: str, outputs: list[StoredOutput]) -> Manifest:
    models = Models(asr="a", vad="v", alignment=None, diarization=None, device="cpu", compute_type="int8")
    return Manifest(
        job_id=job.job_id,
        completed_at="now",
        worker_id=author,
        attempt=1,
        input=InputObject(bucket="media", key="a.wav", version_id=None, etag="e", size_bytes=1),
        options=job.options.model_dump(mode="json"),
        options_digest=job.options.digest(),
        outputs=outputs,
        duration_seconds=1,
        language=None,
        speakers=0,
        models=models,
        timings_seconds={},
        warnings=[],
        metadata={},
    )


async def publish(results: Results, job: Job, author: str) -> tuple[Manifest, bool]:
    return await results.publish(
        job, files(author), lambda outputs: manifest_of(job, author, outputs), proceed=lambda _: None
    )


def assert_whole(aws: EmbeddedAws, manifest: Manifest) -> None:
    for output in manifest.outputs:
        body = aws.s3.get_object(Bucket="results", Key=output.key)["Body"].read()
        assert hashlib.sha256(body).hexdigest() == output.sha256
        assert manifest.worker_id in body.decode()


async def test_of_many_rivals_one_publishes_and_its_outputs_stay(
    aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.results.RIVAL_POLL_SECONDS", 0.05)
    async with storage_on(aws) as storage:
        for number in range(5):
            job = job_named(f"contended-{number}")
            done = await asyncio.gather(*(publish(Results(storage), job, f"rival-{rival}") for rival in range(6)))
            assert sum(ours for _, ours in done) == 1
            assert len({manifest.worker_id for manifest, _ in done}) == 1, "everybody learns of the one result"
            assert_whole(aws, done[0][0])


async def test_what_a_dead_rival_left_is_written_over(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.results.RIVAL_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("daemon.results.RIVAL_POLL_SECONDS", 0.05)
    async with storage_on(aws) as storage:
        job = job_named("left-behind")
        for file in files("dead"):
            aws.s3.put_object(Bucket="results", Key=job.output_key(file.name), Body=file.body)
        manifest, ours = await publish(Results(storage), job, "alive")
        assert ours
        assert_whole(aws, manifest)


async def test_a_write_that_arrives_late_changes_nothing(aws: EmbeddedAws) -> None:
    """What a delivery that was given up has on its way is refused: its condition was about an older state."""
    async with storage_on(aws) as storage:
        job = job_named("late")
        manifest, _ = await publish(Results(storage), job, "winner")
        for file in files("late"):
            assert await storage.write("results", job.output_key(file.name), file.body, only_if_absent=True) is None
        again, ours = await publish(Results(storage), job, "woken")
        assert not ours
        assert again == manifest
        assert_whole(aws, manifest)


async def test_deliveries_are_noted_whoever_writes_at_the_same_time(aws: EmbeddedAws) -> None:
    async with storage_on(aws) as storage:
        results, job = Results(storage), job_named("noted")
        assert (await results.begin(job, "m", 1, "w")).deliveries == ()
        await asyncio.gather(*(results.begin(job, "m", number, "w") for number in (2, 3)))
        await results.end(job, "m", 2, "released", "interrupted", counts=False)
        history = await results.begin(job, "m", 4, "w")
        assert sorted(each.receive_count for each in history.deliveries) == [1, 2, 3]
        assert history.unexplained("m") == 2


async def test_what_only_an_unfinished_job_needs_has_a_tag(aws: EmbeddedAws, tmp_path: Path) -> None:
    async with storage_on(aws) as storage:
        results, job = Results(storage, "transcriptd=checkpoint"), job_named("tagged")
        (tmp_path / "asr-00000.json").write_text("[1]")
        await results.begin(job, "m", 1, "w")
        await results.begin(job, "m", 2, "w")
        await results.keep_checkpoint(job, "0123", tmp_path / "asr-00000.json")
        await publish(results, job, "author")
        listed = aws.s3.list_objects_v2(Bucket="results", Prefix=job.output_prefix)["Contents"]
        tagged = {
            item["Key"].removeprefix(job.output_prefix)
            for item in listed
            if aws.s3.get_object_tagging(Bucket="results", Key=item["Key"])["TagSet"]
        }
        assert tagged == {HISTORY_NAME, "checkpoints/0123/asr-00000.json"}


async def test_a_damaged_record_is_begun_anew(aws: EmbeddedAws) -> None:
    async with storage_on(aws) as storage:
        job = job_named("damaged")
        aws.s3.put_object(Bucket="results", Key=job.output_key(HISTORY_NAME), Body=b"not json")
        assert (await Results(storage).begin(job, "m", 2, "w")).deliveries == ()


async def test_checkpoints_come_back_and_go(aws: EmbeddedAws, tmp_path: Path) -> None:
    async with storage_on(aws) as storage:
        results, job = Results(storage), job_named("resumed")
        (tmp_path / "asr-00000.json").write_text("[1]")
        await results.keep_checkpoint(job, "fits", tmp_path / "asr-00000.json")
        folder = tmp_path / "restored"
        folder.mkdir()
        assert await results.restore_checkpoints(job, "other", folder) == 0
        assert await results.restore_checkpoints(job, "fits", folder) == 1
        assert (folder / "asr-00000.json").read_text() == "[1]"
        await results.remove_checkpoints(job)
        assert await storage.list_keys("results", job.output_key("")) == []


async def test_checkpoints_that_are_known_go_without_a_listing(
    aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage_on(aws) as storage:
        results, job = Results(storage), job_named("known")
        await results.begin(job, "m", 1, "w")
        for name in ("asr-00000.json", "align.json"):
            (tmp_path / name).write_text("[1]")
            await results.keep_checkpoint(job, "fits", tmp_path / name)
        list_keys = storage.list_keys
        monkeypatch.delattr(Storage, "list_keys")
        await results.remove_checkpoints(job, ["fits/asr-00000.json", "fits/align.json", "fits/never-stored.json"])
        assert await list_keys("results", job.output_key("")) == []


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_checkpoints_that_another_writer_made_do_not_fill_the_disk(
    aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.results.MAX_CHECKPOINTS", 4)
    monkeypatch.setattr("daemon.results.MAX_CHECKPOINTS_BYTES", 3_000)
    names = {
        "several": ["a.json", "b.json", "c.json", "d.json"],
        "one": ["large.json"],
        "many": [f"{number}.json" for number in range(5)],
        "odd": ["", "..", "../a.json", ".hidden", "a/b.json", "a b.json", "x" * 300, "fine.json"],
    }
    async with storage_on(aws) as storage:
        job, results = job_named("inflated"), Results(storage)
        for fingerprint, written in names.items():
            for name in written:
                body = bytes({"several": 1_000, "one": 3_001}.get(fingerprint, 1))
                key = job.output_key(f"checkpoints/{fingerprint}/{name}")
                await storage.write(job.output_bucket, key, body)
            folder = tmp_path / fingerprint
            folder.mkdir()
            if fingerprint != "odd":
                with pytest.raises(StorageUnavailable):
                    await results.restore_checkpoints(job, fingerprint, folder)
        assert await results.restore_checkpoints(job, "odd", tmp_path / "odd") == 1
    assert files_below(tmp_path) == ["odd/fine.json", "several/a.json", "several/b.json", "several/c.json"]


async def test_an_object_that_is_larger_than_what_is_expected_is_not_read(aws: EmbeddedAws) -> None:
    async with storage_on(aws) as storage:
        await storage.write("results", "inflated", bytes(2_000_000))
        assert (await storage.read("results", "inflated", 2_000_000)) is not None
        with pytest.raises(StorageUnavailable, match="larger than 1999999 bytes"):
            await storage.read("results", "inflated", 1_999_999)
        assert (await storage.read("results", "inflated")) is not None, "the connection is not left in disorder"


@pytest.mark.parametrize("source", [{"key": "a", "version_id": "none"}, {"key": "k" * 1025}])
async def test_a_name_that_s3_refuses_is_missing_and_not_an_outage(
    aws: EmbeddedAws, tmp_path: Path, source: Any
) -> None:
    """Told by S3 as an error 400: as an outage it would be tried for ever."""
    aws.s3.put_object(Bucket="media", Key="a", Body=b"x")
    async with storage_on(aws) as storage:
        with pytest.raises(ObjectMissing):
            await storage.fetch(
                Input.model_construct(bucket="media", version_id=source.get("version_id"), key=source["key"]),
                tmp_path / "a",
            )


async def test_objects_that_cannot_be_fetched_are_told_apart(aws: EmbeddedAws, tmp_path: Path) -> None:
    aws.s3.put_object(Bucket="media", Key="empty", Body=b"")
    aws.s3.put_object(Bucket="media", Key="large", Body=b"x" * 101)
    aws.s3.put_object(Bucket="media", Key="denied", Body=b"x")
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::media/denied"}
    aws.s3.put_bucket_policy(Bucket="media", Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    cases: dict[str, type[Exception]] = {
        "none": ObjectMissing,
        "empty": ObjectEmpty,
        "large": ObjectTooLarge,
        "denied": AccessDenied,
    }
    async with storage_on(aws, max_input_bytes=100) as storage:
        for key, error in cases.items():
            with pytest.raises(error, match=f"s3://media/{key}"):
                await storage.fetch(Input(bucket="media", key=key), tmp_path / "target")
        with pytest.raises(ObjectMissing):
            await storage.fetch(Input(bucket="no-such-bucket", key="a"), tmp_path / "target")


async def test_a_store_that_never_says_continue_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp waits for "100 Continue" where botocore's default asks for it: one round trip, or for ever."""
    seen: list[bytes] = []

    class NeverSaysContinue(QuietHandler):
        protocol_version = "HTTP/1.1"

        def handle_expect_100(self) -> bool:
            return True  # and nothing is sent

        def do_PUT(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", "0")
            self.end_headers()

    with LoopbackServer(NeverSaysContinue, "store") as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.base_url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }.items():
            monkeypatch.setenv(name, value)
        async with asyncio.timeout(20), open_storage(settings_with(storage_timeout_seconds=2)) as storage:
            assert await storage.write("results", "a.json", b"{}") == '"e"'
    assert seen == [b"{}"]
