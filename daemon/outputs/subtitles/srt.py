"""`transcript.srt`: SubRip. The format has no standard; this module uses the subset that every player supports.

SubRip has no escaping. Players interpret `<…>` as a tag, `{…}` and a backslash as commands, and `-->` as a time line,
so the text uses the full-width variants of these characters.
"""

from daemon.outputs.subtitles.cues import Cue, frames, spell, stamp
from daemon.outputs.subtitles.layout import lay_out
from daemon.outputs.subtitles.utterances import SpokenWord
from daemon.schema.options import SubtitleOptions
from daemon.schema.transcript import Transcript

_TWINS = str.maketrans("<>{}\\", "＜＞｛｝＼")


def render(transcript: Transcript, options: SubtitleOptions) -> str:
    """Render the document; empty if there is no speech."""
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

    return spell(cue, word, lambda label: label.translate(_TWINS))
