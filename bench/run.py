"""The result of one peer on a set of recordings: speed, accuracy and resource usage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from bench.corpus import Recording
from bench.gpu_watch import GpuUse
from bench.hypothesis import Hypothesis, turns_error
from bench.measures import word_error_rate
from bench.usage import ProcessWatch


@dataclass(frozen=True, slots=True)
class File:
    name: str
    audio_seconds: float
    wall_seconds: float | None = None  # None if files are processed concurrently


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    files: list[File]
    began: float  # on the monotonic clock, which all processes share
    wall_seconds: float
    threads: int
    processor_seconds: float  # of all computing processes
    busy_seconds: float | None  # with a recording in the models; None if the peer does not report it
    model_seconds: float | None  # part of it, by the processes that hold the models; None if there are no others
    peak_bytes: int  # resident memory
    stage_seconds: dict[str, float]  # empty if the peer does not report it
    wer: float  # over all words
    der: float | None  # of the segments, over all speech; None if the peer reports no speakers

    @classmethod
    def of(
        cls,
        recordings: Sequence[Recording],
        hypotheses: Sequence[Hypothesis],
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
        """Aggregate the measurements of a run.

        `watches` are of processes that worked one after the other, `model_watches` of their children that hold the
        models, if others do the rest. `file_seconds` and `stages` are per file, or empty.
        """
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
                [each.text for each in hypotheses],
            ),
            der=_diarization_error(recordings, hypotheses) if tells_speakers else None,
        )

    @property
    def audio_seconds(self) -> float:
        return sum(file.audio_seconds for file in self.files)

    @property
    def speed(self) -> float:
        """Audio seconds per wall-clock second."""
        return self.audio_seconds / self.wall_seconds

    @property
    def slot_idle(self) -> float | None:
        """Share of the time with no recording in the models."""
        return None if self.busy_seconds is None else max(0.0, 1 - self.busy_seconds / self.wall_seconds)

    @property
    def processors_idle(self) -> float:
        """Unused share of the processor time available to the threads; 0 if helper processes used more."""
        return max(0.0, 1 - self.processor_seconds / (self.wall_seconds * self.threads))

    @property
    def daemon_share(self) -> float | None:
        """Share of the processor time that the daemon adds to computing."""
        return None if self.model_seconds is None else 1 - self.model_seconds / self.processor_seconds

    def speed_on(self, names: Sequence[str]) -> float:
        """Return the speed on some of the files. Raises ValueError if files were processed concurrently or one is
        missing."""
        walls = {file.name: file.wall_seconds for file in self.files}
        seconds = [wall for name in names if (wall := walls.get(name)) is not None]
        if len(seconds) < len(names):
            raise ValueError("not all of these files were timed separately in this run")
        return sum(file.audio_seconds for file in self.files if file.name in names) / sum(seconds)


@dataclass(frozen=True, slots=True)
class Row:
    """A run with its corpus, peer and repetition."""

    corpus: str
    files: int  # of the corpus; a peer may have had only some of them
    repetition: int
    peer: str
    run: Run
    gpu: GpuUse | None = None  # None without a GPU


def _added(stages: Sequence[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for each in stages:
        for stage, seconds in each.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _diarization_error(recordings: Sequence[Recording], hypotheses: Sequence[Hypothesis]) -> float:
    errors = [
        turns_error(recording, each.segment_turns()) for recording, each in zip(recordings, hypotheses, strict=True)
    ]
    spoken = [sum(turn.end - turn.start for turn in recording.turns) for recording in recordings]
    return float(np.average(errors, weights=spoken))
