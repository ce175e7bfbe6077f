"""Part of the decoder process: summarize which parts of a recording were read and which were not."""

from typing import Any

from av.stream import Disposition

from daemon.errors import TranscriptdError
from daemon.media.mixing import USUAL, Mix
from daemon.media.reading import Reader

FAILED_SECONDS = 1.0  # less damage than this is not worth a warning
NAMED = 3  # jumps listed in a warning


class Recording:
    """The parts of a recording that were read; most recordings have one."""

    def __init__(self) -> None:
        self._container: dict[str, Any] | None = None  # of the first part
        self._errors: list[TranscriptdError] = []  # of the parts that could not be read
        self._parts = 0
        self._missing_seconds = self._failed_seconds = 0.0
        self._stopped = False
        self._cut_unit: str | None = None
        self._mix = USUAL
        self._track: int | None = None  # used in place of the first, silent one
        self._jumps: list[tuple[float, float]] = []

    def add(
        self, reader: Reader, jumps: list[tuple[float, float]], missing_seconds: float, cut_unit: str | None
    ) -> None:
        """Add a part that was read to its end, or as far as necessary or possible.

        `missing_seconds` are those that should follow; `cut_unit` is the unit of its format inside which it ends, if any.
        """
        self._parts += 1
        self._missing_seconds += missing_seconds
        self._failed_seconds += reader.failed_seconds
        self._stopped |= reader.stopped is not None
        self._cut_unit = self._cut_unit or cut_unit
        self._jumps += jumps
        if not self._container:
            video = reader.container.streams.video
            self._container = {
                "container": reader.container.format.name,
                "codec": reader.stream.codec_context.name,
                "tracks": len(reader.container.streams.audio),
                "has_video": any(not stream.disposition & Disposition.attached_pic for stream in video),
            }

    def mixed(self, mix: Mix) -> None:
        """Note that the usual mix was not used."""
        self._mix = mix

    def changed_track(self, track: int) -> None:
        """Note that this audio stream, counted from 0, was used because the first one is silent."""
        self._track = track

    def add_unreadable(self, error: TranscriptdError) -> None:
        self._errors.append(error)

    def summary(self) -> dict[str, Any]:
        """Return container, codec, tracks and has_video. Raises the error of the first part if no part could be read."""
        if not self._container:
            raise self._errors[0]
        return self._container

    def warnings(self, seconds: float) -> list[dict[str, str]]:
        """Return the warnings about a recording of which this many seconds were decoded."""
        found = []
        if problems := self._problems(seconds):
            found.append(
                {"code": "media_incomplete", "message": f"{seconds:.1f} s were decoded; {'; '.join(problems)}"}
            )
        if self._jumps:
            named = ", ".join(f"{length:.0f} s at {position:.1f} s" for position, length in self._jumps[:NAMED])
            more = f" and {len(self._jumps) - NAMED} more" if len(self._jumps) > NAMED else ""
            message = f"the timestamps jump forward by {named}{more}; no silence was inserted there"
            found.append(
                {"code": "timestamps_jump", "message": f"{message}, so later times may differ from a player's"}
            )
        if self._mix.reason:
            found.append({"code": "channels_mixed_differently", "message": self._mix.reason})
        if self._track is not None and self._container:
            message = (
                f"the first of the {self._container['tracks']} audio streams is silent: number {self._track} was used"
            )
            found.append(
                {
                    "code": "audio_track_changed",
                    "message": f"{message}, counted from 0; options.audio_track selects one",
                }
            )
        return found

    def _problems(self, seconds: float) -> list[str]:
        problems = []
        if self._missing_seconds:
            declared = seconds + self._missing_seconds
            problems.append(f"the file declares {declared:.1f} s: it is cut off or damaged")
        elif self._stopped:
            problems.append("reading stopped there at an error: the file is cut off or damaged")
        elif self._cut_unit:
            problems.append(f"the file ends inside a {self._cut_unit}: it is cut off, and does not say how long it was")
        if self._errors:
            total = len(self._errors) + self._parts
            reason = self._errors[0].message
            problems.append(f"{len(self._errors)} of its {total} parts cannot be read ({reason})")
        if self._failed_seconds >= FAILED_SECONDS:
            problems.append(f"{self._failed_seconds:.1f} s of sound are damaged and were left out")
        return problems
