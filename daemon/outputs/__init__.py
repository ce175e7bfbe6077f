"""Output formats: render a transcript to files. Pure functions that store nothing.

To add a format, write a module with a `render` function and add a line to the registry below.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from daemon.outputs import html_document, json_document, markdown, plain_text, tsv
from daemon.outputs.subtitles import ass, srt, vtt
from daemon.outputs.text import without_direction_controls
from daemon.schema.options import Format, JobOptions, SubtitleOptions
from daemon.schema.transcript import Transcript


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A rendered file. `name` is relative to the job's prefix."""

    format: Format
    name: str
    content_type: str
    body: bytes
    rendered_with: str | None = None  # StoredOutput.rendered_with

    @property
    def later_name(self) -> str:
        """Its name if another file has `name`: one for each content, so that no file is ever overwritten."""
        stem, _, suffix = self.name.rpartition(".")
        return f"{stem}-{hashlib.sha256(self.body).hexdigest()[:LATER_DIGITS]}.{suffix}"


@dataclass(frozen=True, slots=True)
class Presentation:
    """The rendering options (RENDERING_OPTIONS) of a job, except its formats."""

    subtitles: SubtitleOptions = field(default_factory=SubtitleOptions)
    audio_url: str | None = None  # of the recording, for the page's player

    @classmethod
    def of(cls, options: JobOptions) -> "Presentation":
        return cls(options.subtitles, options.audio_url)


@dataclass(frozen=True, slots=True)
class _Renderer:
    name: str
    content_type: str
    render: Callable[[Transcript, Presentation], str]
    shaped_by: str | None = None  # the field of Presentation that it reads


def _document(name: str, content_type: str, render: Callable[[Transcript], str]) -> _Renderer:
    return _Renderer(name, content_type, lambda transcript, _: render(transcript))


def _subtitles(name: str, content_type: str, render: Callable[[Transcript, SubtitleOptions], str]) -> _Renderer:
    return _Renderer(name, content_type, lambda transcript, wanted: render(transcript, wanted.subtitles), "subtitles")


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
    "html": _Renderer("transcript.html", "text/html; charset=utf-8", _page, "audio_url"),
}

LATER_DIGITS = 12
OUTPUT_NAME = re.compile(rf"transcript(-[0-9a-f]{{{LATER_DIGITS}}})?\.({'|'.join(_RENDERERS)})")


def rendered_with(name: Format, wanted: Presentation) -> str | None:
    """Return the digest of the options that shape this format; None if none does.

    A digest, because the URL of the recording may be a secret.
    """
    option = _RENDERERS[name].shaped_by
    if option is None:
        return None
    value = getattr(wanted, option)
    text = value.model_dump_json() if isinstance(value, SubtitleOptions) else json.dumps(value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def render(
    transcript: Transcript,
    formats: Iterable[Format],
    wanted: Presentation = Presentation(),  # frozen
) -> list[OutputFile]:
    """Render the transcript in each format, in order and without duplicates."""
    transcript = without_direction_controls(transcript)
    renderers = {name: _RENDERERS[name] for name in formats}
    return [
        OutputFile(
            format=name,
            name=renderer.name,
            content_type=renderer.content_type,
            body=renderer.render(transcript, wanted).encode(),
            rendered_with=rendered_with(name, wanted),
        )
        for name, renderer in renderers.items()
    ]
