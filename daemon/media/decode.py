"""The decoder process: decode one untrusted recording.

`fork_server.py` forks it. It reads one request as a JSON line from stdin, writes one reply as a JSON line to stdout,
and exits. Before FFmpeg reads a byte of the file, the process limits its memory and time, opens its files, and locks itself
down (`sandbox.py`): from then on it can read, write and exit. Nothing may be imported or opened later.

Channels are mixed into one file, or each is written to its own file. All files have the same length, even if channels
are silent.

The links of a chained Ogg file are decoded one after the other, each with its own decoder. `timeline.py` places the audio
on the time axis, and `reading.py` notices what could not be read. Of a clip, packets well before its start are read
but not decoded, and nothing after its end is read.
"""

import errno
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import av
import av.logging
import av.subtitles.codeccontext  # these three, because PyAV would import them when it opens a file: too late
import av.subtitles.stream
import av.subtitles.subtitle
from av.codec.codec import Codec, UnknownCodecError
from av.container import InputContainer

from daemon.errors import (
    AudioTrackMissing,
    DecodeLimit,
    DiskFull,
    MediaUnreadable,
    NoAudio,
    TranscriptdError,
)
from daemon.media.clip import WHOLE, Clip
from daemon.media.containers import CONTAINERS
from daemon.media.endings import cut_unit
from daemon.media.mixing import USUAL, Meter, Mix
from daemon.media.ogg import links
from daemon.media.reading import Reader, blame
from daemon.media.recording import Recording
from daemon.media.sandbox import die_with_parent, limit, lock_down
from daemon.media.source import Section
from daemon.media.timeline import Timeline
from daemon.media.tracks import loudest_track
from daemon.media.waveform import RATE, SAMPLE_BYTES, Resampler, Waveform, frame_format

# Metadata that is not UTF-8 must not fail a recording. PyAV 19 and later accept it and do not have this argument.
LENIENT_METADATA: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}

RAW = ".ulaw, .al, .sln, .g722, .pcm"
WRAP = "for example `ffmpeg -f mulaw -ar 8000 -ac 1 -i call.ulaw call.wav`, or `-f alaw`, `-f s16le`, `-f g722`"


def _decodes_audio(codec: str) -> bool:
    with suppress(UnknownCodecError):  # the codec is an encoder only
        return Codec(codec, "r").type == "audio"
    return False


# Decoded before a clip begins, because a frame may depend on the packets before it.
PREROLL_SECONDS = 1.0

AUDIO_CODECS = ",".join(filter(_decodes_audio, av.codecs_available))


def decode(
    source: BinaryIO,
    targets: Sequence[BinaryIO],
    max_seconds: float,
    *,
    audio_track: int | None,
    split: bool,
    clip: Clip = WHOLE,
) -> dict[str, Any]:
    """Decode an audio stream of `source` into the targets: by default the first, or another one if that is silent.

    Mix the channels into the first target, or split them, one per target. Return the file's container, codec, has_video,
    number of audio streams and warnings.

    Raises MediaUnreadable, NoAudio, AudioTrackMissing, TooManyChannels, MediaTooLong, ClipOutOfRange; MemoryError; OSError
    when a target cannot be written.
    """
    waveform = Waveform(targets, max_seconds, clip)
    recording = _decode_track(source, waveform, audio_track, split)
    summary = recording.summary()
    if audio_track is None and waveform.silent and not waveform.ends_before_clip and summary["tracks"] > 1:
        with _open(Section.whole(source)) as container:
            loudest = loudest_track(container, besides=0)
        if loudest is not None:
            source.seek(0)
            waveform.restart()
            recording = _decode_track(source, waveform, loudest, split)
            recording.changed_track(loudest)
            summary = recording.summary()
    waveform.finish()
    return summary | {"warnings": recording.warnings(waveform.seconds)}


@dataclass(frozen=True, slots=True)
class Mixing:
    split: bool
    mix: Mix
    meter: Meter


def _decode_track(source: BinaryIO, waveform: Waveform, track: int | None, split: bool) -> Recording:
    """Decode an audio stream, and again where the usual mix of its channels loses the sound."""
    meter = Meter(split=split)
    recording = _decode_parts(source, waveform, track, Mixing(split, USUAL, meter))
    if (mix := meter.better_mix()) is not USUAL:
        source.seek(0)
        waveform.restart()
        recording = _decode_parts(source, waveform, track, Mixing(split, mix, Meter(split=split)))
        recording.mixed(mix)
    return recording


def _decode_parts(source: BinaryIO, waveform: Waveform, track: int | None, mixing: Mixing) -> Recording:
    recording = Recording()
    for part in links(source):
        if waveform.complete:
            break
        try:
            _decode_part(part, recording, waveform, track, mixing)
        except (MediaUnreadable, NoAudio, AudioTrackMissing) as error:
            recording.add_unreadable(error)
    mixing.meter.end_block()
    return recording


def _decode_part(source: Section, recording: Recording, waveform: Waveform, track: int | None, mixing: Mixing) -> None:
    with _open(source) as container:
        stream = _choose_audio(container, track)
        reader = Reader(container, stream)
        timeline = Timeline(reader.start, waveform.seconds, reader.others, may_restart=reader.clock_may_restart)
        with blame("the audio cannot be converted: its format is unusual or damaged"):
            _convert(reader, timeline, waveform, mixing)
        if waveform.complete:  # the rest was not read
            recording.add(reader, timeline.jumps, 0.0, None)
        else:
            recording.add(reader, timeline.jumps, reader.missing_seconds(source.missing_share()), cut_unit(source))


def _open(source: Section) -> InputContainer:
    problem = _problem(source.head())
    containment = {
        "protocol_whitelist": "none",  # for demuxers that open URLs without calling io_open, such as sdp
        "codec_whitelist": AUDIO_CODECS,  # prevents decoding of video, even while probing
        "format_whitelist": CONTAINERS,
    }
    with blame(problem):
        container: InputContainer = av.open(
            source,
            mode="r",
            container_options=containment,
            io_open=_refuse,
            buffer_size=256 * 1024,
            **LENIENT_METADATA,
        )
    for stream in container.streams.audio:
        if stream.codec_context is not None:
            # FFmpeg's audio decoders do not benefit from more, and the jail allows none.
            stream.codec_context.thread_count = 1
    return container


def _problem(head: bytes) -> str:
    """Return what is probably wrong with a file that FFmpeg does not recognize."""
    if head[4:8] == b"ftyp":
        return "the file is an MP4 or MOV whose index cannot be read: it is cut off or damaged; upload it again"
    problem = "the file cannot be read as audio or video: it is not media, or it is cut off or damaged"
    if not head.strip(b"\0") or head.isascii():
        return problem
    # Samples without a header look like noise, so nothing says which of the raw formats it is.
    return f"{problem}. If it is raw sound without a header ({RAW}), convert it first: {WRAP}"


def _refuse(url: str, *_: object) -> NoReturn:
    message = "the file refers to other files or URLs, as a playlist does: send one self-contained recording"
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
        raise MediaUnreadable("the audio format cannot be decoded: it is unknown or protected (DRM)")
    return chosen


def _convert(reader: Reader, timeline: Timeline, waveform: Waveform, mixing: Mixing) -> None:
    """Decode and resample the audio into the waveform, placing each frame by its timestamp, until the clip is complete."""
    resampler: Resampler | None = None

    def skip(time: float, length: float) -> bool:
        nonlocal resampler
        if not timeline.skip(time, length, waveform.clip_seconds - PREROLL_SECONDS):
            return False
        if resampler:
            resampler.push(None)
            resampler = None
        waveform.advance(timeline.position)
        return True

    for frame in reader.frames(skip):
        gap = timeline.silence_before(frame, waveform.room_seconds)
        if resampler and (gap or resampler.kind != frame_format(frame)):
            resampler.push(None)
            resampler = None
        if gap:
            waveform.append_silence(round(gap * RATE))
        frame.pts = None  # already placed: the resampler must not compensate for timestamps
        if timeline.position > waveform.clip_seconds:
            mixing.meter.measure_frame(frame)
        else:
            mixing.meter.end_block()  # drops what was measured of the mix
        resampler = resampler or Resampler(frame, waveform, mixing.split, mixing.mix, mixing.meter)
        resampler.push(frame)
        if waveform.complete:
            return
    if resampler:
        resampler.push(None)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        with ExitStack() as files:
            # Opened as a descriptor: FFmpeg sees no path and infers nothing from a name that the uploader chose.
            source = files.enter_context(os.fdopen(os.open(request["source"], os.O_RDONLY), "rb"))
            targets = [files.enter_context(_create(path)) for path in request["targets"]]
            lock_down(allow_weak=request["allow_weak_sandbox"])
            return decode(
                source,
                targets,
                request["max_media_seconds"],
                audio_track=request["audio_track"],
                split=request["split"],
                clip=Clip(**request["clip"]),
            )
    except TranscriptdError as error:
        return {"error": error.code, "message": error.message, "detail": error.detail}
    except MemoryError:
        return {"error": DecodeLimit.code, "message": "decoding the file exceeds the memory limit"}
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return {"error": DiskFull.code, "message": "the scratch disk is full: no space for the decoded audio"}


def _create(path: str) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=2**20)


def main(parent: int) -> None:
    """Serve the single request on stdin. This process dies with `parent`."""
    die_with_parent(parent)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # redirect library output on stdout to stderr, so that it cannot be mistaken for the reply
    request = json.loads(sys.stdin.readline())
    limit(
        memory_bytes=request["memory_bytes"],
        cpu_seconds=request["timeout_seconds"],
        file_bytes=int(request["max_media_seconds"] * RATE * SAMPLE_BYTES),
    )
    av.logging.set_level(av.logging.ERROR)  # adds FFmpeg's last log message to the text of an error
    logging.disable()  # but print nothing: a damaged file can produce endless log output
    print(json.dumps(_answer(request)), file=answers, flush=True)
