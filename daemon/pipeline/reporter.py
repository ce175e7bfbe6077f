"""How a pipeline tells its runner where a job stands, and learns that the job was given up."""

from typing import Protocol


class Reporter(Protocol):
    """What the runner process hands to a pipeline with each job."""

    def progress(self, stage: str, fraction: float) -> None:
        """`fraction` (0 to 1) of the stage is done; also the sign of life that the stall deadline waits for."""

    def stage_done(self, stage: str, seconds: float) -> None:
        """The stage ended after `seconds` of wall time."""

    def batch(self, chunks: int, room: int, gated: int, dismissed: int) -> None:
        """Whisper decoded a batch; what the numbers are stands with protocol.Batch."""

    def check_cancelled(self) -> None:
        """Raise errors.Interrupted if the job was given up. Called between batches and stages."""
