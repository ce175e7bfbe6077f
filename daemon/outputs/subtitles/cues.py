"""Subtitle cues, and helpers shared by the subtitle formats."""

from collections.abc import Callable
from dataclasses import dataclass

from daemon.outputs.subtitles.utterances import SpokenWord
from daemon.outputs.text import RIGHT_TO_LEFT_MARK, reads_right_to_left, starts_left_to_right

# Around a line that reads right to left. The mark sets the direction in players that derive it from the first letter,
# such as browsers. The embedding sets it in players that lay out every line left to right, such as libass and Kodi.
_RIGHT_TO_LEFT_START, _RIGHT_TO_LEFT_END = f"{RIGHT_TO_LEFT_MARK}\u202b", "\u202c"


@dataclass(frozen=True, slots=True)
class Cue:
    """Text shown from `start_ms` to `end_ms`.

    `label` is the speaker prefix of the first line, or empty if the cue needs none. No line is empty.
    """

    start_ms: int
    end_ms: int
    speaker: str | None
    label: str
    lines: list[list[SpokenWord]]

    @property
    def words(self) -> list[SpokenWord]:
        return [word for line in self.lines for word in line]


def spell(
    cue: Cue,
    spell_word: Callable[[SpokenWord], str],
    spell_label: Callable[[str], str] = str,
    line_break: str = "\n",
    always_embed: bool = False,
) -> str:
    """Join the cue's label and lines, rendered by `spell_label` and `spell_word`.

    A line that reads right to left gets direction marks if it starts with a letter of another script, as labels do, or
    always with `always_embed`: for players that derive no direction from the text. Marks have no width.
    """
    labels = [cue.label, *([""] * (len(cue.lines) - 1))]
    return line_break.join(
        _directed(_joined(line, spell_word), spell_label(label), label, line, always_embed)
        for label, line in zip(labels, cue.lines, strict=True)
    )


def _directed(spelled: str, spelled_label: str, label: str, line: list[SpokenWord], always_embed: bool) -> str:
    text = _joined(line, lambda word: word.text)
    if reads_right_to_left(text, line[0].language) and (always_embed or starts_left_to_right(label + text)):
        return _RIGHT_TO_LEFT_START + spelled_label + spelled + _RIGHT_TO_LEFT_END
    return spelled_label + spelled


def _joined(line: list[SpokenWord], spell_word: Callable[[SpokenWord], str]) -> str:
    return "".join(" " * (word.space_before and index > 0) + spell_word(word) for index, word in enumerate(line))


def word_times(cue: Cue) -> list[tuple[SpokenWord, int, int]]:
    """Divide the cue's time, without gaps, into the spans in which each word is highlighted. A span may be empty."""
    later = [min(max(word.start_ms, cue.start_ms), cue.end_ms) for word in cue.words[1:]]
    return list(zip(cue.words, [cue.start_ms, *later], [*later, cue.end_ms], strict=True))


def frames(cue: Cue, highlight_words: bool) -> list[tuple[int, int, SpokenWord | None]]:
    """Return (start_ms, end_ms, word to highlight) for each display of the cue: one, or one per highlighted word."""
    if not highlight_words:
        return [(cue.start_ms, cue.end_ms, None)]
    return [(start_ms, end_ms, word) for word, start_ms, end_ms in word_times(cue) if end_ms > start_ms]


def stamp(milliseconds: int, decimal_mark: str) -> str:
    """Format as `HH:MM:SS.mmm`; hours may exceed 99."""
    seconds, millisecond = divmod(milliseconds, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{decimal_mark}{millisecond:03}"
