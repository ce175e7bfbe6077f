"""Part of the decoder process: notice that a file which states no length was cut off, because it ends inside a unit.

Ogg pages, packets of transport streams, and frames of AAC and AMR state their own sizes. A cut hits the border between two
of them by chance only. Files that end differently from their format, such as with tags, prove nothing.
"""

from collections.abc import Iterator

from daemon.media.ogg import CAPTURE, HEADER_BYTES
from daemon.media.source import Section

TAIL_BYTES = 192 * 1024  # holds the last units of each format: the largest Ogg page has 65 KB
MIN_UNITS = 3  # in a row, to be sure of where they begin

TS_SYNC = 0x47
# Sizes of packets of transport streams, and where in them the sync byte is: plain, with a timestamp, with error correction.
TS_PACKETS = ((188, 0), (192, 4), (204, 0))
ADTS_HEADER_BYTES = 7

# Sizes of AMR frames by the mode in their first byte, which they include.
AMR_SIZES = {
    b"#!AMR\n": (13, 14, 16, 18, 20, 21, 27, 32, 6, 1, 1, 1, 1, 1, 1, 1),
    b"#!AMR-WB\n": (18, 24, 33, 37, 41, 47, 51, 59, 61, 6, 1, 1, 1, 1, 1, 1),
}
MAX_AMR_BYTES = 64 * 1024**2  # six hours; the frames can only be counted from the start


def cut_unit(source: Section) -> str | None:
    """Return the unit inside which the file ends, such as "page"; None if it ends between two, or is of another format."""
    head, tail = source.head(), source.tail(TAIL_BYTES)
    if head.startswith(CAPTURE):
        return "page" if _ends_inside_page(tail) else None
    for magic, sizes in AMR_SIZES.items():
        if head.startswith(magic):
            whole = source.tail(source.size) if source.size <= MAX_AMR_BYTES else b""
            return "frame" if _amr_end(whole, len(magic), sizes) > len(whole) > 0 else None
    if _is_adts(head):
        return "frame" if _ends_inside_adts_frame(tail) else None
    return "packet" if _ends_inside_ts_packet(head, tail, source.size) else None


def _ends_inside_page(tail: bytes) -> bool:
    at = tail.rfind(CAPTURE)
    if at < 0:
        return False
    header = tail[at : at + HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        return True
    table = tail[at + HEADER_BYTES : at + HEADER_BYTES + header[26]]
    return len(table) < header[26] or at + HEADER_BYTES + header[26] + sum(table) > len(tail)


def _amr_end(content: bytes, position: int, sizes: tuple[int, ...]) -> int:
    """Return where the last frame ends, or should end."""
    while position < len(content):
        position += sizes[content[position] >> 3 & 0x0F]
    return position


def _ends_inside_ts_packet(head: bytes, tail: bytes, total: int) -> bool:
    for size, sync in TS_PACKETS:
        rest = total % size
        ends = (
            [sync + number * size for number in range(MIN_UNITS)],
            [sync - rest - number * size for number in range(MIN_UNITS)],
        )
        if len(tail) > MIN_UNITS * size and all(head[at] == TS_SYNC for at in ends[0]):
            return rest > sync and all(tail[at] == TS_SYNC for at in ends[1])
    return False


def _is_adts(content: bytes, at: int = 0) -> bool:
    return len(content) > at + 1 and content[at] == 0xFF and content[at + 1] & 0xF6 == 0xF0


def _ends_inside_adts_frame(tail: bytes) -> bool:
    """Follow the frames from the first place where several are in a row."""
    for start in range(len(tail)):
        if _is_adts(tail, start):
            frames = list(_adts_frames(tail, start))
            if len(frames) >= MIN_UNITS:
                position, size = frames[-1]
                return position + size > len(tail)
    return False


def _adts_frames(content: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield the position and size of each frame, up to the first place that is none."""
    fixed = content[position : position + 3]  # differs between frames in the bits for the channels only
    while _is_adts(content, position) and content[position : position + 2] == fixed[:2]:
        header = content[position : position + ADTS_HEADER_BYTES]
        if len(header) < ADTS_HEADER_BYTES:
            yield position, ADTS_HEADER_BYTES
            return
        size = (header[3] & 0x03) << 11 | header[4] << 3 | header[5] >> 5
        if size < ADTS_HEADER_BYTES:
            return
        yield position, size
        position += size
