"""Decode untrusted media, parent side: request a sandboxed child, validate its reply and clean up after it.

FFmpeg's parsers read untrusted uploads and are the main attack surface of such a service, so FFmpeg never runs in this
process. `decode.py` runs it in a short-lived child with resource limits, and this module validates everything that the
child reports. A process with FFmpeg loaded forks the children (`fork_server.py`). The result is a file that the runner
maps into memory.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from daemon.environment import minimal_environment
from daemon.errors import (
    AudioTrackMissing,
    ClipOutOfRange,
    DecodeLimit,
    DecoderKilled,
    DiskFull,
    MediaTooLong,
    MediaUnreadable,
    NoAudio,
    TooManyChannels,
    TranscriptdError,
)
from daemon.media.clip import WHOLE, Clip
from daemon.schema.transcript import TranscriptWarning
from daemon.telemetry.metrics import Metrics

SAMPLE_RATE = 16_000  # Hz
SAMPLE_BYTES = 4  # float32
MAX_SPLIT_CHANNELS = 8  # transcribed separately, one after the other
TAIL_BYTES = 8192  # kept from each of the child's output streams
MESSAGE_CHARACTERS = 500
KILL_TIMEOUT_SECONDS = 5.0  # the fork server normally kills a child within milliseconds

# Error codes that the child may report. Any other code is treated as an internal error.
VERDICTS = {
    error.code: error
    for error in (
        MediaUnreadable,
        NoAudio,
        AudioTrackMissing,
        TooManyChannels,
        MediaTooLong,
        ClipOutOfRange,
        DecodeLimit,
        DiskFull,
    )
}
# Warnings that the child may report. Any other is left out.
MEDIA_INCOMPLETE = "media_incomplete"
WARNINGS = {MEDIA_INCOMPLETE, "timestamps_jump", "channels_mixed_differently", "audio_track_changed"}
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGSYS}
EXHAUSTED = {signal.SIGXCPU, signal.SIGXFSZ}


@dataclass(frozen=True, slots=True)
class Audio:
    """The decoded audio of a recording.

    Each file holds raw little-endian float32, 16 kHz: `numpy.memmap(path, dtype="<f4", mode="r")`. There is one file
    with the mix of all channels, or one per channel, all of the same length. Sample 0 is the start of the clip; without
    one, that of the recording as a player shows it, including silence.
    """

    paths: tuple[Path, ...]
    duration_seconds: float
    container: str  # FFmpeg's name of the demuxer, such as "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str  # of the audio stream
    has_video: bool  # cover art does not count
    tracks: int = 1  # audio streams in the file
    warnings: tuple[TranscriptWarning, ...] = ()  # what could not be read, and where times may be wrong


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    max_media_seconds: float  # of decoded audio, summed over split channels
    timeout_seconds: float  # wall-clock time, and CPU time
    memory_bytes: int  # address space of the child


def max_decoders(memory_bytes: int, total_bytes: int) -> int:
    """Return how many decoders may run at once: one per core, and together with at most half of the memory."""
    return max(1, min(len(os.sched_getaffinity(0)), total_bytes // 2 // memory_bytes))


class DecoderPool:
    """Decode each recording in its own process. `async with` starts and stops the fork server."""

    def __init__(
        self, folder: Path, metrics: Metrics, *, max_decoders: int | None = None, allow_weak_sandbox: bool = False
    ) -> None:
        """`folder` is the working directory of the processes, which also identifies them as this daemon's.

        At most `max_decoders` run at once, by default one per core. With `allow_weak_sandbox`, they also run where the
        kernel cannot confine them.
        """
        self._folder = folder
        self._turns = asyncio.Semaphore(max_decoders or len(os.sched_getaffinity(0)))
        self._allow_weak_sandbox = allow_weak_sandbox
        self._starts = metrics.decoder_fork_server_starts
        self._servers: list[_ForkServer] = []  # the last one takes requests; retired ones still have children
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._server()
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            await server.kill()

    async def decode(
        self,
        source: Path,
        target: Path,
        limits: DecodeLimits,
        *,
        audio_track: int | None = None,
        split: bool = False,
        clip: Clip = WHOLE,
    ) -> Audio:
        """Decode a clip of one audio stream of `source` into `target`, which is overwritten.

        By default, that is the first stream, or the loudest other one if the first is silent.

        Mixes all channels, unless `split`: then the channels of `a.f32` are written to `a-00.f32`, `a-01.f32`, …

        Raises MediaUnreadable, NoAudio, AudioTrackMissing, TooManyChannels, MediaTooLong, ClipOutOfRange, DecodeLimit or
        DiskFull with a message for the sender of the file, and TranscriptdError for an internal error. After any exception, including
        cancellation, the targets are deleted and the child has ended.
        """
        targets = [target]
        if split:
            targets = [target.with_stem(f"{target.stem}-{index:02}") for index in range(MAX_SPLIT_CHANNELS)]
        request = _paths(source, targets) | {"audio_track": audio_track, "split": split}
        request |= {"clip": asdict(clip), "allow_weak_sandbox": self._allow_weak_sandbox, **asdict(limits)}
        with _removed_unless_done(targets):
            async with self._turns:
                ended = await self._run_child(request, limits.timeout_seconds)
            return _audio(targets, _answer(*ended))

    async def _run_child(self, request: dict[str, Any], timeout_seconds: float) -> tuple[int, bytes, bytes]:
        """Run the decoder for one request. Return its exit status and the tails of its stdout and stderr."""
        server = await self._server()
        with ExitStack() as closing:
            talk, log, life = (closing.enter_context(end) for end in server.fork())
            reading = asyncio.gather(_tail(talk), _tail(log), _tail(life))
            try:
                async with asyncio.timeout(timeout_seconds):
                    with suppress(ConnectionError):  # the child has ended: its exit status is the better diagnosis
                        await asyncio.get_running_loop().sock_sendall(talk, json.dumps(request).encode() + b"\n")
                    output, errors, status = await asyncio.shield(reading)
            except TimeoutError:
                message = f"decoding the file takes longer than the limit of {timeout_seconds:g} s"
                raise DecodeLimit(message) from None
            finally:
                if not reading.done():
                    life.shutdown(socket.SHUT_WR)
                    await asyncio.wait((reading,), timeout=KILL_TIMEOUT_SECONDS)
                if not reading.done():
                    await server.kill()  # the server hangs; its children die with it
                    await asyncio.wait((reading,))
        if not status:
            raise TranscriptdError("the fork server of the media decoders has exited", detail=await server.last_words())
        if int(status) < 0:
            server.retire()
        return int(status), output, errors

    async def _server(self) -> "_ForkServer":
        async with self._starting:
            self._servers = [server for server in self._servers if server.process.returncode is None]
            if not self._servers or self._servers[-1].retired:
                self._servers.append(await _ForkServer.start(self._folder))
                self._starts.inc()
            return self._servers[-1]


class _ForkServer:
    """Handle of a `fork_server.py` process. Its stderr arrives on the request socket."""

    def __init__(self, process: Process, requests: socket.socket) -> None:
        self.process = process
        self.retired = False
        self._requests = requests
        self._listening = asyncio.create_task(self._listen(), name="fork server")

    @classmethod
    async def start(cls, folder: Path) -> Self:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "daemon.media.fork_server", str(os.getpid())),
                stdin=theirs.fileno(),
                stdout=DEVNULL,
                stderr=theirs.fileno(),
                cwd=folder,
                env=minimal_environment(),  # inherited by the children
                process_group=0,
            )
        ours.setblocking(False)
        return cls(process, ours)

    def fork(self) -> list[socket.socket]:
        """Request a decoder. Return our ends of talk, log and life; they are at end of file if the server exited."""
        pairs = [socket.socketpair() for _ in range(3)]
        try:
            with suppress(ConnectionError):
                socket.send_fds(self._requests, [b"fork"], [theirs.fileno() for _, theirs in pairs])
        finally:
            for ours, theirs in pairs:
                ours.setblocking(False)
                theirs.close()
        return [ours for ours, _ in pairs]

    def retire(self) -> None:
        """Stop sending requests. The server exits after its last child."""
        if not self.retired:
            self.retired = True
            self._requests.shutdown(socket.SHUT_WR)

    async def kill(self) -> None:
        self.retired = True
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.last_words()

    async def last_words(self) -> str:
        """Wait for the server to exit and return the tail of its output."""
        return (await asyncio.shield(self._listening)).decode(errors="replace")

    async def _listen(self) -> bytes:
        try:
            with self._requests:
                words = await _tail(self._requests)
                await self.process.wait()
                return words
        finally:
            self.retired = True  # also if reading failed: the server cannot be used any more


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
    """Build the result from the targets. Remove empty ones: the recording has fewer channels."""
    sizes = {path: path.stat().st_size for path in targets}
    paths = tuple(path for path, size in sizes.items() if size)
    size = max(sizes.values())
    if not size or size % SAMPLE_BYTES or any(sizes[path] != size for path in paths):
        raise TranscriptdError(f"the media decoder wrote files of invalid sizes: {list(sizes.values())} bytes")
    for path in set(targets) - set(paths):
        path.unlink()
    return Audio(
        paths=paths,
        duration_seconds=size / SAMPLE_BYTES / SAMPLE_RATE,
        container=_text(answer.get("container")),
        codec=_text(answer.get("codec")),
        has_video=answer.get("has_video") is True,
        tracks=_count(answer.get("tracks")),
        warnings=tuple(_warnings(answer.get("warnings"))),
    )


def _warnings(found: object) -> Iterator[TranscriptWarning]:
    """Yield the child's warnings, at most one of each code."""
    known = found if isinstance(found, list) else []
    messages = {str(each.get("code")): each.get("message") for each in known if isinstance(each, dict)}
    for code in sorted(WARNINGS & messages.keys()):
        yield TranscriptWarning(code=code, stage="decode", message=_text(messages[code]))


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 1


async def _tail(end: socket.socket) -> bytes:
    """Read to the end of the stream and keep its tail, so that a flood of output cannot exhaust memory."""
    loop, kept = asyncio.get_running_loop(), b""
    while True:
        # Raised once if the child ends without reading all of its input. Its remaining output may still follow.
        with suppress(ConnectionResetError):
            if not (chunk := await loop.sock_recv(end, 65536)):
                return kept
            kept = (kept + chunk)[-TAIL_BYTES:]


def _answer(status: int, output: bytes, errors: bytes) -> dict[str, Any]:
    """Return the child's reply, or raise the error that it reports or that its exit status implies."""
    log = errors.decode(errors="replace")
    if -status in CRASHES:
        name = signal.Signals(-status).name
        raise MediaUnreadable(f"the file crashed the decoder ({name}): it is damaged or malicious", detail=log)
    if -status in EXHAUSTED:
        raise DecodeLimit("the decoder reached its CPU time or file size limit", detail=log)
    if -status == signal.SIGKILL:  # not ours, so the OOM killer's: any process of the host may have used up the memory
        raise DecoderKilled("the kernel killed the decoder: the host is out of memory", detail=log)
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
    """Sanitize text from the child for logs and manifests."""
    return "".join(character if character.isprintable() else " " for character in str(value)[:MESSAGE_CHARACTERS])
