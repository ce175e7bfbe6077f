"""Part of the decoder process: find the audio stream that carries sound, where the first one is silent.

Screen recorders and cameras write one stream for each input, and the first one may belong to a microphone that was off.
"""

from collections import defaultdict
from contextlib import suppress
from typing import Any

import av
from av.container import InputContainer

from daemon.errors import MediaUnreadable
from daemon.media.effort import Effort
from daemon.media.mixing import SILENT
from daemon.media.reading import blame
from daemon.media.samples import frame_power

COMPARED_SECONDS = 60.0  # of sound in one stream, before the streams are compared


def loudest_track(container: InputContainer, *, besides: int) -> int | None:
    """Return the loudest audio stream, counted from 0, leaving out `besides`; None if no other has sound.

    Reads the file at most once, and only until one stream has had enough sound.
    """
    streams = enumerate(container.streams.audio)
    numbers = {each.index: number for number, each in streams if number != besides and each.codec_context}
    energy: defaultdict[int, float] = defaultdict(float)
    seconds: defaultdict[int, float] = defaultdict(float)  # with sound
    effort = Effort(container)
    with suppress(MediaUnreadable), blame("read error"):
        for packet in container.demux(*(container.streams[index] for index in numbers)) if numbers else ():
            effort.note_read(packet.size)
            number = numbers[packet.stream.index]
            decoded_seconds = 0.0
            for frame in _frames(packet):
                length, power = frame.samples / frame.sample_rate, frame_power(frame)
                decoded_seconds += length
                if power > SILENT:
                    seconds[number] += length
                    energy[number] += power * length
            effort.note_decoded(decoded_seconds)
            if seconds[number] > COMPARED_SECONDS:
                break
    return max(energy, key=energy.__getitem__, default=None)


def _frames(packet: "av.Packet[Any]") -> list[av.AudioFrame]:
    with suppress(MediaUnreadable), blame("undecodable packet"):
        frames: list[Any] = packet.decode()
        return frames
    return []
