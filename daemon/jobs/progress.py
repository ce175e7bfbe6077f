"""Progress of a delivery and an estimate of its remaining time, or None without enough data. Pure."""

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median

from daemon.protocol.events import STAGES

# How much of a stage must be measured before its speed is extrapolated.
MIN_SHARE = 0.05
MIN_SECONDS = 2.0
# Only recordings whose lengths differ by less than this factor are compared: speed depends on length.
SIMILAR = 4.0
MAX_FINISHED = 100


@dataclass(slots=True)
class StageProgress:
    """Progress of one runner stage. `origin` is the fraction without a measured time, such as restored checkpoints."""

    origin: float
    fraction: float
    seconds: float = 0.0  # spent on `fraction` − `origin`

    @property
    def whole_seconds(self) -> float | None:
        """Estimated duration of the whole stage, or None if too little has been measured."""
        seen = self.fraction - self.origin
        return self.seconds / seen if seen >= MIN_SHARE and self.seconds >= MIN_SECONDS else None


@dataclass(slots=True)
class JobProgress:
    """The stages of one delivery. `now` is monotonic time."""

    stage: str = "check"  # the current stage
    audio_seconds: float | None = None  # set after decoding
    stages: dict[str, StageProgress] = field(default_factory=dict)  # the runner's stages
    reported_at: float = 0.0

    @property
    def fraction(self) -> float | None:
        """Fraction of the current stage that is done (0 to 1), or None if unknown."""
        stage_progress = self.stages.get(self.stage)
        return stage_progress.fraction if stage_progress else None

    @property
    def remaining_fraction(self) -> float:
        """Share of the runner's work that remains. All stages count equally; a skipped one counts until the job ends."""
        return 1 - sum(stage_progress.fraction for stage_progress in self.stages.values()) / len(STAGES)

    def enter(self, stage: str) -> None:
        self.stage = stage

    def report(self, stage: str, fraction: float, now: float) -> None:
        """Record the progress that the runner reported for a stage."""
        stage_progress = self.stages.get(stage)
        if stage_progress is None:
            if stage in STAGES:
                self.stages[stage] = StageProgress(fraction, fraction)
        else:
            done = max(0.0, fraction - stage_progress.fraction)
            if stage == self.stage:
                stage_progress.seconds += now - self.reported_at
            else:
                stage_progress.origin += done  # resumed after another stage, as with channels: the time is unknown
            stage_progress.fraction += done
        self.stage, self.reported_at = stage, now


@dataclass(frozen=True, slots=True)
class _Finished:
    kind: Hashable
    audio_seconds: float
    timings_seconds: dict[str, float]


class DurationEstimator:
    """Stage durations of the last finished jobs. Bounded."""

    def __init__(self) -> None:
        self._finished: deque[_Finished] = deque(maxlen=MAX_FINISHED)

    def record(self, kind: Hashable, audio_seconds: float, timings_seconds: Mapping[str, float]) -> None:
        """Record a job that ran from its start. Jobs of one `kind` share the options that affect duration."""
        if audio_seconds > 0:
            timings = {stage: seconds for stage, seconds in timings_seconds.items() if stage in STAGES}
            self._finished.append(_Finished(kind, audio_seconds, timings))

    def remaining_seconds(self, kind: Hashable, progress: JobProgress, now: float) -> float | None:
        """Estimate the runner's remaining time for the job.

        Uses each stage's own speed once it is measured, otherwise the speed of similar jobs. Returns None if a stage has
        neither, before the runner starts the job, and when the estimate has passed.
        """
        if progress.stage not in STAGES or progress.audio_seconds is None:
            return None
        left = 0.0
        for stage in STAGES:
            stage_progress = progress.stages.get(stage)
            if stage_progress is None and STAGES.index(stage) < STAGES.index(progress.stage):
                continue  # the job skips this stage
            fraction = stage_progress.fraction if stage_progress else 0.0
            if fraction >= 1:
                continue
            whole = stage_progress.whole_seconds if stage_progress else None
            if whole is None:
                whole = self._typical_seconds(kind, stage, progress.audio_seconds)
            if whole is None:
                return None
            left += whole * (1 - fraction)
        left -= now - progress.reported_at
        return left if left > 0 else None

    def _typical_seconds(self, kind: Hashable, stage: str, audio_seconds: float) -> float | None:
        """Estimate the stage's duration from jobs of the same kind and similar length, or None without any."""
        rates = (
            [
                each.timings_seconds.get(stage, 0.0) / each.audio_seconds
                for each in self._finished
                if each.kind == kind and 1 / SIMILAR <= each.audio_seconds / audio_seconds <= SIMILAR
            ]
            if audio_seconds > 0
            else []
        )
        return median(rates) * audio_seconds if rates else None
