"""The recordings of `make accuracy`: what is measured on each, and in which rows of the tables it counts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import corpus, pauses
from bench.conversations import conversations
from bench.corpus import Recording

CALL, PAUSES, SILENCE, CONVERSATIONS = CORPORA = ("call", "pauses", "silence", "conversations")


@dataclass(frozen=True, slots=True)
class Case:
    corpus: str
    recording: Recording
    conditions: tuple[str, ...]
    knows_text: bool = True
    has_speakers: bool = True

    @property
    def name(self) -> str:
        """What --only selects by."""
        return f"{self.corpus}: {self.recording.name}"


def cases(diarization_data: Path | None) -> list[Case]:
    """Return all cases. Raises ValueError if the folder has no recordings."""
    return [*_call(), *_pauses(), *_silence(), *(_conversations(diarization_data) if diarization_data else ())]


def _call() -> Iterator[Case]:
    for recording in [*corpus.conditions(), corpus.long_call()]:
        yield Case(CALL, recording, (recording.name,))


def _pauses() -> Iterator[Case]:
    for language in pauses.VOICES:
        for recording in pauses.alone(language):
            yield Case(PAUSES, recording, (pauses.ALONE,), has_speakers=False)
    for row, seconds in enumerate(pauses.PAUSES_SECONDS):
        for column, language in enumerate(pauses.VOICES):
            recording = pauses.with_pauses(language, seconds, is_noisy=(row + column) % 2 == 1)
            conditions = (pauses.pause_name(seconds), f"all pauses, {language}", "all pauses")
            yield Case(PAUSES, recording, conditions, has_speakers=False)


def _silence() -> Iterator[Case]:
    for recording in corpus.without_speech():
        yield Case(SILENCE, recording, (recording.name,), has_speakers=False)


def _conversations(folder: Path) -> Iterator[Case]:
    for name, recordings in conversations(folder).items():
        for recording in recordings:
            yield Case(CONVERSATIONS, recording, (name,), knows_text=False)
