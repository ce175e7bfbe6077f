"""`transcript.ass`: Advanced SubStation Alpha, v4.00+ (http://www.tcax.org/docs/ass-specs.htm).

It cannot escape in a way that all renderers know: what was said is written with the full-width twins of the characters
that begin commands.
"""

from daemon.options import SubtitleOptions
from daemon.outputs.cues import Cue, spell, word_times
from daemon.outputs.subtitles import lay_out
from daemon.transcript import Transcript

# White on a black outline at the foot of the picture; what is still to be said of a highlighted line is grey.
_HEADER = """\
[Script Info]
ScriptType: v4.00+
PlayResX: 1920
PlayResY: 1080
WrapStyle: 0
ScaledBorderAndShadow: yes

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,64,&H00FFFFFF,&H00A0A0A0,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,3,1,2,96,96,54,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""

_TWINS = str.maketrans("{}\\", "｛｝＼")
_FIELD_TWINS = str.maketrans("{}\\,", "｛｝＼，")  # a comma ends every field but the last


def render(transcript: Transcript, options: SubtitleOptions) -> str:
    """The document; without events when nothing was said."""
    cues = lay_out(transcript, options, inline_labels=True)
    return _HEADER + "".join(
        f"Dialogue: 0,{_stamp(cue.start_ms)},{_stamp(cue.end_ms)},Default,"
        f"{(cue.speaker or '').translate(_FIELD_TWINS)},0,0,0,,{_text(cue, options.highlight_words)}\n"
        for cue in cues
    )


def _text(cue: Cue, highlight_words: bool) -> str:
    karaoke = {id(word): rf"{{\k{end_ms // 10 - start_ms // 10}}}" for word, start_ms, end_ms in word_times(cue)}
    return cue.label.translate(_TWINS) + spell(
        cue, lambda word: (karaoke[id(word)] if highlight_words else "") + word.text.translate(_TWINS), r"\N"
    )


def _stamp(milliseconds: int) -> str:
    """`H:MM:SS.cc`, floored: cues that do not overlap still do not."""
    seconds, centiseconds = divmod(milliseconds // 10, 100)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}.{centiseconds:02}"
