"""`transcript.tsv`: one segment per line, for spreadsheets and scripts.

The columns match openai/whisper's TSV (whisper/utils.py, WriteTSV), with start and end in integer milliseconds,
followed by the speaker. As the registered media type text/tab-separated-values requires, nothing is quoted: a field
cannot contain a tab or line break, and quotation marks are literal.

A text that a spreadsheet would run as a formula gets an apostrophe in front, as OWASP recommends ("CSV Injection").
"""

from daemon.outputs.text import clean
from daemon.schema.transcript import Segment, Transcript

FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # and their full-width forms

HEADER = ("start", "end", "text", "speaker")


def render(transcript: Transcript) -> str:
    """Render the table; only the header if there is no speech."""
    rows = [HEADER, *(_row(segment) for segment in transcript.segments if clean(segment.text))]
    return "".join("\t".join(row) + "\n" for row in rows)


def _row(segment: Segment) -> tuple[str, ...]:
    start_ms = round(segment.start * 1000)
    end_ms = max(start_ms, round(segment.end * 1000))
    return str(start_ms), str(end_ms), _plain(segment.text), _plain(segment.speaker or "")


def _plain(text: str) -> str:
    text = clean(text)
    return "'" + text if text.startswith(FORMULA_STARTS) else text
