"""How a pipeline tells its runner where a job stands, and learns that the job was given up."""

from typing import Protocol


class Reporter(Protocol):
    """What the runner process hands to a pipeline with each job."""

    def progress(self, stage: str, fraction: float) -> None:
        """`fraction` (0 to 1) of the stage is done; also the sign of life that the stall deadline waits for."""

    def stage_done(self, stage: str, seconds: float) -> None:
        """The stage ended after `seconds` of wall time."""

    def batch(self, chunks: int, room: int) -> None:
        """Whisper decoded so many chunks at once where `room` fit, of this job and of others."""

    def heard(self, chunks: int, gated: int, dismissed: int) -> None:
        """So many chunks of the job are decoded; what the numbers are stands with protocol.Heard."""

    def alive(self) -> None:
        """The job waits for others. Called ten times a second."""

    def check_cancelled(self) -> None:
        """Raise errors.Interrupted if the job was given up. Called between batches and stages."""


class Nobody:
    """A reporter that tells nobody, of work that is no job's."""

    def progress(self, stage: str, fraction: float) -> None: ...

    def stage_done(self, stage: str, seconds: float) -> None: ...

    def batch(self, chunks: int, room: int) -> None: ...

    def heard(self, chunks: int, gated: int, dismissed: int) -> None: ...

    def alive(self) -> None: ...

    def check_cancelled(self) -> None: ...
