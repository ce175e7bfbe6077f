"""`transcriptd render` of a local transcript: no AWS, no torch, and errors by the daemon's rules."""

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run

import pytest

from daemon.__main__ import main
from daemon.outputs import json_document
from tests.support.command_line import environment
from tests.support.transcripts import segment, transcript, word

Tool = Callable[..., tuple[int, str, str]]

SAID = transcript(segment("Hello there.", 0, 2, "SPEAKER_00", (word("Hello", 0), word("there.", 1))))

# Runs the command without a network, and says afterwards what it has imported.
WITHOUT_NETWORK = """
import socket, sys
def refuse(*_): raise AssertionError("the network is used")
socket.socket.connect = refuse
from daemon.__main__ import main
status = main()
heavy = [name for name in ("torch", "whisperx", "pyannote", "daemon.pipeline") if name in sys.modules]
sys.exit(status or (str(heavy) if heavy else 0))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "transcript.json"
    path.write_text(json_document.render(SAID))
    return path


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transcriptd", "render", *words])
        status = main()
        return status, *capsys.readouterr()

    return call


def test_local_transcript_needs_neither_aws_nor_torch(file: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_NETWORK, "render", str(file), "--format", "srt"]
    command += ["--option", "subtitles.speaker_labels=false"]
    done = run(command, env=environment({}), capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n"


def test_several_formats_are_saved(file: Path, tmp_path: Path, tool: Tool) -> None:
    target = tmp_path / "new" / "folder"
    status, _, errors = tool(str(file), "--format", "txt", "--format", "html", "--save", str(target))
    assert status == 0, errors
    assert {path.name for path in target.iterdir()} == {"transcript.txt", "transcript.html"}
    status, _, errors = tool(str(file), "--format", "txt", "--save", str(target))
    assert (status, "must be new or empty" in errors) == (2, True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--format", "srr"], 'did you mean "srt"?'),
        (["--format", "srt", "--format", "vtt"], "pass --save DIR"),
        (["--format", "srt", "--option", "language=de"], "does not change how a transcript is written"),
        (["--format", "srt", "--option", "formats=vtt"], "does not change how a transcript is written"),
        (["--format", "srt", "--option", "subtitles.max_lines=9"], "options.subtitles.max_lines"),
        (["--format", "html", "--option", "audio_url=http://a"], "options.audio_url must be https"),
    ],
)
def test_wrong_arguments_are_named(file: Path, words: list[str], problem: str, tool: Tool) -> None:
    status, output, errors = tool(str(file), *words)
    assert (status, output) == (2, "")
    assert problem in errors


@pytest.mark.parametrize(("content", "status"), [(None, 2), (b"{}", 1), (b"\xff", 1)])
def test_file_that_is_no_transcript_is_refused(tmp_path: Path, content: bytes | None, status: int, tool: Tool) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    found, output, errors = tool(str(path), "--format", "txt")
    assert (found, output) == (status, "")
    assert str(path) in errors.replace("\n", "")
