"""Decoding of untrusted media, the parent's side: start a confined child, bound its answer, clean up after it.

FFmpeg reads whatever people upload, and its parsers are where such a service is attacked. So it never runs in this
process: `decoder.py` does the work in a short-lived child with limits, and nothing that the child says is trusted
beyond this module. The result is a file that the runner maps into memory.
"""

import asyncio
import json
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from daemon.errors import (
    AudioTrackMissing,
    DecodeLimit,
    DiskFull,
    MediaTooLong,
    MediaUnreadable,
    NoAudio,
    TooManyChannels,
    TranscriptdError,
)

SAMPLE_RATE = 16_000  # Hz
SAMPLE_BYTES = 4  # float32
MAX_SPLIT_CHANNELS = 8  # each is transcribed apart, one after the other
TAIL_BYTES = 8192  # kept of each output stream of the child
MESSAGE_CHARACTERS = 500

# All that the child may report; another code from it would be a lie.
VERDICTS = {
    error.code: error
    for error in (
        MediaUnreadable,
        NoAudio,
        AudioTrackMissing,
        TooManyChannels,
        MediaTooLong,
        DecodeLimit,
        DiskFull,
    )
}
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
EXHAUSTED = {signal.SIGXCPU, signal.SIGXFSZ, signal.SIGKILL}  # SIGKILL that is not ours comes from the OOM killer


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording's sound, decoded.

    Each path holds raw little-endian float32, 16 kHz: `numpy.memmap(path, dtype="<f4", mode="r")`. There is one for the
    mix of all channels, or one for each channel, all of the same length. Sample 0 is the start of the recording as a
    player shows it, silence included.
    """

    paths: tuple[Path, ...]
    duration_seconds: float
    container: str  # FFmpeg's name of the demuxer, such as "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str  # of the audio stream
    has_video: bool  # cover art does not count


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    max_media_seconds: float  # of decoded sound, all channels that are split together
    timeout_seconds: float  # wall clock, and CPU
    memory_bytes: int  # address space of the child


async def decode(
    source: Path, target: Path, limits: DecodeLimits, *, audio_track: int | None = None, split: bool = False
) -> Audio:
    """Decode one audio stream of `source` into `target`, which is overwritten; None is the first.

    All channels become one, unless they are split: then those of `a.f32` go to `a-00.f32`, `a-01.f32`, …

    Raises MediaUnreadable, NoAudio, AudioTrackMissing, TooManyChannels, MediaTooLong, DecodeLimit or DiskFull with a
    message for the sender of the file, TranscriptdError for a fault of our own. Whenever it raises, cancellation
    included, the targets are gone and so is the child.
    """
    targets = [target]
    if split:
        targets = [target.with_stem(f"{target.stem}-{index:02}") for index in range(MAX_SPLIT_CHANNELS)]
    request = _paths(source, targets) | {"audio_track": audio_track, "split": split, "parent": os.getpid()}
    with _removed_unless_done(targets):
        child = _run_child(request | asdict(limits), target.parent, limits.timeout_seconds)
        return _audio(targets, _answer(*await child))


def _paths(source: Path, targets: Sequence[Path]) -> dict[str, Any]:
    return {"source": str(source.absolute()), "targets": [str(target.absolute()) for target in targets]}


@contextmanager
def _removed_unless_done(paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _audio(targets: Sequence[Path], answer: dict[str, Any]) -> Audio:
    """What the child left in the targets; those that it left empty, for lack of channels, are removed."""
    sizes = {path: path.stat().st_size for path in targets}
    paths = tuple(path for path, size in sizes.items() if size)
    size = max(sizes.values())
    if not size or size % SAMPLE_BYTES or any(sizes[path] != size for path in paths):
        raise TranscriptdError(f"the media decoder left {list(sizes.values())} bytes, which are no samples")
    for path in set(targets) - set(paths):
        path.unlink()
    return Audio(
        paths=paths,
        duration_seconds=size / SAMPLE_BYTES / SAMPLE_RATE,
        container=_text(answer.get("container")),
        codec=_text(answer.get("codec")),
        has_video=answer.get("has_video") is True,
    )


async def _run_child(request: dict[str, Any], folder: Path, timeout_seconds: float) -> tuple[int, bytes, bytes]:
    """Run the decoder in that folder for one request. Returns its exit status and the ends of its stdout and stderr."""
    # An environment of its own: no credentials, no proxies, no PYTHON* variables.
    environment = {"LC_ALL": "C.UTF-8"}
    if libraries := os.environ.get("LD_LIBRARY_PATH"):
        environment["LD_LIBRARY_PATH"] = libraries  # some interpreters need it to find libpython
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "daemon.decoder"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        cwd=folder,
        env=environment,
        process_group=0,
    )
    requests = cast(StreamWriter, process.stdin)  # the three are pipes, as asked
    reading = asyncio.gather(_tail(cast(StreamReader, process.stdout)), _tail(cast(StreamReader, process.stderr)))
    try:
        async with asyncio.timeout(timeout_seconds):
            requests.write(json.dumps(request).encode() + b"\n")
            requests.close()
            output, errors = await asyncio.shield(reading)
            return await process.wait(), output, errors
    except TimeoutError:
        raise DecodeLimit(f"decoding the file takes longer than the {timeout_seconds:g} s that are allowed") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.wait([reading], timeout=1)  # reads both pipes to their end, which closes them


async def _tail(stream: StreamReader) -> bytes:
    """Read to the end, keep the end: a child that floods its output costs no memory."""
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-TAIL_BYTES:]
    return kept


def _answer(status: int, output: bytes, errors: bytes) -> dict[str, Any]:
    """The result that the child reports; the error that it reports, or that its end amounts to, is raised."""
    log = errors.decode(errors="replace")
    if -status in CRASHES:
        name = signal.Signals(-status).name
        raise MediaUnreadable(f"the file crashed the decoder ({name}): it is damaged, or made to do that", detail=log)
    if -status in EXHAUSTED:
        raise DecodeLimit("the decoder was stopped at its limit of CPU time or memory", detail=log)
    answer = None
    with suppress(ValueError):
        answer = json.loads(output.splitlines()[-1] if output else b"null")
    if status != 0 or not isinstance(answer, dict):
        raise TranscriptdError(f"the media decoder failed (exit status {status})", detail=log)
    if "error" in answer:
        verdict = VERDICTS.get(str(answer["error"]), TranscriptdError)
        raise verdict(_text(answer.get("message")), detail=f"{answer.get('detail') or ''}\n{log}".strip() or None)
    return answer


def _text(value: object) -> str:
    """What the child says, made fit for logs and manifests."""
    return "".join(character if character.isprintable() else " " for character in str(value)[:MESSAGE_CHARACTERS])
