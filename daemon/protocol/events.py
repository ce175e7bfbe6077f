"""Events that the pipeline reports about a job.

To add a measurement, add its class and its name in `PipelineEvent` here, emit it in the pipeline, and handle it in
jobs/runner_events.py, where mypy requires every member of `PipelineEvent`. The layers in between pass events unchanged.
"""

from dataclasses import dataclass

# The stages of a job in the runner, in order. Progress and timings refer to them.
STAGES = ("vad", "asr", "align", "diarize")


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` (0 to 1) of the stage is done. Also resets the stall deadline."""

    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class BackgroundProgress:
    """`fraction` (0 to 1) of a stage that runs beside the current one is done. No sign of life of the current stage."""

    stage: str
    fraction: float


@dataclass(frozen=True, slots=True)
class JobWaiting:
    """The job waits for other jobs. Resets the stall deadline without progress."""


@dataclass(frozen=True, slots=True)
class StageDone:
    """The stage ended after `seconds` of wall time."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchDecoded:
    """Whisper decoded `chunks` chunks, from any jobs, in one batch of size `capacity`. Emitted by one of these jobs."""

    chunks: int
    capacity: int


@dataclass(frozen=True, slots=True)
class ChunksFiltered:
    """Whisper decoded `chunks` chunks of the job. The filters rejected `rejected` of them as non-speech, and also
    `rescan_rejected` chunks from the rescan of audio that speech detection had left out."""

    chunks: int
    rejected: int
    rescan_rejected: int


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """The file `name` in the job's checkpoint folder is complete and can be uploaded."""

    name: str


PipelineEvent = Progress | BackgroundProgress | JobWaiting | StageDone | BatchDecoded | ChunksFiltered | CheckpointSaved
