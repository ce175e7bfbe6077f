"""A subtitle cue, and what every format needs to write one."""

from collections.abc import Callable
from dataclasses import dataclass

from daemon.outputs.utterances import SpokenWord


@dataclass(frozen=True, slots=True)
class Cue:
    """What is on the screen from `start_ms` to `end_ms`.

    `label` names the speaker before the first line where the name is due, and is empty elsewhere; no line is empty.
    """

    start_ms: int
    end_ms: int
    speaker: str | None
    label: str
    lines: list[list[SpokenWord]]

    @property
    def words(self) -> list[SpokenWord]:
        return [word for line in self.lines for word in line]


def spell(cue: Cue, spell_word: Callable[[SpokenWord], str], line_break: str = "\n") -> str:
    """The cue's lines without the label, each word spelt by the rules of a format."""
    return line_break.join(
        "".join(" " * (word.space_before and index > 0) + spell_word(word) for index, word in enumerate(line))
        for line in cue.lines
    )


def word_times(cue: Cue) -> list[tuple[SpokenWord, int, int]]:
    """The words with the part of the cue's time, without gaps, in which each is the one to highlight; it may be none."""
    later = [min(max(word.start_ms, cue.start_ms), cue.end_ms) for word in cue.words[1:]]
    return list(zip(cue.words, [cue.start_ms, *later], [*later, cue.end_ms], strict=True))


def frames(cue: Cue, highlight_words: bool) -> list[tuple[int, int, SpokenWord | None]]:
    """The cue as (start_ms, end_ms, word to highlight): shown once, or once for each of its words."""
    if not highlight_words:
        return [(cue.start_ms, cue.end_ms, None)]
    return [(start_ms, end_ms, word) for word, start_ms, end_ms in word_times(cue) if end_ms > start_ms]


def stamp(milliseconds: int, decimal_mark: str) -> str:
    """`HH:MM:SS.mmm`; hours run on past 99."""
    seconds, millisecond = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{decimal_mark}{millisecond:03}"
