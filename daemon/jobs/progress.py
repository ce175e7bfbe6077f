"""Progress of a delivery and an estimate of its remaining time, or None without enough data. Pure."""

from collections import deque
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median

from daemon.protocol.events import STAGES
from daemon.schema.options import JobOptions

# The steps of a job that count for its overall progress, in order, with their usual share of its time. The shares of
# the runner's stages come from docs/performance.md, until jobs have finished here.
USUAL_SHARES = {"download": 2.0, "decode": 2.0, "vad": 16.0, "asr": 54.0, "align": 5.0, "diarize": 20.0, "publish": 1.0}
STEPS = tuple(USUAL_SHARES)
BACKGROUND = "diarize"  # runs in parallel with the stages that produce the words

# How much of a stage must be measured before its speed is extrapolated.
MIN_SHARE = 0.05
MIN_SECONDS = 2.0
# Only recordings whose lengths differ by less than this factor are compared: speed depends on length.
SIMILAR = 4.0
MAX_FINISHED = 100


def planned_stages(options: JobOptions) -> tuple[str, ...]:
    """Return the runner's stages that a job with these options has."""
    kept = options.words_of is not None
    skipped = {"vad": kept, "asr": kept, "align": kept or options.align == "off", "diarize": not options.diarize}
    return tuple(stage for stage in STAGES if not skipped.get(stage, False))


@dataclass(frozen=True, slots=True)
class ProgressView:
    """Progress as users see it: the same values on the status page, in events and in status.json."""

    stage: str
    fraction: float | None  # of the stage; None if unknown
    overall_fraction: float  # never decreases during an attempt
    remaining_seconds: float | None  # an estimate; None if unknown


@dataclass(slots=True)
class StageProgress:
    """Progress of one runner stage. `origin` is the fraction without a measured time, such as restored checkpoints."""

    origin: float
    fraction: float
    reported_at: float
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
    passed: frozenset[str] = frozenset()  # steps that are over, done or skipped
    overall_fraction: float = 0.0  # the highest so far

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
        if stage == "wait":
            self.passed = frozenset(("download", "decode"))
        elif stage in STEPS:
            self.passed = frozenset(STEPS[: STEPS.index(stage)])

    def report(self, stage: str, fraction: float, now: float) -> None:
        """Record the progress that the runner reported for the current stage."""
        self._report(stage, fraction, now, timed=stage == self.stage)
        self.stage, self.reported_at = stage, now

    def report_background(self, stage: str, fraction: float, now: float) -> None:
        """Record the progress of a stage that runs in parallel with the current one."""
        self._report(stage, fraction, now, timed=True)

    def _report(self, stage: str, fraction: float, now: float, *, timed: bool) -> None:
        stage_progress = self.stages.get(stage)
        if stage_progress is None:
            if stage in STAGES:
                self.stages[stage] = StageProgress(fraction, fraction, now)
            return
        done = max(0.0, fraction - stage_progress.fraction)
        if timed:
            stage_progress.seconds += now - stage_progress.reported_at
        else:
            stage_progress.origin += done  # resumed after another stage, as with channels: the time is unknown
        stage_progress.fraction += done
        stage_progress.reported_at = now

    def visible(self, planned: Collection[str]) -> tuple[str, float | None]:
        """Return the stage to show and its fraction: never a finished stage while there is another one to finish."""
        if self.stage not in self.stages or self._done(self.stage) < 1:
            return self.stage, self.fraction
        for stage in planned:
            if (done := self._done(stage)) < 1 and STAGES.index(stage) > STAGES.index(self.stage):
                return stage, done
        return "publish", None

    def raise_overall(self, shares: Mapping[str, float], planned: Collection[str]) -> float:
        """Return the fraction of the whole job, with each step's share of its time. It never decreases."""
        steps = [step for step in STEPS if step in planned or step not in STAGES]
        whole = sum(shares[step] for step in steps)
        done = sum(shares[step] * self._done(step) for step in steps)
        self.overall_fraction = min(1.0, max(self.overall_fraction, done / whole if whole > 0 else 0.0))
        return self.overall_fraction

    def _done(self, step: str) -> float:
        if step in self.passed:
            return 1.0
        return self.stages[step].fraction if step in self.stages else 0.0


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
            timings = {stage: seconds for stage, seconds in timings_seconds.items() if stage in STEPS}
            self._finished.append(_Finished(kind, audio_seconds, timings))

    def view(self, kind: Hashable, progress: JobProgress, planned: Collection[str], now: float) -> ProgressView:
        """Return the progress of a delivery whose job has these stages in the runner."""
        stage, fraction = progress.visible(planned)
        overall = progress.raise_overall(self._shares(kind, progress.audio_seconds), planned)
        return ProgressView(stage, fraction, overall, self.remaining_seconds(kind, progress, now, planned))

    def remaining_seconds(
        self, kind: Hashable, progress: JobProgress, now: float, planned: Collection[str] = STAGES
    ) -> float | None:
        """Estimate the runner's remaining time for the job.

        Uses each stage's own speed once it is measured, otherwise the speed of similar jobs. Returns None if a stage has
        neither, before the runner starts the job, and when the estimate has passed.
        """
        if progress.stage not in STAGES or progress.audio_seconds is None:
            return None
        left = dict.fromkeys(STAGES, 0.0)
        for stage in planned:
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
            left[stage] = whole * (1 - fraction)
        beside = left.pop(BACKGROUND)
        seconds = left.pop("vad") + max(sum(left.values()), beside) - (now - progress.reported_at)
        return seconds if seconds > 0 else None

    def _shares(self, kind: Hashable, audio_seconds: float | None) -> Mapping[str, float]:
        """Return each step's share of the time: as in similar jobs, or as usual without any."""
        if audio_seconds is None:
            return USUAL_SHARES
        typical = {step: self._typical_seconds(kind, step, audio_seconds) or 0.0 for step in STEPS}
        return typical if typical["asr"] > 0 else USUAL_SHARES  # 0 if there are none, or most had no speech

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
