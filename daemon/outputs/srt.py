"""`transcript.srt`: SubRip. It has no standard; this is the part of it that every player reads.

SubRip cannot escape. Players take `<…>` for a tag, `{…}` and a backslash for a command, and `-->` for a time line, so what
was said is written with the full-width twins of these characters.
"""

from daemon.options import SubtitleOptions
from daemon.outputs.cues import Cue, frames, spell, stamp
from daemon.outputs.subtitles import lay_out
from daemon.outputs.utterances import SpokenWord
from daemon.transcript import Transcript

_TWINS = str.maketrans("<>{}\\", "＜＞｛｝＼")


def render(transcript: Transcript, options: SubtitleOptions) -> str:
    """The document; empty when nothing was said."""
    cues = lay_out(transcript, options, inline_labels=True)
    shown = [
        f"{stamp(start_ms, ',')} --> {stamp(end_ms, ',')}\n{_text(cue, highlighted)}\n"
        for cue in cues
        for start_ms, end_ms, highlighted in frames(cue, options.highlight_words)
    ]
    return "\n".join(f"{number}\n{frame}" for number, frame in enumerate(shown, 1))


def _text(cue: Cue, highlighted: SpokenWord | None) -> str:
    def word(word: SpokenWord) -> str:
        text = word.text.translate(_TWINS)
        return f"<u>{text}</u>" if word is highlighted else text

    return cue.label.translate(_TWINS) + spell(cue, word)
