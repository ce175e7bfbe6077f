"""Small files that take a decoder a long time."""

import struct
from pathlib import Path

SAMPLES_PER_CHUNK = 40
UNKNOWN = 0xFFFFFFFF


def make_generator(path: Path) -> Path:
    """Write a script for SBaGen, which FFmpeg turns into five hours of tones."""
    path.write_text("-SE\nbase: 200+4/50\nNOW base\n+00:10 base\n+05:00 base\n")
    return path


def make_repeating_mp4(path: Path, codec: bytes, sample: bytes, chunks: int) -> Path:
    """Write an MP4 with one chunk of 40 equal samples, which its index names so many times, in 4 bytes each."""
    kind = _box(b"ftyp", b"isom\0\0\2\0isommp42")
    path.write_bytes(
        kind + _box(b"mdat", sample * SAMPLES_PER_CHUNK) + _index(codec, len(sample), len(kind) + 8, chunks)
    )
    return path


def _index(codec: bytes, sample_bytes: int, offset: int, chunks: int) -> bytes:
    count = SAMPLES_PER_CHUNK * chunks
    sound = bytes(6) + b"\0\1" + bytes(8) + struct.pack(">HHHHI", 1, 16, 0, 0, 16000 << 16)
    table = _box(
        b"stbl",
        _full_box(b"stsd", _integers(1), _box(codec, sound)),
        _full_box(b"stts", _integers(1, count, 1024)),
        _full_box(b"stsc", _integers(1, 1, SAMPLES_PER_CHUNK, 1)),
        _full_box(b"stsz", _integers(sample_bytes, count)),
        _full_box(b"stco", _integers(chunks), _integers(offset) * chunks),
    )
    place = _box(b"dinf", _full_box(b"dref", _integers(1), _box(b"url ", _integers(1))))
    media = _box(
        b"mdia",
        _full_box(b"mdhd", _integers(0, 0, 16000, UNKNOWN), b"\x55\xc4\0\0"),
        _full_box(b"hdlr", _integers(0), b"soun", _integers(0, 0, 0), b"\0"),
        _box(b"minf", _full_box(b"smhd", _integers(0)), place, table),
    )
    track = _box(b"trak", _full_box(b"tkhd", _integers(7, 0, 0, 1, 0, UNKNOWN), bytes(60)), media)
    return _box(b"moov", _full_box(b"mvhd", _integers(0, 0, 1000, UNKNOWN, 0x10000), bytes(76), _integers(2)), track)


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def _full_box(name: bytes, *parts: bytes) -> bytes:
    return _box(name, bytes(4), *parts)


def _integers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)
