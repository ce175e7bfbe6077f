"""`transcriptd transcribe`: one recording on this machine, without AWS. The real models run once; the rest is scripted."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import srt

from bench.waiting import wait_for
from daemon.__main__ import main
from daemon.demo.recordings import make_video
from daemon.errors import DiskFull
from daemon.media.sandbox_probe import SandboxReport
from daemon.weights.needs import packaged_weights
from tests.support.command_line import TIMEOUT_SECONDS, environment, run_tool, start_tool
from tests.support.media.decoding import is_alive
from tests.support.media.files import make_text, make_wav, speech

SCRIPTED = "bench.scripted_pipeline:"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wav(tmp_path_factory.mktemp("media") / "clip.wav", speech(6.5, 4))


@pytest.fixture
def dead_aws() -> Iterator[tuple[str, list[Any]]]:
    """The URL of an AWS that only counts its callers."""
    callers: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, caller = server.accept()
                except OSError:
                    return
                callers.append(caller)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", callers
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


def scripted(temporary: Path, pipeline: str = "ScriptedPipeline", **more: str) -> dict[str, str]:
    return {"TMPDIR": str(temporary), "TRANSCRIPTD_PIPELINE": SCRIPTED + pipeline, "TRANSCRIPTD_MODEL": "base"} | more


def test_recording_from_a_pipe_becomes_subtitles_with_packaged_weights(
    clip: Path, temporary: Path, dead_aws: tuple[str, list[Any]]
) -> None:
    url, callers = dead_aws
    variables = {
        "TMPDIR": str(temporary),
        "AWS_ENDPOINT_URL": url,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": url,
        "AWS_PROFILE": "not-there",
        "WEBHOOK_URL": f"{url}/hook",
        "HTTPS_PROXY": url,
    }
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "transcribe", "-", "--format", "srt", "--option", 'vocabulary=["Oh"]'],
        env=environment(variables),
        input=clip.read_bytes(),
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 0, said
    cues = list(srt.parse(done.stdout.decode(), ignore_errors=False))
    assert "SPEAKER_00: Hello." in cues[0].content
    assert [line for line in said.splitlines() if line.startswith("stdin: ")][:2] == [
        "stdin: decoding",
        "stdin: loading the models (embedded)",
    ]
    assert "model: embedded (Whisper base)" in said
    assert "completed: 4.0 s, en, " in said
    assert callers == []
    assert list(temporary.iterdir()) == []


def test_what_libraries_print_stays_out_of_the_result(clip: Path, temporary: Path) -> None:
    prompt = 'initial_prompt="chatter noise"'
    done = run_tool(scripted(temporary), "transcribe", str(clip), "--format", "txt", "--option", prompt)
    assert (done.returncode, done.stdout) == (0, "SPEAKER_00: hello there\n"), done.stderr
    assert "noise" not in done.stderr
    verbose = run_tool(scripted(temporary), "transcribe", str(clip), "--format", "txt", "--verbose")
    assert verbose.stdout == done.stdout
    logged = [json.loads(line) for line in verbose.stderr.splitlines() if line.startswith("{")]
    assert {"poller", "runner"} >= {line["process"] for line in logged} != set()


def test_outputs_are_saved_and_redacted(clip: Path, temporary: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "result"
    words = ("--format", "srt,json", "--format", "html", "--option", 'redact=["email"]')
    said = ("--option", 'initial_prompt="say write to ann@example.com"', "--start", "1s")
    done = run_tool(scripted(temporary), "transcribe", str(clip), "--save", str(target), *words, *said)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["transcript.html", "transcript.json", "transcript.srt"]
    transcript = json.loads((target / "transcript.json").read_text())
    assert (transcript["start_seconds"], transcript["redactions"]) == (1.0, {"email": 1})
    assert all("ann@example.com" not in path.read_text() for path in target.iterdir())
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("pipeline", "line", "number"),
    [("HangsInSetup", "loading the models", signal.SIGINT), ("ScriptedPipeline", "detecting speech", signal.SIGTERM)],
)
def test_signal_ends_the_children_and_leaves_nothing(
    clip: Path, temporary: Path, pipeline: str, line: str, number: int
) -> None:
    words = ("transcribe", str(clip), "--option", "initial_prompt=hang")
    with start_tool(scripted(temporary, pipeline), *words) as running:
        assert running.stderr is not None
        while line not in running.stderr.readline():
            assert running.poll() is None
        wait_for(lambda: len(children(running.pid)) == 2, "the decoder's server and the runner are there")
        processes = children(running.pid)
        running.send_signal(number)
        printed, said = running.communicate(timeout=TIMEOUT_SECONDS)
    assert (running.returncode, printed) == (130, "")
    assert said.splitlines()[-1] == "transcriptd transcribe: stopped"
    assert not any(map(is_alive, processes))
    assert list(temporary.iterdir()) == []


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def test_reader_that_has_gone_is_no_error(clip: Path, temporary: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "transcribe", str(clip)],
        env=environment(scripted(temporary)),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("completed: ")


def test_model_that_cannot_be_loaded_has_an_exit_status(clip: Path, temporary: Path) -> None:
    done = run_tool(scripted(temporary, "LacksWeights"), "transcribe", str(clip))
    assert done.returncode == 6
    assert done.stderr.endswith("cannot load the Whisper model base: check the network\n")


# --- in this process: nothing is started, or only a decoder -----------------------------------------------------------


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, temporary: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for name, value in scripted(temporary).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("daemon.cli.transcribe.packaged_weights", lambda *_: [])

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["transcriptd", "transcribe", *words])
        status = main()
        printed = capsys.readouterr()
        assert printed.out == ""
        return status, printed.err

    yield run
    assert list(temporary.iterdir()) == []
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("/no/such.mp3",), "/no/such.mp3: no such file"),
        (("/",), "/ is a directory: name one recording in it"),
        (("/dev/null",), "/dev/null is neither a file nor a pipe"),
        (("s3://media/a.mp3",), "this command reads files; `transcriptd submit` sends an S3 object"),
        (("CLIP", "--speakers", "0"), "options.num_speakers"),
        (("CLIP", "--language", "xx"), "options.language"),
        (("CLIP", "--format", "doc"), "options.formats has"),
        (("CLIP", "--format", "srt,md"), "2 formats need --save DIR"),
        (("CLIP", "--option", "colour=red"), 'unknown option "options.colour"'),
        (("CLIP", "--option", "model=1"), "--option model: the value must be a text"),
        (("CLIP", "--model", "larg-v3"), 'did you mean "large-v3"?'),
        (("CLIP", "--start", "9", "--end", "8"), "input.end_seconds (8) is not after"),
        (("CLIP", "--save", "/"), "the directory must be new or empty"),
        (("CLIP", "--save", "/dev/null/x"), "/dev/null is not a directory that you may write to"),
    ],
)
def test_bad_usage(call: Any, clip: Path, words: tuple[str, ...], problem: str) -> None:
    status, said = call(*(str(clip) if word == "CLIP" else word for word in words))
    assert (status, problem in said) == (2, True), said


def test_files_that_are_no_recordings(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.mp3").touch()
    assert call(str(tmp_path / "empty.mp3")) == (
        5,
        f"transcriptd transcribe: {tmp_path}/empty.mp3 is empty (0 bytes)\n",
    )
    make_video(None, tmp_path / "silent.mp4", 1)
    for file, code in ((make_text(tmp_path / "notes.txt"), "media_unreadable"), ("silent.mp4", "no_audio_stream")):
        status, said = call(str(tmp_path / file))
        assert (status, code in said) == (5, True), said
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    assert call("-") == (5, "transcriptd transcribe: standard input is empty (0 bytes)\n")


def test_full_disk_is_reported_with_what_to_do(call: Any, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise DiskFull("the scratch disk is full")

    monkeypatch.setattr("daemon.cli.local_job.decode", full)
    status, said = call(str(clip))
    assert status == 1
    assert "is full: a recording needs 230 MB for each hour and channel; free some, or set TMPDIR" in said


def test_missing_packaged_weights_have_an_exit_status(
    call: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.cli.transcribe.packaged_weights", packaged_weights)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    status, said = call(str(clip), "--model", "embedded")
    assert (status, "set XDG_CACHE_HOME to another directory" in said) == (6, True)
    monkeypatch.setattr("daemon.weights.packaged.BASE_PACKAGES", ("no_such_weights", "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    status, said = call(str(clip), "--model", "embedded")
    assert status == 6
    assert "the package no_such_weights is not installed" in said
    assert "transcriptd[embedded]" in said


def test_weak_sandbox_is_a_warning_unless_the_settings_refuse_it(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def probe() -> SandboxReport:
        return SandboxReport({"Landlock": "no such call"})

    monkeypatch.setattr("daemon.media.sandbox_probe.probe_sandbox", probe)
    text = str(make_text(tmp_path / "notes.txt"))
    status, said = call(text)
    assert (status, "warning: the kernel cannot fully confine" in said) == (5, True), said
    monkeypatch.setenv("TRANSCRIPTD_ALLOW_WEAK_SANDBOX", "false")
    status, said = call(text)
    assert (status, "accept the risk with TRANSCRIPTD_ALLOW_WEAK_SANDBOX=true" in said) == (2, True), said


def test_other_systems_are_refused(call: Any, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert call(str(clip)) == (
        1,
        "transcriptd transcribe: this is Darwin, and transcriptd needs Linux: use a Linux machine, or a container or "
        "virtual machine with it\n",
    )
