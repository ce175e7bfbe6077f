"""Objects stored with a Content-Encoding are decoded within limits, or named."""

import gzip
from pathlib import Path

import pytest

from daemon.aws.content_encoding import decode_content
from daemon.errors import MediaUnreadable, ObjectTooLarge

CONTENT = b"RIFF" + bytes(range(256)) * 20


def decoded(folder: Path, stored: bytes, encoding: str, *, max_bytes: int = len(CONTENT)) -> bytes:
    file = folder / "input"
    file.write_bytes(stored)
    decode_content(file, encoding, max_bytes=max_bytes, where="s3://media/a.wav")
    assert list(folder.iterdir()) == [file]
    return file.read_bytes()


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "aws-chunked,gzip", "aws-chunked, gzip"])
def test_gzip_is_decoded(tmp_path: Path, encoding: str) -> None:
    assert decoded(tmp_path, gzip.compress(CONTENT), encoding) == CONTENT


def test_every_member_of_a_gzip_file_is_decoded(tmp_path: Path) -> None:
    assert decoded(tmp_path, gzip.compress(CONTENT[:100]) + gzip.compress(CONTENT[100:]), "gzip") == CONTENT


@pytest.mark.parametrize("encoding", ["", "identity", "aws-chunked", "utf-8"])
def test_other_labels_leave_the_object_as_it_is(tmp_path: Path, encoding: str) -> None:
    stored = gzip.compress(CONTENT)
    assert decoded(tmp_path, stored, encoding) == stored


@pytest.mark.parametrize("stored", [CONTENT, b"", b"\x1f"])
def test_object_that_is_wrongly_labelled_gzip_stays_as_it_is(tmp_path: Path, stored: bytes) -> None:
    assert decoded(tmp_path, stored, "gzip") == stored


def test_content_beyond_the_limit_is_not_written(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(ObjectTooLarge, match="more than 2000000 bytes"):
        decoded(tmp_path, bomb, "gzip", max_bytes=2_000_000)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3_000_000
    with pytest.raises(ObjectTooLarge):
        decoded(tmp_path, gzip.compress(CONTENT), "gzip", max_bytes=len(CONTENT) - 1)


@pytest.mark.parametrize(
    "damage",
    [lambda stored: stored[:-9], lambda stored: stored[:-8] + bytes(8), lambda stored: stored[:20] + b"\xff" * 40],
    ids=["cut off", "another checksum", "damaged"],
)
def test_damaged_gzip_is_named(tmp_path: Path, damage: object) -> None:
    with pytest.raises(MediaUnreadable, match="Content-Encoding gzip, but is cut off or damaged"):
        decoded(tmp_path, damage(gzip.compress(CONTENT)), "gzip")  # type: ignore[operator]


def test_an_encoding_that_is_not_decoded_is_named(tmp_path: Path) -> None:
    with pytest.raises(MediaUnreadable, match="Content-Encoding zstd"):
        decoded(tmp_path, CONTENT, "zstd")
