"""The part of a recording that a job wants. Times are seconds from the start of the recording."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clip:
    """From `start_seconds` to `end_seconds`, or to the end of the recording."""

    start_seconds: float = 0.0
    end_seconds: float | None = None


WHOLE = Clip()
