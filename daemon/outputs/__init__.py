"""Output formats: render a transcript to files. Pure functions that store nothing.

To add a format, write a module with a `render` function and add a line to the registry below.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daemon.outputs import html_document, json_document, markdown, plain_text, tsv
from daemon.outputs.subtitles import ass, srt, vtt
from daemon.outputs.text import without_direction_controls
from daemon.schema.options import Format, SubtitleOptions
from daemon.schema.transcript import Transcript


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A rendered file. `name` is relative to the job's prefix."""

    format: Format
    name: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Presentation:
    """A job's presentation options for its outputs."""

    subtitles: SubtitleOptions = field(default_factory=SubtitleOptions)
    audio_url: str | None = None  # of the recording, for the page's player


@dataclass(frozen=True, slots=True)
class _Renderer:
    name: str
    content_type: str
    render: Callable[[Transcript, Presentation], str]


def _document(name: str, content_type: str, render: Callable[[Transcript], str]) -> _Renderer:
    return _Renderer(name, content_type, lambda transcript, _: render(transcript))


def _subtitles(name: str, content_type: str, render: Callable[[Transcript, SubtitleOptions], str]) -> _Renderer:
    return _Renderer(name, content_type, lambda transcript, wanted: render(transcript, wanted.subtitles))


def _page(transcript: Transcript, wanted: Presentation) -> str:
    return html_document.render(transcript, audio_url=wanted.audio_url)


# SubRip and SubStation have no registered media types; these are from freedesktop.org's shared-mime-info.
_RENDERERS: dict[Format, _Renderer] = {
    "json": _document("transcript.json", "application/json", json_document.render),
    "md": _document("transcript.md", "text/markdown; charset=utf-8", markdown.render),
    "txt": _document("transcript.txt", "text/plain; charset=utf-8", plain_text.render),
    "srt": _subtitles("transcript.srt", "application/x-subrip; charset=utf-8", srt.render),
    "vtt": _subtitles("transcript.vtt", "text/vtt; charset=utf-8", vtt.render),
    "ass": _subtitles("transcript.ass", "text/x-ssa; charset=utf-8", ass.render),
    "tsv": _document("transcript.tsv", "text/tab-separated-values; charset=utf-8", tsv.render),
    "html": _Renderer("transcript.html", "text/html; charset=utf-8", _page),
}

OUTPUT_NAMES = tuple(renderer.name for renderer in _RENDERERS.values())


def render(
    transcript: Transcript,
    formats: Iterable[Format],
    wanted: Presentation = Presentation(),  # frozen
) -> list[OutputFile]:
    """Render the transcript in each format, in order and without duplicates."""
    transcript = without_direction_controls(transcript)
    renderers = {name: _RENDERERS[name] for name in formats}
    return [
        OutputFile(name, renderer.name, renderer.content_type, renderer.render(transcript, wanted).encode())
        for name, renderer in renderers.items()
    ]
