"""`transcript.vtt`: WebVTT (https://www.w3.org/TR/webvtt1/), with the speaker as the voice of a cue.

A word is highlighted by underlining it in a cue of its own, which every player shows. WebVTT's time stamps inside a cue
need a style sheet that the page, not the file, must bring.
"""

from daemon.options import SubtitleOptions
from daemon.outputs.cues import Cue, frames, spell, stamp
from daemon.outputs.subtitles import lay_out
from daemon.outputs.utterances import SpokenWord
from daemon.transcript import Transcript

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def render(transcript: Transcript, options: SubtitleOptions) -> str:
    """The document; its header alone when nothing was said."""
    shown = [
        f"\n{stamp(start_ms, '.')} --> {stamp(end_ms, '.')}\n{_voice(cue, options)}{_text(cue, highlighted)}\n"
        for cue in lay_out(transcript, options, inline_labels=False)
        for start_ms, end_ms, highlighted in frames(cue, options.highlight_words)
    ]
    return "WEBVTT\n" + "".join(shown)


def _voice(cue: Cue, options: SubtitleOptions) -> str:
    return f"<v {cue.speaker.translate(_ESCAPES)}>" if cue.speaker and options.speaker_labels else ""


def _text(cue: Cue, highlighted: SpokenWord | None) -> str:
    def word(word: SpokenWord) -> str:
        text = word.text.translate(_ESCAPES)
        return f"<u>{text}</u>" if word is highlighted else text

    return spell(cue, word)
