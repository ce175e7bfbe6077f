"""The decoder process: decodes one recording that nobody vouches for.

`fork_server.py` forks it. One JSON line on stdin asks for one file, one JSON line on stdout answers, then it ends.
It gives up what it does not need (memory, time, files, processes, the network) before FFmpeg sees a byte of the file.

Channels are mixed to one, or each goes to a file of its own; whichever of them are silent, these files have one length.

Where sound lands on the time axis follows players and ffmpeg: position 0 is the start of the container, not of the
audio stream. Sound that starts later, or resumes after a gap of more than `MIN_GAP_SECONDS`, is placed where its
timestamps say, with silence before it. Sound is never cut: what claims a time that is already written is appended.
"""

import errno
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, NoReturn

import av
import av.logging
from av.codec.codec import Codec, UnknownCodecError
from av.container import InputContainer
from av.stream import Discard, Disposition

from daemon.confine import end_with, leave_network, limit
from daemon.errors import (
    AudioTrackMissing,
    DecodeLimit,
    DiskFull,
    MediaUnreadable,
    NoAudio,
    TranscriptdError,
)
from daemon.waveform import RATE, SAMPLE_BYTES, Resampler, Waveform, kind_of

MIN_GAP_SECONDS = 0.1  # shorter gaps are jitter of timestamps; ffmpeg's aresample=async draws the same line
CLOCK_RESTART_SECONDS = 10.0  # in containers whose clock may restart, a longer jump is a new clock, as in ffmpeg

AVFMT_TS_DISCONT = 0x0200


def _decodes_audio(codec: str) -> bool:
    with suppress(UnknownCodecError):  # it only encodes
        return Codec(codec, "r").type == "audio"
    return False


AUDIO_CODECS = ",".join(filter(_decodes_audio, av.codecs_available))


def decode(
    source: BinaryIO, targets: Sequence[BinaryIO], max_seconds: float, *, audio_track: int | None, split: bool
) -> dict[str, Any]:
    """Write an audio stream of `source`, the first unless `audio_track` says otherwise, to the targets.

    Channels are mixed into the first target, or split: each goes to the next one. Returns the file's container, codec
    and has_video.

    Raises MediaUnreadable, NoAudio, AudioTrackMissing, TooManyChannels, MediaTooLong; MemoryError; OSError when a
    target cannot be written.
    """
    waveform = Waveform(targets, max_seconds)
    with _open(source) as container:
        stream = _choose_audio(container, audio_track)
        with _blame("the audio cannot be converted: its format is unusual or damaged"):
            _convert(container, stream, waveform, split)
        waveform.finish()
        has_video = any(not video.disposition & Disposition.attached_pic for video in container.streams.video)
        return {"container": container.format.name, "codec": stream.codec_context.name, "has_video": has_video}


@contextmanager
def _blame(message: str) -> Iterator[None]:
    """Whatever FFmpeg says, except that it lacks memory, is the file's fault."""
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise MediaUnreadable(message, detail=str(error)) from error


def _open(source: BinaryIO) -> InputContainer:
    problem = "the file cannot be read as audio or video: it is not media, or it is cut off or damaged"
    if source.read(8)[4:] == b"ftyp":
        problem = "the file is an MP4 or MOV whose index cannot be read: it is cut off or damaged; upload it again"
    source.seek(0)
    containment = {
        "protocol_whitelist": "none",  # for demuxers that open addresses without asking io_open, such as sdp
        "codec_whitelist": AUDIO_CODECS,  # not even probing decodes video
    }
    with _blame(problem):
        return av.open(
            source,
            mode="r",
            container_options=containment,
            io_open=_refuse,
            metadata_errors="replace",
            buffer_size=256 * 1024,
        )


def _refuse(url: str, *_: object) -> NoReturn:
    message = "the file refers to other files or addresses, as a playlist does: send one self-contained recording"
    raise MediaUnreadable(message, detail=f"refused to open {url[:200]}")


def _choose_audio(container: InputContainer, track: int | None) -> av.AudioStream:
    tracks = container.streams.audio
    if not tracks:
        kinds = Counter(stream.type for stream in container.streams)
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
        raise NoAudio(f"the file has no audio stream (streams in it: {found}): send a recording that has sound")
    if track is not None and track >= len(tracks):
        raise AudioTrackMissing(
            f"options.audio_track is {track}, counted from 0, but the number of audio streams in the file is {len(tracks)}"
        )
    chosen: av.AudioStream = tracks[track or 0]
    if chosen.codec_context is None:
        raise MediaUnreadable("the audio is in a format that cannot be decoded: an unknown or a protected one")
    for stream in container.streams:
        if stream is not chosen:
            stream.discard = Discard.all
    chosen.codec_context.thread_count = 1  # FFmpeg's audio decoders gain nothing from more
    return chosen


def _convert(container: InputContainer, stream: av.AudioStream, waveform: Waveform, split: bool) -> None:
    """Decode and resample the stream into the waveform, each frame at the time that it is stamped with."""
    start = (container.start_time or 0) / av.time_base
    longest_gap = CLOCK_RESTART_SECONDS if container.format.flags & AVFMT_TS_DISCONT else math.inf
    position = 0.0  # seconds: where the next frame goes if it follows on
    resampler: Resampler | None = None
    for frame in _frames(container, stream):
        gap = 0.0 if frame.time is None else frame.time - start - position
        jumps = (MIN_GAP_SECONDS if resampler else 0.0) < gap <= longest_gap
        if resampler and (jumps or resampler.kind != kind_of(frame)):
            resampler.push(None)
            resampler = None
        if jumps:
            waveform.append_silence(round(gap * RATE))
            position += gap
        position += frame.samples / frame.sample_rate
        frame.pts = None  # it is in its place: the resampler need not look
        resampler = resampler or Resampler(frame, waveform, split)
        resampler.push(frame)
    if resampler:
        resampler.push(None)


def _frames(container: InputContainer, stream: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Frames in the order of the file. A minority of packets may be undecodable: they are skipped, as players do."""
    decoded, failed, reason = 0, 0, ""
    for packet in _packets(container, stream):
        try:
            with _blame("undecodable packet"):
                frames = stream.codec_context.decode(packet)
        except MediaUnreadable as error:
            failed, reason = failed + 1, str(error.detail)
        else:
            decoded += 1
            yield from frames
    if failed > decoded:
        message = f"the file is damaged: {failed} of the {failed + decoded} packets of its audio cannot be decoded"
        raise MediaUnreadable(message, detail=reason)


def _packets(container: InputContainer, stream: av.AudioStream) -> Iterator["av.Packet[Any] | None"]:
    """Packets of the stream, then None to flush the decoder. A read error ends the recording: what came before counts."""
    try:
        with _blame("read error"):
            yield from (packet for packet in container.demux(stream) if packet.size)
    except MediaUnreadable as error:
        print(f"the file was read up to an error: {error.detail}", file=sys.stderr)
    yield None


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        with ExitStack() as files:
            # Opened by number: FFmpeg learns no path, and guesses nothing from a name that an uploader chose.
            source = files.enter_context(os.fdopen(os.open(request["source"], os.O_RDONLY), "rb"))
            targets = [files.enter_context(_create(path)) for path in request["targets"]]
            leave_network()
            return decode(
                source,
                targets,
                request["max_media_seconds"],
                audio_track=request["audio_track"],
                split=request["split"],
            )
    except TranscriptdError as error:
        return {"error": error.code, "message": error.message, "detail": error.detail}
    except MemoryError:
        return {"error": DecodeLimit.code, "message": "decoding the file needs more memory than is allowed"}
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return {"error": DiskFull.code, "message": "the scratch disk has no room for the decoded audio"}


def _create(path: str) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=2**20)


def main(parent: int) -> None:
    """Answer the one request on stdin; `parent` is the process that this one must not outlive."""
    end_with(parent)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not the answer
    request = json.loads(sys.stdin.readline())
    limit(
        memory_bytes=request["memory_bytes"],
        cpu_seconds=request["timeout_seconds"],
        file_bytes=int(request["max_media_seconds"] * RATE * SAMPLE_BYTES),
    )
    av.logging.set_level(av.logging.ERROR)  # the text of an error then ends with FFmpeg's last words
    logging.disable()  # and nothing is printed: a damaged file logs without end
    print(json.dumps(_answer(request)), file=answers, flush=True)
