"""`transcript.txt`: text only, one paragraph per line, separated by empty lines."""

from daemon.outputs.paragraphs import Paragraph, paragraphs
from daemon.schema.transcript import Transcript


def render(transcript: Transcript) -> str:
    """Render the document; empty if there is no speech."""
    lines = [_line(paragraph) for paragraph in paragraphs(transcript)]
    return "\n\n".join(lines) + "\n" if lines else ""


def _line(paragraph: Paragraph) -> str:
    label = f"{paragraph.speaker}: " if paragraph.speaker else ""
    return paragraph.mark + label + paragraph.text
