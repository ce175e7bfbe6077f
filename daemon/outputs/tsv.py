"""`transcript.tsv`: one segment a line, for spreadsheets and scripts.

The columns of openai/whisper's own TSV (whisper/utils.py, WriteTSV), start and end in integer milliseconds, and the
speaker after them. As in the registered media type text/tab-separated-values nothing is quoted: a field cannot hold a
tab or a line break, and a quotation mark is one.
"""

from daemon.outputs.text import clean
from daemon.transcript import Segment, Transcript

HEADER = ("start", "end", "text", "speaker")


def render(transcript: Transcript) -> str:
    """The table; its header alone when nothing was said."""
    rows = [HEADER, *(_row(segment) for segment in transcript.segments if clean(segment.text))]
    return "".join("\t".join(row) + "\n" for row in rows)


def _row(segment: Segment) -> tuple[str, ...]:
    start_ms = round(segment.start * 1000)
    end_ms = max(start_ms, round(segment.end * 1000))
    return str(start_ms), str(end_ms), clean(segment.text), clean(segment.speaker or "")
