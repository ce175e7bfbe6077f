"""`transcript.html`: the transcript with a player, in one file.

Without JavaScript, the page is plain text with a player; `html/transcript.js` adds the other features. All text from
the message or the media is escaped. In addition, the page's Content-Security-Policy allows only its own script and
style, by hash, so injected markup could neither run nor send data.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby, pairwise

from daemon.outputs.markdown import clock
from daemon.outputs.paragraphs import PARAGRAPH_PAUSE_SECONDS, speaker_name
from daemon.outputs.text import clean, needs_space, reads_right_to_left, written_language
from daemon.schema.transcript import Segment, Transcript, Word

UNCERTAIN_BELOW = 0.5  # the page marks words with a lower score as uncertain
MAX_PARAGRAPH_SECONDS = 45.0
COLOURS = 8  # .s0 to .s7 in the style; further speakers reuse them with another border style

_ASSETS = files("daemon.outputs") / "html"
STYLE = (_ASSETS / "transcript.css").read_text("utf-8")
SCRIPT = (_ASSETS / "transcript.js").read_text("utf-8")

# Whisper's language codes match BCP 47, except for Javanese.
_BCP47 = {"jw": "jv"}

TimeSpan = tuple[float, float]  # start and end in seconds


def render(transcript: Transcript, audio_url: str | None = None) -> str:
    """Render the page. `audio_url`, checked by daemon.job, is the player's source; if None, readers choose a file."""
    segments = [segment for segment in transcript.segments if clean(segment.text)]
    spans: list[TimeSpan] = []
    body = "".join(_turns(transcript, segments, spans)) or "<p>No speech was found.</p>\n"
    uncertain = any(_uncertain(word) for segment in segments for word in segment.words)
    job_id = escape(clean(transcript.job_id))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(audio_url)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Transcript of {job_id}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>Transcript</h1>\n{_facts(transcript)}{_notes(transcript)}{_help(uncertain)}</header>\n"
        f"{_tools(audio_url, uncertain)}"
        f'<main id="transcript" lang="{_language(transcript)}">\n{body}</main>\n'
        '<button type="button" id="back" hidden>Back to the current word</button>\n'
        f'<script type="application/json" id="times">{_times(spans)}</script>\n'
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _policy(audio_url: str | None) -> str:
    """Build the policy, without untrusted input. Media may come from any https URL: `audio_url` may redirect."""
    media = "blob:" if audio_url is None else "'self' https: blob:"
    return (
        f"default-src 'none'; script-src '{_digest(SCRIPT)}'; style-src '{_digest(STYLE)}'; media-src {media}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    """Build a hash source (Content Security Policy Level 3)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _labels(transcript: Transcript) -> dict[str, int]:
    """Number the speaker labels from 0 in order of first appearance; empty without diarization."""
    named = [*transcript.speakers, *(segment.speaker for segment in transcript.segments)]
    return {label: number for number, label in enumerate(dict.fromkeys(label for label in named if label))}


def _facts(transcript: Transcript) -> str:
    models = transcript.models
    language = escape(clean(transcript.language or "")) or "unknown"
    if transcript.language_probability is not None:
        language += f" (detected, {transcript.language_probability:.0%})"
    used = {"speech": models.asr, "word times": models.alignment, "speakers": models.diarization}
    facts = {
        "Job": f"<bdi>{escape(clean(transcript.job_id))}</bdi>",
        "Duration": clock(transcript.duration_seconds),
        "Language": language + (", translated into English" if transcript.task == "translate" else ""),
    }
    wide = {
        "Models": " · ".join(f"{part}: <bdi>{escape(clean(name))}</bdi>" for part, name in used.items() if name),
    }
    if labels := _labels(transcript):
        names = "".join(
            f'<li class="{_colour(number)}">{_name(label, number)}</li>' for label, number in labels.items()
        )
        wide["Speakers"] = f"<ul>{names}</ul>"
    rows = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>\n" for name, value in facts.items())
    rows += "".join(f'<div class="wide"><dt>{name}</dt><dd>{value}</dd></div>\n' for name, value in wide.items())
    return f"<dl>\n{rows}</dl>\n"


def _notes(transcript: Transcript) -> str:
    if not transcript.warnings:
        return ""
    notes = "".join(
        f'<li><code>{escape(clean(warning.code))}</code> <span dir="auto">{escape(clean(warning.message))}</span></li>\n'
        for warning in transcript.warnings
    )
    return f'<aside aria-labelledby="notes"><h2 id="notes">Notes</h2>\n<ul>\n{notes}</ul></aside>\n'


def _help(uncertain: bool) -> str:
    legend = (
        f'<p class="legend"><u>Underlined</u> words are uncertain: confidence below {UNCERTAIN_BELOW:.0%}.</p>\n'
        if uncertain
        else ""
    )
    return legend + (
        '<details id="help" hidden><summary>Keyboard</summary>\n'
        "<p><kbd>Space</kbd> or <kbd>K</kbd> play or pause · <kbd>J</kbd> back 10 s · <kbd>L</kbd> forward 10 s · "
        "<kbd>/</kbd> search · in the text: <kbd>←</kbd> <kbd>→</kbd> word, <kbd>↑</kbd> <kbd>↓</kbd> paragraph, "
        "<kbd>Home</kbd> <kbd>End</kbd>, <kbd>Enter</kbd> play from the word</p>\n"
        '<label><input type="checkbox" id="shortcuts" checked> Single-key shortcuts</label>\n</details>\n'
    )


def _tools(audio_url: str | None, uncertain: bool) -> str:
    """Build the toolbar. Without JavaScript only the player is visible, because the other controls need the script."""
    source = " hidden" if audio_url is None else f' src="{escape(audio_url)}"'
    toggle = '<label><input type="checkbox" id="uncertain" checked> <u>Uncertain</u></label>\n' if uncertain else ""
    return (
        '<section id="bar" aria-label="Player and search">\n'
        f'<audio id="audio" aria-label="Recording" controls preload="metadata"{source}></audio>\n'
        '<p id="chooser" hidden><span id="status" role="status"></span>'
        '<label>Choose the recording on this device: <input type="file" id="file" accept="audio/*,video/*"></label></p>\n'
        '<div id="tools" hidden>\n<div role="search">'
        '<input type="search" id="query" aria-label="Search the transcript" placeholder="Search" autocomplete="off">'
        '<output id="count" for="query"></output>'
        '<button type="button" id="previous" aria-label="Previous match" disabled>↑</button>'
        '<button type="button" id="next" aria-label="Next match" disabled>↓</button></div>\n'
        f'<label><input type="checkbox" id="follow" checked> Follow</label>\n{toggle}</div>\n</section>\n'
    )


def _turns(transcript: Transcript, segments: Sequence[Segment], spans: list[TimeSpan]) -> Iterator[str]:
    """Yield a section per turn of a speaker. Append the times of its words to `spans`, in text order."""
    labels = _labels(transcript)
    for speaker, turn in groupby(segments, key=lambda segment: segment.speaker):
        number = labels.get(speaker) if speaker else None
        heading = f"<h2>{_name(speaker, number)}</h2>\n" if labels else ""
        paragraphs = "".join(
            _paragraph(transcript, paragraph, spans) for paragraph in _paragraphs(transcript, list(turn))
        )
        colour = f" {_colour(number)}" if labels else ""
        yield f'<section class="turn{colour}">\n{heading}{paragraphs}</section>\n'


def _colour(number: int | None) -> str:
    return "none" if number is None else f"s{number % COLOURS} r{number // COLOURS % 3}"


def _name(label: str | None, number: int | None) -> str:
    shown = escape(speaker_name(label))
    return f'<span class="badge" aria-hidden="true">{"?" if number is None else number + 1}</span><bdi>{shown}</bdi>'


def _paragraphs(transcript: Transcript, segments: list[Segment]) -> Iterator[list[Segment]]:
    """Split at pauses, at changes of the language, and where a paragraph gets too long for its timestamp to be useful."""
    paragraph = segments[:1]
    for segment in segments[1:]:
        pauses = segment.start - paragraph[-1].end >= PARAGRAPH_PAUSE_SECONDS
        switches = written_language(transcript, segment) != written_language(transcript, paragraph[-1])
        if pauses or switches or segment.end - paragraph[0].start > MAX_PARAGRAPH_SECONDS:
            yield paragraph
            paragraph = []
        paragraph.append(segment)
    yield paragraph


def _paragraph(transcript: Transcript, segments: list[Segment], spans: list[TimeSpan]) -> str:
    """Render segments of one language, which is named if it is not the page's."""
    start = segments[0].start
    language = written_language(transcript, segments[0])
    text = _text(segments[0], spans)
    for before, after in pairwise(segments):
        space = needs_space(clean(before.text), clean(after.text), language, language)
        text += " " * space + _text(after, spans)
    lang = "" if _lang(language) == _language(transcript) else f' lang="{_lang(language)}"'
    # Its first letter may be of another script, so `auto` may find the wrong direction.
    direction = "rtl" if any(reads_right_to_left(segment.text, language) for segment in segments) else "auto"
    attributes = f'dir="{direction}"{lang}'
    return f'<div><a href="#t={start:.3f}" tabindex="-1">{clock(start)}</a><p {attributes}>{text}</p></div>\n'


def _text(segment: Segment, spans: list[TimeSpan]) -> str:
    """Render the segment's text with its timed words marked. Text that the aligner gave no time stays unmarked."""
    text = clean(segment.text)
    parts, position = [], 0
    for word in segment.words:
        spoken = clean(word.word)
        found = text.find(spoken, position) if spoken else -1
        if found < 0:
            continue
        tag = "u" if _uncertain(word) else "span"
        parts.append(f"{escape(text[position:found])}<{tag}>{escape(spoken)}</{tag}>")
        spans.append((word.start, word.end))
        position = found + len(spoken)
    if parts:
        return "".join(parts) + escape(text[position:])
    spans.append((segment.start, segment.end))
    return f"<span>{escape(text)}</span>"


def _uncertain(word: Word) -> bool:
    return word.score is not None and word.score < UNCERTAIN_BELOW


def _language(transcript: Transcript) -> str:
    """Return the text's language code, for screen readers and hyphenation; empty means unknown (HTML, `lang`)."""
    return _lang("en" if transcript.task == "translate" else transcript.language or "")


def _lang(code: str) -> str:
    return escape(clean(_BCP47.get(code, code)))


def _times(spans: list[TimeSpan]) -> str:
    """Encode each word as milliseconds since the previous word's start, and duration. Small numbers keep it compact."""
    numbers, before = [], 0
    for start, end in spans:
        start_ms = round(start * 1000)
        numbers += [start_ms - before, round(end * 1000) - start_ms]
        before = start_ms
    return json.dumps(numbers, separators=(",", ":"))
