"""Checksums agree with published check values and with zlib, however the bytes are divided."""

import base64
import hashlib
import random
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from daemon.aws import checksums
from daemon.aws.checksums import ALGORITHMS, Crc, FullChecksum, crc32, full_checksum
from daemon.telemetry.metrics import INPUT_CHECKSUMS

CRC32 = 0xEDB88320


def crc_of(body: bytes, width: int = 32, polynomial: int = CRC32) -> int:
    crc = Crc(width, polynomial)
    crc.update(body)
    return int.from_bytes(crc.digest(), "big")


# The values that the catalogues of CRCs give for the digits 1 to 9, in base64.
CHECK_VALUES = {
    "CRC64NVME": bytes.fromhex("ae8b14860a799888"),
    "CRC32C": bytes.fromhex("e3069283"),
    "CRC32": bytes.fromhex("cbf43926"),
    "SHA1": hashlib.sha1(b"123456789").digest(),  # S3 offers it
    "SHA256": hashlib.sha256(b"123456789").digest(),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_its_check_value(algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"123456789")
    checksum = FullChecksum(algorithm, base64.b64encode(CHECK_VALUES[algorithm]).decode())
    assert checksum.matches(file)
    file.write_bytes(b"123456788")
    assert not checksum.matches(file)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, 4096, 70_001])
def test_crc_equals_zlib_at_every_size(size: int) -> None:
    body = random.Random(size).randbytes(size)
    assert crc_of(body) == zlib.crc32(body)
    assert crc_of(bytes(size)) == zlib.crc32(bytes(size))


def test_crc_does_not_depend_on_how_the_bytes_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    body = rng.randbytes(20_000)
    for _ in range(20):
        cuts = [0, *sorted(rng.randrange(len(body)) for _ in range(5)), len(body)]
        monkeypatch.setattr(checksums, "CHUNK_BYTES", rng.randrange(1, 9000) + 500)
        crc = Crc(32, CRC32)
        for start, end in pairwise(cuts):
            crc.update(body[start:end])
        assert int.from_bytes(crc.digest(), "big") == zlib.crc32(body)


@pytest.mark.parametrize("at", [0, 1, 4999, 9998, 9999])
def test_each_changed_bit_changes_the_crc(at: int) -> None:
    body = bytearray(random.Random(1).randbytes(10_000))
    before = crc_of(bytes(body), 64, 0x9A6C9329AC4BC9B5)
    body[at] ^= 1
    assert crc_of(bytes(body), 64, 0x9A6C9329AC4BC9B5) != before


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ({"ETag": '"e"', "ChecksumCRC32": "AA==", "ChecksumType": "FULL_OBJECT"}, FullChecksum("CRC32", "AA==")),
        (
            {"ETag": '"e-3"', "ChecksumCRC64NVME": "AA==", "ChecksumType": "FULL_OBJECT"},
            FullChecksum("CRC64NVME", "AA=="),
        ),
        ({"ETag": '"e-3"', "ChecksumCRC32": "AA==-3", "ChecksumType": "COMPOSITE"}, None),
        ({"ETag": '"e-3"', "ChecksumSHA256": "AA==-3"}, None),
        # A store that does not state the type: only an upload in one part certainly has a checksum of the whole.
        ({"ETag": '"e"', "ChecksumSHA256": "AA=="}, FullChecksum("SHA256", "AA==")),
        ({"ETag": '"e-3"', "ChecksumCRC32": "AA=="}, None),
        ({"ETag": '"e"'}, None),
    ],
)
def test_only_checksums_of_whole_objects_are_compared(response: dict[str, Any], found: FullChecksum | None) -> None:
    assert full_checksum(response) == found


def test_uploads_carry_the_crc_as_s3_writes_it() -> None:
    assert crc32(b"123456789") == base64.b64encode(bytes.fromhex("cbf43926")).decode()


def test_metric_has_a_label_for_each_algorithm() -> None:
    assert set(INPUT_CHECKSUMS) == {*ALGORITHMS, "none"}
