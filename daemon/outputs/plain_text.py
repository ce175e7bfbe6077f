"""`transcript.txt`: the text alone, one paragraph a line, with an empty line between them."""

from daemon.outputs.paragraphs import Paragraph, paragraphs
from daemon.transcript import Transcript


def render(transcript: Transcript) -> str:
    """The document; empty when nothing was said."""
    lines = [_line(paragraph) for paragraph in paragraphs(transcript)]
    return "\n\n".join(lines) + "\n" if lines else ""


def _line(paragraph: Paragraph) -> str:
    return f"{paragraph.speaker}: {paragraph.text}" if paragraph.speaker else paragraph.text
