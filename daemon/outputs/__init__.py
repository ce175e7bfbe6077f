"""Output formats: a transcript in, files out. Pure functions; who stores the files is not their business.

A further format is one module with a `render` function and one line in the registry below.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daemon.config import Format
from daemon.options import SubtitleOptions
from daemon.outputs import ass, html_document, json_document, markdown, plain_text, srt, tsv, vtt
from daemon.transcript import Transcript


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A finished file: its format, its name below the job's prefix, its media type and its bytes."""

    format: Format
    name: str
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Presentation:
    """What a job wants of its outputs beside what was said."""

    subtitles: SubtitleOptions = field(default_factory=SubtitleOptions)
    audio_url: str | None = None  # where the page plays the recording from


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


# SubRip and SubStation have no registered media type; these are the ones of freedesktop.org's shared-mime-info.
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


def render(
    transcript: Transcript,
    formats: Iterable[Format],
    wanted: Presentation = Presentation(),  # frozen
) -> list[OutputFile]:
    """The transcript in each of the formats, in their order; a format named twice is rendered once."""
    renderers = {name: _RENDERERS[name] for name in formats}
    return [
        OutputFile(name, renderer.name, renderer.content_type, renderer.render(transcript, wanted).encode())
        for name, renderer in renderers.items()
    ]
