"""What one peer did with a set of recordings: how quickly, how well, and what it took of the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from bench.corpus import Recording
from bench.gpu_watch import GpuUse
from bench.scores import Heard, turns_error
from bench.usage import ProcessWatch
from daemon.pipeline.pieces import Turn
from tests.measures import word_error_rate


@dataclass(frozen=True, slots=True)
class File:
    name: str
    audio_seconds: float
    wall_seconds: float | None = None  # None where files are done side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    files: list[File]
    began: float  # of the monotonic clock, which all processes share
    wall_seconds: float
    threads: int
    processor_seconds: float  # of the computing processes together
    busy_seconds: float | None  # in which a recording was in the models; None where the peer does not tell
    model_seconds: float | None  # of these, by the processes that hold the models; None where no others help
    peak_bytes: int  # resident
    stage_seconds: dict[str, float]  # empty where the peer does not tell
    wer: float  # over all words
    der: float | None  # of the segments, over all speech; None where the peer tells no speakers

    @classmethod
    def of(
        cls,
        recordings: Sequence[Recording],
        heard: Sequence[Heard],
        watches: Sequence[ProcessWatch],
        *,
        began: float,
        wall_seconds: float,
        threads: int,
        file_seconds: Sequence[float] = (),
        busy_seconds: float | None = None,
        stages: Sequence[dict[str, float]] = (),
        model_watches: Sequence[ProcessWatch] = (),
        tells_speakers: bool = True,
    ) -> Self:
        """`watches`: of processes that worked one after the other. `file_seconds` and `stages`: file by file, or none.
        `model_watches`: of those of their children that hold the models, where others do the rest."""
        walls: Sequence[float | None] = file_seconds or [None] * len(recordings)
        return cls(
            files=[
                File(recording.name, recording.duration, wall)
                for recording, wall in zip(recordings, walls, strict=True)
            ],
            began=began,
            wall_seconds=wall_seconds,
            threads=threads,
            processor_seconds=sum(watch.processor_seconds for watch in watches),
            model_seconds=sum(watch.processor_seconds for watch in model_watches) if model_watches else None,
            busy_seconds=busy_seconds,
            peak_bytes=max(watch.peak_bytes for watch in watches),
            stage_seconds=_added(stages),
            wer=word_error_rate(
                [recording.text for recording in recordings],
                [" ".join(segment.text for segment in each.segments) for each in heard],
            ),
            der=_diarization_error(recordings, heard) if tells_speakers else None,
        )

    @property
    def audio_seconds(self) -> float:
        return sum(file.audio_seconds for file in self.files)

    @property
    def speed(self) -> float:
        """Audio seconds in a wall second."""
        return self.audio_seconds / self.wall_seconds

    @property
    def slot_idle(self) -> float | None:
        """Share of the time in which no recording was in the models."""
        return None if self.busy_seconds is None else max(0.0, 1 - self.busy_seconds / self.wall_seconds)

    @property
    def processors_idle(self) -> float:
        """Share of what the threads could have computed that was not; 0 where helpers' processors came on top."""
        return max(0.0, 1 - self.processor_seconds / (self.wall_seconds * self.threads))

    @property
    def daemon_share(self) -> float | None:
        """Of the processor time: what the daemon adds to computing."""
        return None if self.model_seconds is None else 1 - self.model_seconds / self.processor_seconds

    def speed_on(self, names: Sequence[str]) -> float:
        """Of some of the files alone. Raises ValueError where files were done side by side, or one was not among them."""
        walls = {file.name: file.wall_seconds for file in self.files}
        seconds = [wall for name in names if (wall := walls.get(name)) is not None]
        if len(seconds) < len(names):
            raise ValueError("not all of these files have a time of their own in this run")
        return sum(file.audio_seconds for file in self.files if file.name in names) / sum(seconds)


@dataclass(frozen=True, slots=True)
class Row:
    """A run and its place among the others."""

    corpus: str
    files: int  # of the corpus; a peer may have had a part of them
    repetition: int
    peer: str
    run: Run
    gpu: GpuUse | None = None  # None where no GPU is used


def _added(stages: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in stages:
        for stage, seconds in each.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _diarization_error(recordings: Sequence[Recording], heard: Sequence[Heard]) -> float:
    errors = [
        turns_error(recording, [Turn(s.start, s.end, s.speaker) for s in each.segments if s.speaker])
        for recording, each in zip(recordings, heard, strict=True)
    ]
    spoken = [sum(turn.end - turn.start for turn in recording.turns) for recording in recordings]
    return float(np.average(errors, weights=spoken))
