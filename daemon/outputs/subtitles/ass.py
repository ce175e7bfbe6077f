"""`transcript.ass`: Advanced SubStation Alpha, v4.00+ (http://www.tcax.org/docs/ass-specs.htm).

The format has no escaping that all renderers support, so the text uses the full-width variants of the characters that
start commands.
"""

from daemon.outputs.subtitles.cues import Cue, spell, word_times
from daemon.outputs.subtitles.layout import lay_out
from daemon.schema.options import SubtitleOptions
from daemon.schema.transcript import Transcript

# White text with a black outline at the bottom of the picture. In highlighted lines, words not yet spoken are gray.
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
    """Render the document; without events if there is no speech."""
    cues = lay_out(transcript, options, inline_labels=True)
    return _HEADER + "".join(
        f"Dialogue: 0,{_stamp(cue.start_ms)},{_stamp(cue.end_ms)},Default,"
        f"{(cue.speaker or '').translate(_FIELD_TWINS)},0,0,0,,{_text(cue, options.highlight_words)}\n"
        for cue in cues
    )


def _text(cue: Cue, highlight_words: bool) -> str:
    karaoke = {id(word): rf"{{\k{end_ms // 10 - start_ms // 10}}}" for word, start_ms, end_ms in word_times(cue)}
    return spell(
        cue,
        lambda word: (karaoke[id(word)] if highlight_words else "") + word.text.translate(_TWINS),
        lambda label: label.translate(_TWINS),
        line_break=r"\N",
        always_embed=True,  # renderers lay out every line left to right, as VSFilter does
    )


def _stamp(milliseconds: int) -> str:
    """Format as `H:MM:SS.cc`, rounded down, so that rounding never makes cues overlap."""
    seconds, centiseconds = divmod(milliseconds // 10, 100)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}.{centiseconds:02}"
