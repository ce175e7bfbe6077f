"""`transcript.vtt`: WebVTT (https://www.w3.org/TR/webvtt1/), with the speaker as the cue's voice.

Word highlighting uses one cue per word with the word underlined, which every player supports. WebVTT's timestamps
inside a cue would need a style sheet, which the page must provide and the file cannot.
"""

from daemon.outputs.subtitles.cues import Cue, frames, spell, stamp
from daemon.outputs.subtitles.layout import lay_out
from daemon.outputs.subtitles.utterances import SpokenWord
from daemon.schema.options import SubtitleOptions
from daemon.schema.transcript import Transcript

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def render(transcript: Transcript, options: SubtitleOptions) -> str:
    """Render the document; only the header if there is no speech."""
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
