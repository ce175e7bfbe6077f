"""Contents of checkpoints, and validation of restored ones.

A checkpoint may come from outside this machine, so it is validated; one that does not match counts as absent. Times are
stored unrounded, so that a resumed job produces exactly the transcript of an uninterrupted one.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.types import Chunk, Diarization, Passage, TimedWord, Turn
from daemon.schema.transcript import TranscriptWarning

log = logging.getLogger("transcriptd.pipeline.saved")

TEXT_TOKENS = 50_257  # special tokens follow; CTranslate2 must not receive an ID beyond its vocabulary

Time = Annotated[float, Field(ge=0)]
Token = Annotated[int, Field(ge=0, lt=TEXT_TOKENS)]
SavedWord = tuple[str, Time, Time, float | None]  # text, start, end, score
SavedTurn = tuple[float, float, str]  # start, end, label


class _Saved(BaseModel):
    """Validated on reading, but not on writing (`model_construct`): a job must not fail because of a checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SavedPassage(_Saved):
    start: Time
    end: Time
    text: str
    language: str
    avg_logprob: float | None
    tokens: list[Token]
    words: list[SavedWord]


class SavedChunk(_Saved):
    start: Time
    end: Time
    passages: list[SavedPassage]

    def fits(self, chunk: Chunk) -> bool:
        return (self.start, self.end) == (chunk.start, chunk.end) and all(
            chunk.start <= passage.start <= passage.end <= chunk.end
            and _lie_within(passage.words, passage.start, passage.end)
            for passage in self.passages
        )


class SavedGroup(_Saved):
    """Transcription of a group of chunks, including silent ones: `asr-00000.json`, `plain-00000.json`."""

    language: str  # of the recording; a passage may be in another one
    compute_type: str
    with_words: bool  # timed by attention; otherwise words are added later or not at all
    chunks: list[SavedChunk]  # a resumed job repeats speech detection and must find the same chunks
    unrecognized: list[tuple[Time, Time]]  # detected speech without text
    warnings: list[TranscriptWarning]

    @classmethod
    def of(
        cls,
        chunks: Sequence[Chunk],
        passages: Sequence[Sequence[Passage]],
        unrecognized: list[tuple[float, float]],
        *,
        language: str,
        compute_type: str,
        with_words: bool,
        warnings: list[TranscriptWarning],
    ) -> "SavedGroup":
        """Build the checkpoint. `passages` holds the list of passages of each chunk."""
        return cls.model_construct(
            language=language,
            compute_type=compute_type,
            with_words=with_words,
            chunks=[
                SavedChunk.model_construct(
                    start=chunk.start, end=chunk.end, passages=[_saved_passage(passage) for passage in found]
                )
                for chunk, found in zip(chunks, passages, strict=True)
            ],
            unrecognized=unrecognized,
            warnings=warnings,
        )

    def fits(self, chunks: Sequence[Chunk]) -> bool:
        """Whether the checkpoint belongs to these chunks."""
        return len(self.chunks) == len(chunks) and all(
            saved.fits(chunk) for saved, chunk in zip(self.chunks, chunks, strict=True)
        )

    def restore(self, chunks: Sequence[Chunk]) -> list[list[Passage]]:
        """Return the passages of each chunk."""
        return [
            [
                Passage(
                    chunk.part(passage.start, passage.end),
                    passage.text,
                    passage.avg_logprob,
                    list(passage.tokens),
                    _words(passage.words),
                    language=passage.language,
                )
                for passage in saved.passages
            ]
            for saved, chunk in zip(self.chunks, chunks, strict=True)
        ]


class SavedWords(_Saved):
    """Words of a group's passages, timed after recognition. A passage that could not be aligned has none.

    Named `align-asr-00000.json`, or `attend-asr-00000.json` if attention timed them because wav2vec2 had failed.
    """

    aligner: str
    passages: list[list[SavedWord]]
    warnings: list[TranscriptWarning]

    @classmethod
    def of(cls, aligner: str, passages: Sequence[Passage], warnings: list[TranscriptWarning]) -> "SavedWords":
        return cls.model_construct(
            aligner=aligner, passages=[_saved_words(passage.words) for passage in passages], warnings=warnings
        )

    def fits(self, passages: Sequence[Passage]) -> bool:
        """Whether the checkpoint belongs to these passages."""
        return len(self.passages) == len(passages) and all(
            "".join(word[0] for word in words) in ("", passage.text)
            and _lie_within(words, passage.chunk.start, passage.chunk.end)
            for words, passage in zip(self.passages, passages, strict=True)
        )

    def restore(self, passages: Sequence[Passage]) -> None:
        for words, passage in zip(self.passages, passages, strict=True):
            passage.words = _words(words)


class SavedTurns(_Saved):
    """Speaker turns: `diarize.json`."""

    diarizer: str
    turns: list[SavedTurn]
    exclusive: list[SavedTurn]
    voices: dict[str, list[float]]
    warnings: list[TranscriptWarning]

    @classmethod
    def of(cls, diarizer: str, found: Diarization, warnings: list[TranscriptWarning]) -> "SavedTurns":
        return cls.model_construct(
            diarizer=diarizer,
            turns=_saved_turns(found.turns),
            exclusive=_saved_turns(found.exclusive),
            voices=found.voices,
            warnings=warnings,
        )

    def fits(self) -> bool:
        return all(start <= end for start, end, _ in (*self.turns, *self.exclusive))

    def restore(self) -> Diarization:
        turns, exclusive = ([Turn(*turn) for turn in saved] for saved in (self.turns, self.exclusive))
        return Diarization(turns, exclusive, self.voices)


def save(checkpoints: Checkpoints, name: str, part: SavedGroup | SavedWords | SavedTurns) -> None:
    checkpoints.save(name, part.model_dump(mode="json"))


S = TypeVar("S", SavedGroup, SavedWords, SavedTurns)


def load(checkpoints: Checkpoints, name: str, shape: type[S], fits: Callable[[S], bool]) -> S | None:
    """Load the named checkpoint; None if there is none that matches. Never logs its content."""
    data = checkpoints.load(name)
    if data is None:
        return None
    try:
        found = shape.model_validate(data)
    except ValidationError:
        log.warning("checkpoint invalid, part will be repeated", extra={"checkpoint": name})
        return None
    if not fits(found):
        log.warning("checkpoint does not match the job, part will be repeated", extra={"checkpoint": name})
        return None
    return found


def _saved_passage(passage: Passage) -> SavedPassage:
    return SavedPassage.model_construct(
        start=passage.chunk.start,
        end=passage.chunk.end,
        text=passage.text,
        language=passage.language,
        avg_logprob=passage.avg_logprob,
        tokens=passage.tokens,
        words=_saved_words(passage.words),
    )


def _saved_words(words: Sequence[TimedWord]) -> list[SavedWord]:
    return [(word.text, word.start, word.end, word.score) for word in words]


def _saved_turns(turns: Iterable[Turn]) -> list[SavedTurn]:
    return [(turn.start, turn.end, turn.speaker) for turn in turns]


def _words(saved: Sequence[SavedWord]) -> list[TimedWord]:
    return [TimedWord(*word) for word in saved]


def _lie_within(words: Sequence[SavedWord], start: float, end: float) -> bool:
    """Whether the words lie between start and end, in order and without overlap."""
    times = [start, *(time for word in words for time in word[1:3]), end]
    return times == sorted(times)
