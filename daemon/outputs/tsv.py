"""`transcript.tsv`: one segment per line, for spreadsheets and scripts.

The columns match openai/whisper's TSV (whisper/utils.py, WriteTSV), with start and end in integer milliseconds,
followed by the speaker. As the registered media type text/tab-separated-values requires, nothing is quoted: a field
cannot contain a tab or line break, and quotation marks are literal.
"""

from daemon.outputs.text import clean
from daemon.schema.transcript import Segment, Transcript

HEADER = ("start", "end", "text", "speaker")


def render(transcript: Transcript) -> str:
    """Render the table; only the header if there is no speech."""
    rows = [HEADER, *(_row(segment) for segment in transcript.segments if clean(segment.text))]
    return "".join("\t".join(row) + "\n" for row in rows)


def _row(segment: Segment) -> tuple[str, ...]:
    start_ms = round(segment.start * 1000)
    end_ms = max(start_ms, round(segment.end * 1000))
    return str(start_ms), str(end_ms), clean(segment.text), clean(segment.speaker or "")
