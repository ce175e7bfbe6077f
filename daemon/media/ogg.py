"""Part of the decoder process: find the links of a chained Ogg file, which are whole recordings one after the other.

FFmpeg reads such a file as one recording and keeps the first link's decoder, so it fails where the sample rate, the
number of channels or the codec changes. Icecast servers, and `cat`, write such files.
"""

from collections.abc import Iterator
from typing import BinaryIO

from daemon.media.source import Section

CAPTURE = b"OggS"
HEADER_BYTES = 27  # of a page, before its table of segments
FIRST_PAGE = 0x02  # flag: the first page of a logical stream
MAX_LINKS = 1000  # the last one then holds the rest of the file
SEARCH_BYTES = 64 * 1024


def links(file: BinaryIO) -> list[Section]:
    """Return the links of an Ogg file. Any other file is returned whole."""
    chained = file.read(len(CAPTURE)) == CAPTURE
    whole = Section.whole(file)
    starts = _link_starts(file) if chained else [0]
    ends = [*starts[1:], whole.size]
    return [Section(file, start, end) for start, end in zip(starts, ends, strict=True)]


def _link_starts(file: BinaryIO) -> list[int]:
    starts, in_headers = [0], True
    for position, first in _pages(file):
        if first and not in_headers and len(starts) < MAX_LINKS:
            starts.append(position)
        in_headers = first
    return starts


def _pages(file: BinaryIO) -> Iterator[tuple[int, bool]]:
    """Yield the position of each page, and whether it is the first one of a logical stream. Skip damage."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            return
        if header[:5] == CAPTURE + b"\0":
            yield position, bool(header[5] & FIRST_PAGE)
            position += HEADER_BYTES + header[26] + sum(file.read(header[26]))
        else:
            found = (header + file.read(SEARCH_BYTES)).find(CAPTURE, 1)
            position += found if found > 0 else SEARCH_BYTES
