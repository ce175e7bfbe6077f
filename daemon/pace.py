"""How far a delivery has come, and how long the rest may take: an estimate, or nothing where it would be a guess. Pure."""

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median

from daemon.protocol import STAGES

# What a stage's own reports must span before its speed counts for the rest of it.
MIN_SHARE = 0.05
MIN_SECONDS = 2.0
# What short recordings cost says little of long ones: only those within this factor are compared.
SIMILAR = 4.0
MAX_FINISHED = 100


@dataclass(slots=True)
class Share:
    """What one stage of the runner reported. `origin` was done before its time could be measured, say from a checkpoint."""

    origin: float
    fraction: float
    seconds: float = 0.0  # spent on `fraction` − `origin`

    @property
    def whole_seconds(self) -> float | None:
        """What all of the stage takes at this speed; None as long as too little of it was seen."""
        seen = self.fraction - self.origin
        return self.seconds / seen if seen >= MIN_SHARE and self.seconds >= MIN_SECONDS else None


@dataclass(slots=True)
class Course:
    """The stages of one delivery. `now` is monotonic time."""

    stage: str = "check"  # what is being done
    audio_seconds: float | None = None  # once the recording was decoded
    shares: dict[str, Share] = field(default_factory=dict)  # of the runner's stages
    reported_at: float = 0.0

    @property
    def fraction(self) -> float | None:
        """How much of the stage is done (0 to 1); None where nothing tells."""
        share = self.shares.get(self.stage)
        return share.fraction if share else None

    @property
    def left_share(self) -> float:
        """Share of the runner's work that is left, each stage counted alike; one that the job does without, until its end."""
        return 1 - sum(share.fraction for share in self.shares.values()) / len(STAGES)

    def enter(self, stage: str) -> None:
        self.stage = stage

    def report(self, stage: str, fraction: float, now: float) -> None:
        """The runner has come so far with one of its stages."""
        share = self.shares.get(stage)
        if share is None:
            if stage in STAGES:
                self.shares[stage] = Share(fraction, fraction)
        else:
            done = max(0.0, fraction - share.fraction)
            if stage == self.stage:
                share.seconds += now - self.reported_at
            else:
                share.origin += done  # it comes back after others, as channels do: what this took is not known
            share.fraction += done
        self.stage, self.reported_at = stage, now


@dataclass(frozen=True, slots=True)
class _Finished:
    kind: Hashable
    audio_seconds: float
    timings_seconds: dict[str, float]


class Pace:
    """What the stages of the last finished jobs took. Bounded."""

    def __init__(self) -> None:
        self._finished: deque[_Finished] = deque(maxlen=MAX_FINISHED)

    def learn(self, kind: Hashable, audio_seconds: float, timings_seconds: Mapping[str, float]) -> None:
        """A job was done from its beginning. Jobs of one `kind` have the options in common that cost time."""
        if audio_seconds > 0:
            timings = {stage: seconds for stage, seconds in timings_seconds.items() if stage in STAGES}
            self._finished.append(_Finished(kind, audio_seconds, timings))

    def left_seconds(self, kind: Hashable, course: Course, now: float) -> float | None:
        """How long the runner may still take. A stage counts at its own speed once it has shown one, else at that of
        similar jobs; None when a stage has neither, before the runner has begun, and when the estimate has run out.
        """
        if course.stage not in STAGES or course.audio_seconds is None:
            return None
        left = 0.0
        for stage in STAGES:
            share = course.shares.get(stage)
            if share is None and STAGES.index(stage) < STAGES.index(course.stage):
                continue  # this job does without it
            fraction = share.fraction if share else 0.0
            if fraction >= 1:
                continue
            whole = share.whole_seconds if share else None
            if whole is None:
                whole = self._usual_seconds(kind, stage, course.audio_seconds)
            if whole is None:
                return None
            left += whole * (1 - fraction)
        left -= now - course.reported_at
        return left if left > 0 else None

    def _usual_seconds(self, kind: Hashable, stage: str, audio_seconds: float) -> float | None:
        """What the stage takes, going by jobs of the kind with recordings of about this length; None without any."""
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
