"""Decoding of untrusted media, the parent's side: ask for a confined child, bound its answer, clean up after it.

FFmpeg reads whatever people upload, and its parsers are where such a service is attacked. So it never runs in this
process: `decoder.py` does the work in a short-lived child with limits, and nothing that the child says is trusted
beyond this module. The children are forked by a process that has FFmpeg loaded (`fork_server.py`). The result is a
file that the runner maps into memory.
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
from daemon.metrics import Metrics

SAMPLE_RATE = 16_000  # Hz
SAMPLE_BYTES = 4  # float32
MAX_SPLIT_CHANNELS = 8  # each is transcribed apart, one after the other
TAIL_BYTES = 8192  # kept of each output stream of the child
MESSAGE_CHARACTERS = 500
KILL_PATIENCE_SECONDS = 5.0  # the fork server takes milliseconds to end a child

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


class Decoder:
    """Decodes recordings, each in a process of its own. `async with` starts what forks these, and ends it."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        """`folder` is where these processes are at work; whose they are can be told from that."""
        self._folder = folder
        self._starts = metrics.decoder_fork_server_starts
        self._servers: list[_ForkServer] = []  # the last one forks; others have children to wait for
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._server()
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            await server.kill()

    async def decode(
        self, source: Path, target: Path, limits: DecodeLimits, *, audio_track: int | None = None, split: bool = False
    ) -> Audio:
        """Decode one audio stream of `source` into `target`, which is overwritten; None is the first.

        All channels become one, unless they are split: then those of `a.f32` go to `a-00.f32`, `a-01.f32`, …

        Raises MediaUnreadable, NoAudio, AudioTrackMissing, TooManyChannels, MediaTooLong, DecodeLimit or DiskFull with
        a message for the sender of the file, TranscriptdError for a fault of our own. Whenever it raises, cancellation
        included, the targets are gone and so is the child.
        """
        targets = [target]
        if split:
            targets = [target.with_stem(f"{target.stem}-{index:02}") for index in range(MAX_SPLIT_CHANNELS)]
        request = _paths(source, targets) | {"audio_track": audio_track, "split": split}
        with _removed_unless_done(targets):
            child = self._run_child(request | asdict(limits), limits.timeout_seconds)
            return _audio(targets, _answer(*await child))

    async def _run_child(self, request: dict[str, Any], timeout_seconds: float) -> tuple[int, bytes, bytes]:
        """Run the decoder for one request. Returns its exit status and the ends of its stdout and stderr."""
        server = await self._server()
        with ExitStack() as closing:
            talk, log, life = (closing.enter_context(end) for end in server.fork())
            reading = asyncio.gather(_tail(talk), _tail(log), _tail(life))
            try:
                async with asyncio.timeout(timeout_seconds):
                    with suppress(ConnectionError):  # the child is gone: how it ended says more
                        await asyncio.get_running_loop().sock_sendall(talk, json.dumps(request).encode() + b"\n")
                    output, errors, status = await asyncio.shield(reading)
            except TimeoutError:
                message = f"decoding the file takes longer than the {timeout_seconds:g} s that are allowed"
                raise DecodeLimit(message) from None
            finally:
                if not reading.done():
                    life.shutdown(socket.SHUT_WR)
                    await asyncio.wait((reading,), timeout=KILL_PATIENCE_SECONDS)
                if not reading.done():
                    await server.kill()  # it stands still; its children end with it
                    await asyncio.wait((reading,))
        if not status:
            raise TranscriptdError("the process that forks media decoders has ended", detail=await server.last_words())
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
    """Our handle of a process of `fork_server.py`. What it prints comes back over the socket that it is asked by."""

    def __init__(self, process: Process, requests: socket.socket) -> None:
        self.process = process
        self.retired = False
        self._requests = requests
        self._listening = asyncio.create_task(self._listen(), name="fork server")

    @classmethod
    async def start(cls, folder: Path) -> Self:
        # An environment of its own, which its children have too: no credentials, no proxies, no PYTHON* variables.
        environment = {"LC_ALL": "C.UTF-8"}
        if libraries := os.environ.get("LD_LIBRARY_PATH"):
            environment["LD_LIBRARY_PATH"] = libraries  # some interpreters need it to find libpython
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "daemon.fork_server", str(os.getpid())),
                stdin=theirs.fileno(),
                stdout=DEVNULL,
                stderr=theirs.fileno(),
                cwd=folder,
                env=environment,
                process_group=0,
            )
        ours.setblocking(False)
        return cls(process, ours)

    def fork(self) -> list[socket.socket]:
        """Ask for a decoder. Returns our ends of talk, log and life; if the server has ended, so have they."""
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
        """Ask for no more. It ends with the last of its children."""
        if not self.retired:
            self.retired = True
            self._requests.shutdown(socket.SHUT_WR)

    async def kill(self) -> None:
        self.retired = True
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.last_words()

    async def last_words(self) -> str:
        """What it printed, once it has ended."""
        return (await asyncio.shield(self._listening)).decode(errors="replace")

    async def _listen(self) -> bytes:
        with self._requests:
            words = await _tail(self._requests)
            await self.process.wait()
            self.retired = True
            return words


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


async def _tail(end: socket.socket) -> bytes:
    """Read to the end, keep the end: a child that floods its output costs no memory."""
    loop, kept = asyncio.get_running_loop(), b""
    while True:
        with suppress(
            ConnectionResetError
        ):  # said once, when it ended before it had read all: what it wrote may follow
            if not (chunk := await loop.sock_recv(end, 65536)):
                return kept
            kept = (kept + chunk)[-TAIL_BYTES:]


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
