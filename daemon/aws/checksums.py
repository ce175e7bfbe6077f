"""The checksums that S3 stores with an object, computed with the standard library alone.

Most objects have a CRC-64/NVME, which no library in the lock computes, and a table per byte is far too slow in Python. So
`Crc` divides with the XOR of large integers: over GF(2), P(x)² = P(x²), so P(x) divides P(x^n) for every power of two n, and
whole blocks of n bits can be eliminated at once. It reaches a few hundred MB per second on one core.
"""

import base64
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

CHUNK_BYTES = 1024 * 1024


class Checksum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Crc:
    """A reflected CRC with all bits set at its start and inverted at its end."""

    def __init__(self, width: int, polynomial: int) -> None:
        """`polynomial` is reflected: its lowest bit belongs to the highest power below `width`, which must be a power of 2."""
        self._width = width
        # A bit is equivalent to the bits at these distances after it. In the reflected order, later is a lower power.
        self._distances = [1 + bit for bit in range(width) if polynomial >> bit & 1]
        self._ones = (1 << width) - 1
        self._state = self._ones

    def update(self, data: bytes, /) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            self._divide(data[start : start + CHUNK_BYTES])

    def digest(self) -> bytes:
        return (self._state ^ self._ones).to_bytes(self._width // 8, "big")

    def _divide(self, data: bytes) -> None:
        """Replace the state by the remainder of the state and `data`, followed by `width` zeros."""
        width = self._width
        # Blocks of equal size, of which the last `width` hold the remainder. Zeros before the first bit change nothing.
        block_bits = 8
        while 2 * width * block_bits < 8 * len(data) + width:
            block_bits *= 2
        block_bytes = block_bits // 8
        padding = bytes(2 * width * block_bytes - len(data) - width // 8)
        padded = padding + data + bytes(width // 8)
        blocks = [
            int.from_bytes(padded[start : start + block_bytes], "little")
            for start in range(0, len(padded), block_bytes)
        ]
        # The state belongs to the first bits of the data, which may cross blocks.
        at = 8 * len(padding)
        state = self._state << at % block_bits
        index = at // block_bits
        while state:
            blocks[index] ^= state & ((1 << block_bits) - 1)
            state >>= block_bits
            index += 1
        while True:
            for index in range(width):
                if block := blocks[index]:
                    for distance in self._distances:
                        blocks[index + distance] ^= block
            remainder = blocks[width:]
            if block_bits == 1:
                self._state = sum(bit << index for index, bit in enumerate(remainder))
                return
            block_bits //= 2
            low = (1 << block_bits) - 1
            blocks = [half for block in remainder for half in (block & low, block >> block_bits)]


class _Crc32:
    """zlib.crc32 with the interface of hashlib."""

    def __init__(self) -> None:
        self._state = 0

    def update(self, data: bytes, /) -> None:
        self._state = zlib.crc32(data, self._state)

    def digest(self) -> bytes:
        return self._state.to_bytes(4, "big")


# By the name in S3's responses. The fastest is computed first if an object has several.
_ALGORITHMS: dict[str, Callable[[], Checksum]] = {
    "CRC32": _Crc32,
    "SHA1": hashlib.sha1,
    "SHA256": hashlib.sha256,
    "CRC64NVME": lambda: Crc(64, 0x9A6C9329AC4BC9B5),
    "CRC32C": lambda: Crc(32, 0x82F63B78),
}
ALGORITHMS = tuple(_ALGORITHMS)


@dataclass(frozen=True, slots=True)
class FullChecksum:
    """The checksum of a whole object, as S3 states it."""

    algorithm: str
    value: str  # base64

    def matches(self, file: Path) -> bool:
        """Return whether the file has this checksum. Reads the whole file: do not call it on the event loop."""
        checksum = _ALGORITHMS[self.algorithm]()
        with file.open("rb") as source:
            while chunk := source.read(CHUNK_BYTES):
                checksum.update(chunk)
        return base64.b64encode(checksum.digest()).decode() == self.value


def full_checksum(response: Mapping[str, Any]) -> FullChecksum | None:
    """Return the checksum of the whole object from a response to a call with `ChecksumMode`, or None if it has none.

    A composite checksum is one of the parts' checksums. It depends on how the object was uploaded, so it is ignored.
    """
    in_parts = "-" in response.get("ETag", "")
    if response.get("ChecksumType", "COMPOSITE" if in_parts else "FULL_OBJECT") != "FULL_OBJECT":
        return None
    for algorithm in ALGORITHMS:
        value = response.get(f"Checksum{algorithm}")
        if value and "-" not in value:
            return FullChecksum(algorithm, value)
    return None


def crc32(body: bytes) -> str:
    """Return the CRC-32 as S3 expects it with an upload."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
