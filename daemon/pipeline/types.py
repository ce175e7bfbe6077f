"""Types that the stages pass to each other. All times are seconds from the start of the recording."""

from dataclasses import dataclass, field, replace

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span that Whisper decodes at once, with the speech regions inside it: at most 30 s, in which the long pauses
    between regions count as shortened (speech/shortened.py).

    A doubtful chunk was missed by speech detection and found by the coverage check. A chunk with a language is speech
    that the text of a longer chunk, in that language, left out.
    """

    start: float
    end: float
    regions: tuple[tuple[float, float], ...]
    doubtful: bool = False
    language: str | None = None

    @property
    def speech_seconds(self) -> float:
        return sum(end - start for start, end in self.regions)

    def part(self, start: float, end: float) -> "Chunk":
        """Return the part from start to end, with its share of the regions."""
        clipped = ((max(begin, start), min(stop, end)) for begin, stop in self.regions)
        return replace(
            self, start=start, end=end, regions=tuple((begin, stop) for begin, stop in clipped if begin < stop)
        )


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word with its leading space, if any, so that joining the words restores the text."""

    text: str
    start: float
    end: float
    score: float | None
    speaker: str | None = None
    overlap: bool | None = None  # whether another speaker talks at the same time; None without diarization


@dataclass(slots=True)
class Passage:
    """The text that Whisper recognized in one chunk, and the language code it was decoded in.

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
    """A span in which one speaker talks. The label is valid within this recording only."""

    start: float
    end: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Diarization:
    """Speaker turns. `voices` holds a unit-length embedding for each speaker with enough speech to compute one."""

    turns: list[Turn]  # overlap where speakers overlap
    exclusive: list[Turn]  # never overlap: the speaker that a transcription most likely follows
    voices: dict[str, list[float]]
