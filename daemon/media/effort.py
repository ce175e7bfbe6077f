"""Part of the decoder process: stop at a file that takes work and yields nothing, long before the time limit.

A few bytes can name the same part of a file millions of times, or packets without sound.
"""

import time
from collections.abc import Callable

import av

from daemon.errors import MediaUnreadable

# Packets are copies of parts of the file. Only DV is read twice, as picture and as sound, and only Matroska compresses packets.
REPEATED_SHARE = 2
REPEATED_BYTES = 2**20
COMPRESSING = "matroska,webm"

FAILED_PACKETS = 100_000  # half an hour of AAC; a second of work, or a few
EMPTY_PACKETS = 20_000
MIN_PACKET_SECONDS = 0.0005  # of sound, on average; a packet of any codec holds more
# The slowest recordings, in video files of many gigabytes, are decoded a hundred times faster than they play.
PATIENCE_SECONDS = 60.0  # of processor time
PACKETS_BETWEEN_CHECKS = 64


class Effort:
    """The work on one container, and what it yielded."""

    def __init__(
        self, container: av.container.InputContainer, processor_seconds: Callable[[], float] = time.process_time
    ) -> None:
        """`processor_seconds` returns the processor time of this process."""
        self._processor_seconds = processor_seconds
        self._started_at = processor_seconds()
        self._read_packets = 0
        self._counts_bytes = container.format.name != COMPRESSING
        self._left_bytes = REPEATED_SHARE * container.size + REPEATED_BYTES
        self.decoded_packets = self.failed_packets = 0
        self._seconds = 0.0

    def note_read(self, size: int) -> None:
        """Note a packet of this many bytes. Raises MediaUnreadable if there are more than the file can hold, or if the file
        yields its sound too slowly."""
        self._left_bytes -= max(1, size) if self._counts_bytes else 1
        if self._left_bytes < 0:
            raise MediaUnreadable("the file is damaged: its index refers to the same bytes again and again")
        self._read_packets += 1
        if self._read_packets % PACKETS_BETWEEN_CHECKS == 0:
            self._check_speed()

    def _check_speed(self) -> None:
        """Raise MediaUnreadable if the file takes longer to decode than to play."""
        spent_seconds = self._processor_seconds() - self._started_at
        if spent_seconds > PATIENCE_SECONDS and spent_seconds > self._seconds:
            raise MediaUnreadable(
                f"the file is damaged: {spent_seconds:.0f} s of processor time yielded only {self._seconds:.0f} s of sound"
            )

    def note_decoded(self, seconds: float) -> None:
        """Note a packet that holds this much sound. Raises MediaUnreadable if the packets hold next to none."""
        self.decoded_packets += 1
        self._seconds += seconds
        packets = self.decoded_packets + self.failed_packets
        if packets > EMPTY_PACKETS and self._seconds < MIN_PACKET_SECONDS * packets:
            raise MediaUnreadable(
                f"the file is damaged: its first {packets} packets hold only {self._seconds:.1f} s of sound"
            )

    def note_failed(self, reason: str) -> None:
        """Note a packet that cannot be decoded. Raises MediaUnreadable if the others will hardly make up for it."""
        self.failed_packets += 1
        if self.failed_packets - self.decoded_packets > FAILED_PACKETS:
            self.judge(reason)

    def judge(self, reason: str) -> None:
        """Raise MediaUnreadable if most packets cannot be decoded."""
        failed, total = self.failed_packets, self.failed_packets + self.decoded_packets
        if failed > self.decoded_packets:
            message = f"the file is damaged: {failed} of the {total} packets of its audio cannot be decoded"
            raise MediaUnreadable(message, detail=reason)
