"""`transcript.md`: the transcript as Markdown.

Transcribed text must never become markup. It is escaped by the rules of CommonMark (spec.commonmark.org, 0.31), and
only where markup would apply, so that ordinary prose is unchanged.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from daemon.outputs.paragraphs import Paragraph, is_diarized, paragraphs, speaker_name
from daemon.outputs.text import clean
from daemon.schema.transcript import Segment, Transcript, Word

NO_SPEECH = "*No speech was found.*"

# Markup anywhere in a line. Escaping the opening bracket prevents links, images and definitions, so closing brackets
# are left alone. An underscore between letters or digits is not emphasis: SPEAKER_00 stays. `|` and `~` are not
# CommonMark, but most renderers support them for tables and strikethrough.
_INLINE = re.compile(r"[\\`*\[<|~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?[0-9A-Za-z]+;)")

# Markup at the start of a line: headings, lists, rules and quotes. In `1.` and `1)`, escape the delimiter.
_LINE_START = re.compile(r"^(?:([0-9]{1,9})(?=[.)](?:\s|$))|(?=[#+\->]))")


def render(transcript: Transcript) -> str:
    """Render the Markdown document."""
    segments = transcript.segments
    diarized = is_diarized(transcript)
    blocks = [
        "# Full Transcript",
        *([_paragraph(paragraph) for paragraph in paragraphs(transcript)] or [NO_SPEECH]),
        "# Timestamped Transcript",
        *(block for number, segment in enumerate(segments, 1) for block in _segment(number, segment, diarized)),
        *([] if segments else [NO_SPEECH]),
    ]
    if transcript.warnings:
        notes = [f"- {_line(warning.code)}: {_inline(warning.message)}" for warning in transcript.warnings]
        blocks += ["# Notes", "\n".join(notes)]
    return "\n\n".join(blocks) + "\n"


def _paragraph(paragraph: Paragraph) -> str:
    if paragraph.speaker is None:
        return paragraph.mark + _line(paragraph.text)
    return f"{paragraph.mark}**{_inline(paragraph.speaker)}:** {_inline(paragraph.text)}"


def _segment(number: int, segment: Segment, diarized: bool) -> Iterator[str]:
    speaker = f" ({_speaker(segment.speaker)})" if diarized else ""
    yield f"## Segment {number}: [{clock(segment.start)} - {clock(segment.end)}]{speaker}"
    if text := _line(segment.text):
        yield text
    words = [word for word in segment.words if clean(word.word)]
    if not words:
        return
    yield "### Word-level timestamps"
    if not diarized:
        yield _word_list(words)
        return
    # A word that the aligner gave no time has no speaker: use the segment's.
    for name, group in groupby(words, key=lambda word: word.speaker or segment.speaker):
        yield f"**{_speaker(name)}:**\n{_word_list(list(group))}"


def _word_list(words: list[Word]) -> str:
    return "\n".join(f"- {_line(word.word)} @ {clock(word.start)}" for word in words)


def clock(seconds: float) -> str:
    """Format as `HH:MM:SS`, rounded down; hours may exceed 99."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}"


def _speaker(name: str | None) -> str:
    return _inline(speaker_name(name))


def _line(text: str) -> str:
    """Escape text that starts a line or a list item."""
    return _LINE_START.sub(r"\1\\", _inline(text))


def _inline(text: str) -> str:
    """Escape text inside a line."""
    return _INLINE.sub(r"\\\g<0>", clean(text))
