"""What the stages hand to each other. All times are seconds from the start of the recording."""

from dataclasses import dataclass, field

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of at most 30 s that Whisper decodes in one go, and the regions of speech inside it.

    A doubtful one was passed over by speech detection and found by the coverage check.
    """

    start: float
    end: float
    regions: tuple[tuple[float, float], ...]
    doubtful: bool = False

    @property
    def speech_seconds(self) -> float:
        return sum(end - start for start, end in self.regions)


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word with the space before it, if there is one, so that joining words gives the text back."""

    text: str
    start: float
    end: float
    score: float | None
    speaker: str | None = None
    overlap: bool | None = None  # whether somebody else speaks too; None without diarization


@dataclass(slots=True)
class Passage:
    """What Whisper understood in one chunk, and the code of the language it took it for.

    `words` is empty until the passage is aligned.
    """

    chunk: Chunk
    text: str
    avg_logprob: float | None
    language: str = field(kw_only=True)
    tokens: list[int] = field(default_factory=list)
    words: list[TimedWord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one speaker speaks; the label means nothing outside this recording."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Diarization:
    """Who speaks when. `voices` holds an embedding of unit length for each speaker of whom there was enough to hear."""

    turns: list[Turn]  # where speakers overlap, so do their turns
    exclusive: list[Turn]  # one speaker at a time, the one a transcription most likely follows
    voices: dict[str, list[float]]
