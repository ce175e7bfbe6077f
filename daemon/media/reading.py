"""Part of the decoder process: read one container's audio, with what its other streams and its header say about it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeAlias

import av
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream

from daemon.errors import MediaUnreadable
from daemon.media.effort import Effort
from daemon.media.source import UNKNOWN_BYTES
from daemon.media.timeline import OtherStreams

Packet: TypeAlias = "av.Packet[Any]"  # PyAV is generic in its stubs only

START_PACKETS = 1000  # read ahead at most, to find the earliest start of any stream
START_BYTES = 32 * 1024**2

# The containers whose stated length FFmpeg returns. It estimates that of others from the bit rate or the file's end;
# source.py knows some of those.
STATING = {"aiff", "ape", "au", "avi", "flac", "flv", "matroska,webm", "tta", "wv"}
AVFMT_TS_DISCONT = 0x0200
INDEXED = "mov,mp4,m4a,3gp,3g2,mj2"  # states the length of each stream; skips unwanted ones without reading them

SHORT_SECONDS = 1.0  # a header may be wrong by this much, and by a share of the recording
SHORT_SHARE = 0.001


@contextmanager
def blame(message: str) -> Iterator[None]:
    """Raise MediaUnreadable for any FFmpeg error except lack of memory."""
    try:
        yield
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise MediaUnreadable(message, detail=str(error)) from error


class Reader:
    """Reads the audio stream to the end, once."""

    def __init__(self, container: InputContainer, stream: av.AudioStream) -> None:
        self.container = container
        self.stream = stream
        self.stopped: str | None = None  # the error at which reading stopped
        self.failed_seconds = 0.0
        self._effort = Effort(container)
        self._ticks: dict[int, float] = {}  # by stream
        self._indexed = container.format.name == INDEXED
        self._timed = [each for each in container.streams if each is not stream and _is_timed(each)]
        self._source = self._read()
        self._ahead = self._read_ahead()
        self.start = self._earliest_start()
        self.others = OtherStreams(self._spans())
        # An Ogg stream counts its samples, so its clock never restarts: each link of a chain has its own container.
        self.clock_may_restart = bool(container.format.flags & AVFMT_TS_DISCONT) and container.format.name != "ogg"
        self._end = self.start  # timestamp at which the packets end
        if self._indexed:
            for each in container.streams:
                if each is not stream:
                    each.discard = Discard.all

    def frames(self, skip: Callable[[float, float], bool]) -> Iterator[av.AudioFrame]:
        """Yield frames in file order. Skip undecodable packets, as players do, if they are at most half of all.

        Packets for whose timestamp and length `skip` returns True are not decoded.
        """
        reason, skipped = "", False
        for packet in self._packets():
            time = self._time(packet) if packet and packet.duration else None
            if packet and time is not None and skip(time, self._length(packet)):
                skipped = True
                continue
            if skipped:  # what the decoder still holds belongs before the packets skipped
                self.stream.codec_context.flush_buffers()
                skipped = False
            try:
                with blame("undecodable packet"):
                    frames = self.stream.codec_context.decode(packet)
            except MediaUnreadable as error:
                reason = str(error.detail)
                self.failed_seconds += self._length(packet) if packet else 0.0
                self._effort.note_failed(reason)
            else:
                yield from frames
                self._effort.note_decoded(sum(frame.samples / frame.sample_rate for frame in frames))
        self._effort.judge(reason)

    def missing_seconds(self, missing_share: float) -> float:
        """Return by how much the contents are shorter than stated; 0 if nothing is stated, or the whole is there.

        `missing_share` is by how much the file should be longer, as a share of its size.
        """
        length = self._end - self.start
        missing = max(self._stated_end() - self._end, missing_share * length)
        return missing if missing > SHORT_SECONDS + SHORT_SHARE * length else 0.0

    # --- packets --------------------------------------------------------------------------------------------------

    def _packets(self) -> Iterator["Packet | None"]:
        """Yield the audio's packets, then None to flush the decoder."""
        audio, timed = self.stream.index, {each.index for each in self._timed}
        for packet in chain(self._ahead, self._source):
            time = self._time(packet)
            if time is not None:
                self._end = max(self._end, time + self._length(packet))
            if packet.stream_index == audio:
                self.others.note_audio_packet()
                yield packet
            elif time is not None and packet.stream_index in timed:
                self.others.note_packet(time)
        yield None

    def _read(self) -> Iterator[Packet]:
        """Yield all packets. A read error ends the recording at that point."""
        packets = self.container.demux()
        while True:
            try:
                with blame("read error"):
                    packet = next(packets, None)
            except MediaUnreadable as error:
                self.stopped = str(error.detail)
                return
            if packet is None:
                return
            self._effort.note_read(packet.size)
            if packet.size:
                yield packet

    def _time(self, packet: Packet) -> float | None:
        ticks = packet.pts if packet.pts is not None else packet.dts
        return None if ticks is None else ticks * self._tick(packet)

    def _length(self, packet: Packet) -> float:
        return (packet.duration or 0) * self._tick(packet)

    def _tick(self, packet: Packet) -> float:
        """Return the unit of the packet's times in seconds. Kept, because fractions are slow and packets are many."""
        index = packet.stream_index
        if index not in self._ticks:
            self._ticks[index] = float(packet.time_base)
        return self._ticks[index]

    # --- times ----------------------------------------------------------------------------------------------------

    def _read_ahead(self) -> list[Packet]:
        """Read until each video stream has begun, or has had the opportunity."""
        ahead: list[Packet] = []
        left_bytes = START_BYTES
        waiting = {each.index for each in self._timed if each.type == "video"}
        if waiting:
            for packet in islice(self._source, START_PACKETS):
                ahead.append(packet)
                waiting.discard(packet.stream_index)
                left_bytes -= packet.size
                if not waiting or left_bytes < 0:
                    break
        return ahead

    def _earliest_start(self) -> float:
        """Return the timestamp at which a player's clock begins.

        FFmpeg knows where audio starts. It may not decode video here, so where that starts only the packets tell.
        """
        known = self.container.start_time
        starts = {} if known is None else {-1: known / av.time_base}
        for packet in self._ahead:
            time = self._time(packet)
            if time is not None and not packet.is_discard and (packet.stream.type == "video" or known is None):
                starts.setdefault(packet.stream_index, time)
        return min(starts.values(), default=0.0)

    def _spans(self) -> list[tuple[float, float]]:
        """Return start and end of each stream that is not read."""
        spans = []
        for each in self._timed if self._indexed else []:
            if each.time_base and each.duration:
                start = each.start_time or 0
                spans.append((float(start * each.time_base), float((start + each.duration) * each.time_base)))
        return spans

    def _stated_end(self) -> float:
        """Return the timestamp at which the contents end by the header; −∞ if it does not say."""
        name, stream = self.container.format.name, self.stream
        if name == INDEXED and stream.duration and stream.time_base:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if name not in STATING or not self.container.duration:
            return -math.inf
        length = self.container.duration / av.time_base
        streamed = name in ("aiff", "au") and length * (stream.bit_rate or 0) / 8 > UNKNOWN_BYTES
        return -math.inf if streamed else length  # Matroska counts it from timestamp 0, not from the earliest start


def _is_timed(stream: Stream) -> bool:
    """Return whether a stream has a place on the time axis. Cover art and subtitles do not."""
    return stream.type in ("audio", "video") and not stream.disposition & Disposition.attached_pic
