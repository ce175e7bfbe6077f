"""Answers that are not what was requested are requested again, and never end in a file with holes or foreign bytes."""

import asyncio
import base64
import random
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from botocore.exceptions import ClientError

from daemon.aws import download as module
from daemon.aws.checksums import crc32
from daemon.aws.download import PART_ATTEMPTS, Download, Downloaded
from daemon.errors import ObjectEmpty, ObjectTooLarge, StorageUnavailable

RECORDING = random.Random(3).randbytes(3500)
PART = 1000


class Body:
    """The body of a response. `breaks` ends it with a network error."""

    def __init__(self, content: bytes, *, breaks: bool = False) -> None:
        self.content = content
        self.breaks = breaks
        self.closed = False

    async def iter_chunks(self, size: int) -> AsyncIterator[bytes]:
        for start in range(0, len(self.content), 300):
            yield self.content[start : start + 300]
        if self.breaks:
            raise aiohttp.ClientPayloadError("connection lost")

    def close(self) -> None:
        self.closed = True


Spoil = Callable[[int, dict[str, Any]], dict[str, Any]]


class Store:
    """The S3 client of a store with one recording. `spoil(start, response)` may change each answer to a read."""

    def __init__(self, spoil: Spoil = lambda _, response: response, *, head: dict[str, Any] | ClientError) -> None:
        self.spoil = spoil
        self.head = head
        self.reads: list[str] = []
        self.bodies: list[Body] = []

    async def get_object(self, **request: Any) -> dict[str, Any]:
        self.reads.append(request["Range"])
        start, end = (int(number) for number in request["Range"].removeprefix("bytes=").split("-"))
        content = RECORDING[start : end + 1]
        response = self.spoil(
            start,
            {
                "ETag": '"e"',
                "ContentLength": len(content),
                "ContentRange": f"bytes {start}-{start + len(content) - 1}/{len(RECORDING)}",
                "Body": Body(content),
                "ResponseMetadata": {"HTTPStatusCode": 206},
            },
        )
        self.bodies.append(response["Body"])
        return response

    async def head_object(self, **request: Any) -> dict[str, Any]:
        assert request["ChecksumMode"] == "ENABLED"
        assert request["IfMatch"] == '"e"'
        if isinstance(self.head, ClientError):
            raise self.head
        return self.head


WHOLE = {"ETag": '"e"', "ChecksumCRC32": crc32(RECORDING), "ChecksumType": "FULL_OBJECT"}


def refused(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "HeadObject")  # type: ignore[typeddict-item]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", PART)
    monkeypatch.setattr(module, "PART_BACKOFF_MAX_SECONDS", 0.001)


async def fetch(store: Store, target: Path, *, max_bytes: int = 10_000) -> tuple[Downloaded, int]:
    """Download the recording. Return the result and the number of repeated parts."""
    repeated: list[int] = []
    download = Download(
        store,  # type: ignore[arg-type]
        {"Bucket": "media", "Key": "a.wav"},
        max_bytes=max_bytes,
        on_repeat=lambda: repeated.append(1),
    )
    try:
        return await download.run(target), len(repeated)
    finally:
        assert all(body.closed for body in store.bodies), "an unread body would keep its connection"


def shortened(_: int, response: dict[str, Any]) -> dict[str, Any]:
    """A valid 206 with half of the part."""
    content = response["Body"].content[: len(response["Body"].content) // 2]
    first = int(response["ContentRange"].removeprefix("bytes ").split("-")[0])
    return {
        **response,
        "ContentLength": len(content),
        "ContentRange": f"bytes {first}-{first + len(content) - 1}/{len(RECORDING)}",
        "Body": Body(content),
    }


def foreign(start: int, response: dict[str, Any]) -> dict[str, Any]:
    """The bytes and the range of another part of the same length."""
    other = RECORDING[1:1001]
    return {**response, "ContentRange": f"bytes 1-1000/{len(RECORDING)}", "ContentLength": 1000, "Body": Body(other)}


WRONG: dict[str, Spoil] = {
    "shortened": shortened,
    "foreign range": foreign,
    "cut body": lambda _, response: {**response, "Body": Body(response["Body"].content[:100])},
    "broken connection": lambda _, response: {**response, "Body": Body(response["Body"].content[:100], breaks=True)},
    "longer body": lambda _, response: {**response, "Body": Body(response["Body"].content + b"x")},
    "no range": lambda _, response: {name: value for name, value in response.items() if name != "ContentRange"},
    "invalid range": lambda _, response: {**response, "ContentRange": "bytes */3500"},
    "another length": lambda _, response: {**response, "ContentLength": 7},
    "another size": lambda start, response: {
        **response,
        "ContentRange": response["ContentRange"].replace("/3500", "/3600" if start else "/3500"),
    },
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("at", [0, 1000, 3000])
async def test_a_wrong_part_is_requested_again(spoil: Spoil, at: int, tmp_path: Path) -> None:
    spoiled: list[int] = []

    def once(start: int, response: dict[str, Any]) -> dict[str, Any]:
        if start != at or spoiled:
            return response
        spoiled.append(start)
        return spoil(start, response)

    store = Store(once, head=WHOLE)
    done, repeated = await fetch(store, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == RECORDING
    assert (done.size_bytes, done.checksum) == (3500, "CRC32")
    changed = not (spoil is WRONG["another size"] and at == 0)  # it is right there
    assert repeated == len(store.reads) - 4 == int(changed)


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
async def test_a_part_that_stays_wrong_fails_the_download(spoil: Spoil, tmp_path: Path) -> None:
    def second(start: int, response: dict[str, Any]) -> dict[str, Any]:
        return spoil(start, response) if start == 1000 else response

    store = Store(second, head=WHOLE)
    with pytest.raises(StorageUnavailable, match="4 times in a row"):
        await fetch(store, tmp_path / "file")
    assert store.reads.count("bytes=1000-1999") == PART_ATTEMPTS


async def test_every_part_of_a_shortening_gateway_is_noticed(tmp_path: Path) -> None:
    """All parts but the last are short, so that the file has the right size and holes."""
    store = Store(lambda start, response: response if start == 3000 else shortened(start, response), head=WHOLE)
    with pytest.raises(StorageUnavailable, match="bytes 0-499/3500' with 500 bytes when bytes 0-999 were requested"):
        await fetch(store, tmp_path / "file")


async def test_bytes_that_differ_from_the_checksum_fail_the_download(tmp_path: Path) -> None:
    def swapped(start: int, response: dict[str, Any]) -> dict[str, Any]:
        return {**response, "Body": Body(bytes(len(response["Body"].content)))} if start == 1000 else response

    with pytest.raises(StorageUnavailable, match="do not have S3's checksum CRC32"):
        await fetch(Store(swapped, head=WHOLE), tmp_path / "file")
    composite = {"ETag": '"e"', "ChecksumCRC32": f"{crc32(RECORDING[:100])}-2", "ChecksumType": "COMPOSITE"}
    done, _ = await fetch(Store(head=composite), tmp_path / "file")
    assert done.checksum is None


@pytest.mark.parametrize(("code", "status"), [("400", 400), ("403", 403), ("405", 405), ("501", 501)])
async def test_store_without_checksums_is_read(code: str, status: int, tmp_path: Path) -> None:
    done, _ = await fetch(Store(head=refused(code, status)), tmp_path / "file")
    assert done.checksum is None
    assert (tmp_path / "file").read_bytes() == RECORDING


@pytest.mark.parametrize(
    ("code", "status"), [("404", 404), ("500", 500), ("503", 503), ("SlowDown", 503), ("429", 429)]
)
async def test_checksum_that_cannot_be_read_now_is_not_skipped(code: str, status: int, tmp_path: Path) -> None:
    with pytest.raises(ClientError):
        await fetch(Store(head=refused(code, status)), tmp_path / "file")


async def test_overwritten_recording_is_noticed_by_a_store_that_ignores_conditions(tmp_path: Path) -> None:
    store = Store(lambda start, response: {**response, "ETag": '"f"'} if start == 2000 else response, head=WHOLE)
    with pytest.raises(StorageUnavailable, match="overwritten during the download"):
        await fetch(store, tmp_path / "file")
    with pytest.raises(StorageUnavailable, match="overwritten during the download"):
        await fetch(Store(head=refused("412", 412)), tmp_path / "file")


async def test_store_that_ignores_ranges_sends_the_whole_recording(tmp_path: Path) -> None:
    def whole(_: int, response: dict[str, Any]) -> dict[str, Any]:
        return {
            "ETag": '"e"',
            "ContentLength": len(RECORDING),
            "Body": Body(RECORDING),
            "ResponseMetadata": {"HTTPStatusCode": 200},
        }

    store = Store(whole, head=WHOLE)
    done, _ = await fetch(store, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == RECORDING
    assert (done.size_bytes, store.reads) == (3500, ["bytes=0-999"])
    with pytest.raises(ObjectTooLarge):
        await fetch(Store(whole, head=WHOLE), tmp_path / "file", max_bytes=3499)
    cut = Store(lambda start, response: {**whole(start, response), "Body": Body(RECORDING[:-1])}, head=WHOLE)
    with pytest.raises(StorageUnavailable, match="3499 of 3500 bytes"):
        await fetch(cut, tmp_path / "file")


async def test_empty_recording_without_an_error_code(tmp_path: Path) -> None:
    empty = {"ETag": '"e"', "ContentLength": 0, "Body": Body(b""), "ResponseMetadata": {"HTTPStatusCode": 200}}
    with pytest.raises(ObjectEmpty):
        await fetch(Store(lambda *_: dict(empty), head=WHOLE), tmp_path / "file")


async def test_parts_are_requested_side_by_side(tmp_path: Path) -> None:
    """The order in which parts arrive does not matter."""
    store = Store(head=WHOLE)
    real = store.get_object

    async def delayed(**request: Any) -> dict[str, Any]:
        response = await real(**request)
        await asyncio.sleep(0.02 if request["Range"].startswith("bytes=1000") else 0)
        return response

    store.get_object = delayed  # type: ignore[method-assign]
    await fetch(store, tmp_path / "file")
    assert zlib.crc32((tmp_path / "file").read_bytes()) == int.from_bytes(
        base64.b64decode(WHOLE["ChecksumCRC32"]), "big"
    )
