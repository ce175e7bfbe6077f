"""A job's results in S3 over the real protocol: one manifest, outputs that match it, records that survive
contention."""

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aioboto3
import pytest

from bench.waiting import PATIENCE_SECONDS
from daemon.aws.checksums import crc32
from daemon.aws.s3 import Storage, open_storage
from daemon.demo.aws import EmbeddedAws
from daemon.demo.loopback import LoopbackServer, QuietHandler
from daemon.errors import (
    AccessDenied,
    ObjectEmpty,
    ObjectMissing,
    ObjectTooLarge,
    OutputOccupied,
    StorageUnavailable,
)
from daemon.jobs.result_store import DELIVERY_LOG_NAME, ResultStore
from daemon.outputs import OutputFile
from daemon.schema.job import Input, Job
from daemon.schema.manifest import Manifest, StoredOutput
from daemon.telemetry.metrics import Metrics
from daemon.webhooks.events import WebhookEvent
from tests.support.builders import a_job, a_manifest, some_settings


@pytest.fixture(scope="module")
def aws() -> Iterator[EmbeddedAws]:
    with EmbeddedAws() as aws:
        yield aws


@asynccontextmanager
async def storage_on(aws: EmbeddedAws, **settings: Any) -> AsyncIterator[Storage]:
    access: Any = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    async with aioboto3.Session().client("s3", endpoint_url=aws.endpoint_url, **access) as client:
        yield Storage(client, some_settings(**settings), Metrics())


WRITTEN = {"delivery": "of another daemon"}  # in the metadata of each output


def files(author: str) -> list[OutputFile]:
    return [
        OutputFile("json", "transcript.json", "application/json", json.dumps({"author": author}).encode()),
        OutputFile("md", "transcript.md", "text/markdown", f"# {author}".encode()),
    ]


async def publish(results: ResultStore, job: Job, author: str) -> tuple[Manifest, bool]:
    return await results.publish(
        job, files(author), lambda outputs: a_manifest(job, worker_id=author, outputs=outputs), proceed=lambda: None
    )


def assert_whole(aws: EmbeddedAws, manifest: Manifest) -> None:
    for output in manifest.outputs:
        body = aws.s3.get_object(Bucket="results", Key=output.key)["Body"].read()
        assert hashlib.sha256(body).hexdigest() == output.sha256
        assert manifest.worker_id in body.decode()


async def test_one_of_many_rivals_publishes_and_its_outputs_stay(
    aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.jobs.result_store.CONCURRENT_WRITER_POLL_SECONDS", 0.05)
    async with storage_on(aws) as storage:
        for number in range(5):
            job = a_job(job_id=f"contended-{number}")
            done = await asyncio.gather(*(publish(ResultStore(storage), job, f"rival-{rival}") for rival in range(6)))
            assert sum(ours for _, ours in done) == 1
            assert len({manifest.worker_id for manifest, _ in done}) == 1, "all of them see the one result"
            assert_whole(aws, done[0][0])


async def test_leftovers_of_a_dead_rival_are_overwritten(aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.jobs.result_store.CONCURRENT_WRITER_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("daemon.jobs.result_store.CONCURRENT_WRITER_POLL_SECONDS", 0.05)
    async with storage_on(aws) as storage:
        job = a_job(job_id="left-behind")
        for file in files("dead"):
            aws.s3.put_object(Bucket="results", Key=job.output_key(file.name), Body=file.body, Metadata=WRITTEN)
        manifest, ours = await publish(ResultStore(storage), job, "alive")
        assert ours
        assert_whole(aws, manifest)


async def test_objects_of_others_are_neither_overwritten_nor_removed(aws: EmbeddedAws) -> None:
    for name in ("transcript.json", "transcript.md", "manifest.json", "webhook.json", "checkpoints/notes.txt"):
        job = a_job(job_id=f"occupied-{name.replace('/', '-')}")
        key = job.output_key(name)
        aws.s3.put_object(Bucket="results", Key=key, Body=b"theirs", Metadata={"author": "somebody else"})
        async with storage_on(aws) as storage:
            results = ResultStore(storage)
            await results.begin(job, "m", 1, "w")
            if name.startswith("transcript") or name == "manifest.json":
                with pytest.raises(OutputOccupied, match=name):
                    await publish(results, job, "late")
            if name == "webhook.json":
                with pytest.raises(OutputOccupied, match=name):
                    await results.record_webhook(
                        "https://a.example/", WebhookEvent.of(job, "failed", attempt=1), "gone", 410
                    )
            await results.remove_checkpoints(job)
            assert await storage.read("results", job.output_key(DELIVERY_LOG_NAME)) is None
        assert aws.s3.get_object(Bucket="results", Key=key)["Body"].read() == b"theirs"


async def test_final_event_is_recorded_for_its_receiver(aws: EmbeddedAws) -> None:
    ours, theirs = "https://a.example/?token=planted", "https://b.example/"
    job = a_job(some_settings(webhook_url=ours, webhook_secret="whsec_x"), job_id="told")
    event = WebhookEvent.of(job, "completed", attempt=1)
    async with storage_on(aws) as storage:
        results = ResultStore(storage)
        assert not await results.webhook_delivered(job, event.id)
        await results.record_webhook(theirs, event, "delivered", 204)
        assert not await results.webhook_delivered(job, event.id)
        assert (await results.webhook_known(theirs, event), await results.webhook_known(ours, event)) == (True, False)
        await results.record_webhook(ours, event, "delivered", 204)
        assert await results.webhook_delivered(job, event.id)
        await results.record_webhook(ours, event, "gone", 410)
        assert not await results.webhook_delivered(job, event.id)
        stored = await storage.read("results", job.output_key("webhook.json"))
        assert stored is not None
        assert b"planted" not in stored.body


class Interrupted(Storage):
    """A store that lets a rival publish its whole result just before our second write is sent."""

    def __init__(self, storage: Storage, rival: Callable[[], None]) -> None:
        vars(self).update(vars(storage))
        self._rival = rival
        self._writes = 0

    async def write(self, *args: Any, **kwargs: Any) -> str | None:
        self._writes += 1
        if self._writes == 2:
            await asyncio.to_thread(self._rival)
        return await super().write(*args, **kwargs)


async def test_rival_that_publishes_between_the_wait_and_the_write_keeps_its_result(
    aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.jobs.result_store.CONCURRENT_WRITER_TIMEOUT_SECONDS", 0.0)
    job = a_job(job_id="woken-rival")
    put = partial(aws.s3.put_object, Bucket="results")
    put(Key=job.output_key("transcript.json"), Body=b"what it wrote before it stood still", Metadata=WRITTEN)

    def publish_rival() -> None:
        stored = []
        for file in files("rival"):
            put(Key=job.output_key(file.name), Body=file.body, Metadata=WRITTEN)
            digest = hashlib.sha256(file.body).hexdigest()
            stored.append(
                StoredOutput(
                    format=file.format,
                    key=job.output_key(file.name),
                    content_type=file.content_type,
                    size_bytes=len(file.body),
                    sha256=digest,
                )
            )
        put(
            Key=job.output_key("manifest.json"),
            Body=a_manifest(job, worker_id="rival", outputs=stored).model_dump_json().encode(),
        )

    async with storage_on(aws) as storage:
        manifest, ours = await publish(ResultStore(Interrupted(storage, publish_rival)), job, "late")
    assert (manifest.worker_id, ours) == ("rival", False)
    assert_whole(aws, manifest)


async def test_a_write_that_arrives_late_changes_nothing(aws: EmbeddedAws) -> None:
    """A late write of an abandoned delivery is rejected, because its condition refers to an older state."""
    async with storage_on(aws) as storage:
        job = a_job(job_id="late")
        manifest, _ = await publish(ResultStore(storage), job, "winner")
        for file in files("late"):
            assert await storage.write("results", job.output_key(file.name), file.body, only_if_absent=True) is None
        again, ours = await publish(ResultStore(storage), job, "woken")
        assert not ours
        assert again == manifest
        assert_whole(aws, manifest)


async def test_deliveries_are_recorded_under_concurrent_writes(aws: EmbeddedAws) -> None:
    async with storage_on(aws) as storage:
        results, job = ResultStore(storage), a_job(job_id="noted")
        assert (await results.begin(job, "m", 1, "w")).deliveries == ()
        await asyncio.gather(*(results.begin(job, "m", number, "w") for number in (2, 3)))
        await results.end(job, "m", 2, "released", "interrupted", consumes_attempt=False)
        history = await results.begin(job, "m", 4, "w")
        assert sorted(each.receive_count for each in history.deliveries) == [1, 2, 3]
        assert history.crashed_deliveries("m") == 2


async def test_temporary_objects_have_a_tag(aws: EmbeddedAws, tmp_path: Path) -> None:
    async with storage_on(aws) as storage:
        results, job = ResultStore(storage, "transcriptd=checkpoint"), a_job(job_id="tagged")
        (tmp_path / "asr-00000.json").write_text("[1]")
        await results.begin(job, "m", 1, "w")
        await results.begin(job, "m", 2, "w")
        await results.keep_checkpoint(job, "0123456789abcdef", tmp_path / "asr-00000.json")
        await publish(results, job, "author")
        listed = aws.s3.list_objects_v2(Bucket="results", Prefix=job.output_prefix)["Contents"]
        tagged = {
            item["Key"].removeprefix(job.output_prefix)
            for item in listed
            if aws.s3.get_object_tagging(Bucket="results", Key=item["Key"])["TagSet"]
        }
        assert tagged == {DELIVERY_LOG_NAME, "checkpoints/0123456789abcdef/asr-00000.json"}


async def test_damaged_record_is_replaced(aws: EmbeddedAws) -> None:
    async with storage_on(aws) as storage:
        job = a_job(job_id="damaged")
        aws.s3.put_object(Bucket="results", Key=job.output_key(DELIVERY_LOG_NAME), Body=b"not json")
        assert (await ResultStore(storage).begin(job, "m", 2, "w")).deliveries == ()


async def test_checkpoints_are_stored_restored_and_deleted(aws: EmbeddedAws, tmp_path: Path) -> None:
    async with storage_on(aws) as storage:
        results, job = ResultStore(storage), a_job(job_id="resumed")
        (tmp_path / "asr-00000.json").write_text("[1]")
        await results.keep_checkpoint(job, "f175f175f175f175", tmp_path / "asr-00000.json")
        folder = tmp_path / "restored"
        folder.mkdir()
        assert await results.restore_checkpoints(job, "other", folder) == 0
        assert await results.restore_checkpoints(job, "f175f175f175f175", folder) == 1
        assert (folder / "asr-00000.json").read_text() == "[1]"
        await results.remove_checkpoints(job)
        assert await storage.list_keys("results", job.output_key("")) == []


async def test_known_checkpoints_are_deleted_without_a_listing(
    aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage_on(aws) as storage:
        results, job = ResultStore(storage), a_job(job_id="known")
        await results.begin(job, "m", 1, "w")
        for name in ("asr-00000.json", "align.json"):
            (tmp_path / name).write_text("[1]")
            await results.keep_checkpoint(job, "f175f175f175f175", tmp_path / name)
        list_keys = storage.list_keys
        monkeypatch.delattr(Storage, "list_keys")
        await results.remove_checkpoints(
            job,
            ["f175f175f175f175/asr-00000.json", "f175f175f175f175/align.json", "f175f175f175f175/never-stored.json"],
        )
        assert await list_keys("results", job.output_key("")) == []


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def test_checkpoints_of_another_writer_do_not_fill_the_disk(
    aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.jobs.result_store.MAX_CHECKPOINTS", 4)
    monkeypatch.setattr("daemon.jobs.result_store.MAX_CHECKPOINTS_BYTES", 3_000)
    names = {
        "several": ["a.json", "b.json", "c.json", "d.json"],
        "one": ["large.json"],
        "many": [f"{number}.json" for number in range(5)],
        "odd": ["", "..", "../a.json", ".hidden", "a/b.json", "a b.json", "x" * 300, "fine.json"],
    }
    async with storage_on(aws) as storage:
        job, results = a_job(job_id="inflated"), ResultStore(storage)
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


async def test_object_larger_than_expected_is_not_read(aws: EmbeddedAws) -> None:
    async with storage_on(aws) as storage:
        await storage.write("results", "inflated", bytes(2_000_000))
        assert (await storage.read("results", "inflated", 2_000_000)) is not None
        with pytest.raises(StorageUnavailable, match="larger than 1999999 bytes"):
            await storage.read("results", "inflated", 1_999_999)
        assert (await storage.read("results", "inflated")) is not None, "the connection can be reused"


@pytest.mark.parametrize("source", [{"key": "a", "version_id": "none"}, {"key": "k" * 1025}])
async def test_a_name_that_s3_refuses_is_missing_and_not_an_outage(
    aws: EmbeddedAws, tmp_path: Path, source: Any
) -> None:
    """S3 reports it as an error 400; treated as an outage, it would be retried forever."""
    aws.s3.put_object(Bucket="media", Key="a", Body=b"x")
    async with storage_on(aws) as storage:
        with pytest.raises(ObjectMissing):
            await storage.fetch(
                Input.model_construct(bucket="media", version_id=source.get("version_id"), key=source["key"]),
                tmp_path / "a",
            )


async def test_unreadable_objects_are_distinguished(aws: EmbeddedAws, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("size_bytes", [99, 100, 101])
async def test_recording_may_be_exactly_as_large_as_the_limit(
    aws: EmbeddedAws, tmp_path: Path, size_bytes: int
) -> None:
    aws.s3.put_object(Bucket="media", Key="limit", Body=b"x" * size_bytes)
    async with storage_on(aws, max_input_bytes=100) as storage:
        fetching = storage.fetch(Input(bucket="media", key="limit"), tmp_path / "target")
        if size_bytes > 100:
            with pytest.raises(ObjectTooLarge):
                await fetching
        else:
            assert (await fetching).size_bytes == size_bytes
            assert (tmp_path / "target").read_bytes() == b"x" * size_bytes


class Overwritten:
    """An S3 client: after its first part, the recording is overwritten."""

    def __init__(self, client: Any, overwrite: Callable[[], None]) -> None:
        self._client = client
        self._overwrite = overwrite
        self._parts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def get_object(self, **request: Any) -> Any:
        response = await self._client.get_object(**request)
        self._parts += 1
        if self._parts == 1:
            await asyncio.to_thread(self._overwrite)
        return response


async def test_parts_of_two_uploads_are_never_mixed(
    aws: EmbeddedAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.aws.download.PART_BYTES", 1000)
    put = partial(aws.s3.put_object, Bucket="media", Key="replaced")
    put(Body=b"a" * 3500)
    async with storage_on(aws) as storage:
        overwrite = Overwritten(storage._client, lambda: (put(Body=b"b" * 3500), None)[1])
        mixed = Storage(overwrite, some_settings(), Metrics())  # type: ignore[arg-type]
        with pytest.raises(StorageUnavailable, match="overwritten during the download"):
            await mixed.fetch(Input(bucket="media", key="replaced"), tmp_path / "target")
        await storage.fetch(Input(bucket="media", key="replaced"), tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"b" * 3500


async def test_unresponsive_store_is_an_outage_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    class Silent(QuietHandler):
        def do_GET(self) -> None:
            over.wait()

    with LoopbackServer(Silent, "silent store") as server:
        set_store(monkeypatch, server.base_url)
        try:
            # Well below botocore's own limit of a minute for each of the four attempts.
            async with asyncio.timeout(50), open_storage(some_settings(storage_timeout_seconds=1)) as storage:
                with pytest.raises(StorageUnavailable):
                    await storage.read("results", "a.json")
        finally:
            over.set()


def set_store(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }.items():
        monkeypatch.setenv(name, value)


async def test_a_store_that_never_says_continue_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp waits for "100 Continue", which botocore requests by default: for a round trip, or forever."""
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
        set_store(monkeypatch, server.base_url)
        settings = some_settings(storage_timeout_seconds=20)
        async with asyncio.timeout(PATIENCE_SECONDS), open_storage(settings) as storage:
            assert await storage.write("results", "a.json", b"{}") == '"e"'
    assert seen == [b"{}"]


async def test_what_is_written_has_a_checksum_that_is_verified_when_it_is_read(
    aws: EmbeddedAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage_on(aws) as storage:
        await storage.write("results", "checked", b"body")
        head = aws.s3.head_object(Bucket="results", Key="checked", ChecksumMode="ENABLED")
        assert head["ChecksumCRC32"] == crc32(b"body")
        monkeypatch.setattr("daemon.aws.s3.crc32", lambda _: crc32(b"another"))  # moto does not verify uploads
        await storage.write("results", "checked", b"body")
        with pytest.raises(StorageUnavailable, match="did not match"):
            await storage.read("results", "checked")
