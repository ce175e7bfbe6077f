"""Part of the decoder process: the file as FFmpeg reads it, and the length that its first bytes state.

FFmpeg corrects the stated length of a file that was cut off, so it does not notice the loss.
"""

import errno
import io
from typing import BinaryIO

HEAD_BYTES = 64 * 1024
UNKNOWN_BYTES = 0x7FFF0000  # from here to 4 GiB, a 32-bit size stands for "unknown", as a program writes to a pipe
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
XING_BYTES_KNOWN = 0x02


class Section:
    """A part of a file, or the whole, for FFmpeg."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._start = start
        self.size = end - start
        self._position = 0

    @classmethod
    def whole(cls, file: BinaryIO) -> "Section":
        return cls(file, 0, file.seek(0, io.SEEK_END))

    def read(self, size: int = -1) -> bytes:
        left = self.size - self._position
        if left <= 0:
            return b""  # the file system may refuse a position far beyond the end
        self._file.seek(self._start + self._position)
        content = self._file.read(left if size < 0 else min(size, left))
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Return the new position, or a negative error number for an invalid one, as FFmpeg's own files do.

        A damaged file can ask for any position. After an exception here, PyAV would give up a file that FFmpeg can read.
        """
        target = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if not 0 <= target < 2**62:
            return -errno.EINVAL
        self._position = target
        return target

    def tell(self) -> int:
        return self._position

    def head(self) -> bytes:
        """Return the first bytes and go back to the start."""
        self._position = 0
        head = self.read(HEAD_BYTES)
        self._position = 0
        return head

    def tail(self, size: int) -> bytes:
        """Return the last bytes and go back to the start."""
        self._position = max(0, self.size - size)
        tail = self.read()
        self._position = 0
        return tail

    def missing_share(self) -> float:
        """Return how much longer the file should be, as a share of its size; 0 if it is whole, or states no size."""
        missing = stated_bytes(self.head()) - self.size
        return missing / self.size if missing > 0 and self.size else 0.0


def stated_bytes(head: bytes) -> int:
    """Return the size of the file by its header; 0 if unknown."""
    if head[:4] == b"RIFF":
        return _certain(8 + int.from_bytes(head[4:8], "little"))
    if head[:4] == b"RF64":
        return 8 + int.from_bytes(head[20:28], "little")  # in its first chunk, ds64
    if head[:4] == b"riff":  # Sony Wave64
        return int.from_bytes(head[16:24], "little")
    if head[:4] == b"caff":
        return _caf_bytes(head)
    if (asf := head.find(ASF_FILE_PROPERTIES)) > 0:
        return int.from_bytes(head[asf + 40 : asf + 48], "little")
    return _mp3_bytes(head)


def _certain(size: int) -> int:
    return size if size < UNKNOWN_BYTES else 0


def _caf_bytes(head: bytes) -> int:
    position = 8
    while len(chunk := head[position : position + 12]) == 12:
        size = int.from_bytes(chunk[4:], "big", signed=True)
        if chunk[:4] == b"data":
            return position + 12 + size if size >= 0 else 0
        position += 12 + max(0, size)
    return 0


def _mp3_bytes(head: bytes) -> int:
    """Return the size of an MP3 by the header of its encoder, in the first frame."""
    start = 0
    if head[:3] == b"ID3" and len(head) > 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    frame = head[start : start + 256]
    if frame[:1] != b"\xff":
        return 0
    for name in (b"Xing", b"Info"):
        at = frame.find(name)
        if at > 0 and frame[at + 7] & XING_BYTES_KNOWN:
            size_at = at + 8 + (4 if frame[at + 7] & 0x01 else 0)
            return start + int.from_bytes(frame[size_at : size_at + 4], "big")
    return 0
