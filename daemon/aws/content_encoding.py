"""Objects that are stored compressed, with a Content-Encoding that says so. S3 does not decode them, and FFmpeg cannot."""

import gzip
import zlib
from pathlib import Path

from daemon.errors import MediaUnreadable, ObjectTooLarge

CHUNK_BYTES = 1024 * 1024
GZIP_MAGIC = b"\x1f\x8b"
_GZIP = {"gzip", "x-gzip"}
_OTHERS = {"br", "zstd", "deflate", "compress", "x-compress"}


def decode_content(file: Path, content_encoding: str, *, max_bytes: int, where: str) -> None:
    """Replace a gzip-encoded file by its content. Blocks: do not call it on the event loop.

    Nothing else verifies the header, so a file that is labelled gzip but is not stays as it is, and so does one with an
    unknown label, such as `utf-8`. Raises ObjectTooLarge if the content has more than `max_bytes`, whatever the file claims,
    and MediaUnreadable if the file is damaged or has an encoding that is not decoded.
    """
    encodings = {name.strip().lower() for name in content_encoding.split(",")}
    if other := encodings & _OTHERS:
        raise MediaUnreadable(
            f"{where} is stored with Content-Encoding {min(other)}, which is not decoded; upload it without, or with gzip"
        )
    if not encodings & _GZIP or not _has_gzip_magic(file):
        return
    decoded = file.with_name(file.name + ".decoded")
    size_bytes = 0
    try:
        with gzip.open(file, "rb") as source, decoded.open("wb") as target:
            while chunk := source.read(CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise ObjectTooLarge(
                        f"{where} decodes from gzip to more than {max_bytes} bytes, which is the limit"
                    )
                target.write(chunk)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise MediaUnreadable(
            f"{where} is stored with Content-Encoding gzip, but is cut off or damaged ({error}); upload it again"
        ) from error
    decoded.replace(file)


def _has_gzip_magic(file: Path) -> bool:
    with file.open("rb") as source:
        return source.read(len(GZIP_MAGIC)) == GZIP_MAGIC
