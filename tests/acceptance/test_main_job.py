"""The main scenario with the real models: what `make demo` shows, and a recording without speech."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import srt

from bench.waiting import wait_for
from bench.world import SECRET, World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call
from daemon.telemetry.log_schema import json_schema
from daemon.weights.packaged import whisper_base
from tests.support.media.files import make_audio, make_tracks, make_wav, silence, speech

REAL: dict[str, Any] = {
    "pipeline": "daemon.pipeline.whisperx_pipeline:WhisperXPipeline",
    "diarization_model": "embedded",
    "model": str(whisper_base()),
    "models": "base",
}

CHANNELS = ("CHANNEL_00", "CHANNEL_01")


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daemon", "demo", *arguments], capture_output=True, text=True, timeout=600, check=False
    )


def test_demo_shows_everything_keeps_its_outputs_and_exits_0(tmp_path: Path) -> None:
    save = tmp_path / "kept"
    done = demo("--save", str(save))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "a telephone call: asr",  # progress as plain lines, because the output is no terminal
        "SPEAKER_00 Hello.",
        "SPEAKER_01 Hello.",
        "s3://results/transcripts/demo-call/manifest.json",
        "job.started ✓ job.completed ✓",
        "job.started ✓ job.failed ✓",
        "no_audio_stream: the file has no audio stream",
        "transcriptd_deliveries_total{outcome=published, reason=published} 2",
        "everything happened as it should",
    ):
        assert words in done.stdout
    page = save / "demo-call" / "transcript.html"
    assert done.stdout.splitlines()[-1] == f"open the transcript: {page}"
    assert 'src="recording.wav"' in page.read_text()
    assert (page.parent / "recording.wav").read_bytes() == sample_call().read_bytes()
    assert {"manifest.json", "transcript.md", "recording.mp4"} <= {
        path.name for path in (save / "demo-video").iterdir()
    }


def test_the_demo_fails_when_something_did_not_happen(tmp_path: Path) -> None:
    """With silence instead of speech the jobs succeed, but there is no transcript to show."""
    done = demo(str(make_wav(tmp_path / "silence.wav", silence(3))), "--save", str(tmp_path / "kept"))
    assert done.returncode == 1
    assert "✗ the transcript is empty" in done.stdout


def test_file_without_audio_is_reported() -> None:
    done = demo("/no/such/file.mp3")
    assert done.returncode == 2
    assert "is not a file" in done.stdout


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(**REAL) as world:
        # No prefix: these are the names that other programs read as well.
        world.settings.update({"HF_TOKEN": "hf_planted", "DEBUG": "true"})
        yield world


@pytest.fixture(scope="module")
def daemon(world: World) -> Iterator[DaemonProcess]:
    """One daemon for all jobs: loading the models takes longer than the jobs."""
    with world.daemon() as daemon:
        assert daemon.wait_until_ready(240), daemon.log_tail()
        yield daemon
        assert daemon.stop() == 0


def check_subtitles(outputs: dict[str, Any], text: str) -> None:
    """Assert that subtitles of real speech are complete, in order, within the limits, and equal in every format."""
    cues = list(srt.parse(outputs["transcript.srt"].decode(), ignore_errors=False))
    assert re.sub(r"SPEAKER_\d\d: ", "", " ".join(cue.content for cue in cues)).split() == text.split()
    assert all(len(line) <= 42 for cue in cues for line in cue.content.split("\n"))
    assert all(cue.content.count("\n") <= 1 for cue in cues)
    assert all(0 < (cue.end - cue.start).total_seconds() <= 7 for cue in cues)
    assert all(cue.end < following.start for cue, following in pairwise(cues))
    assert [cue.content[:12] for cue in cues[:2]] == ["SPEAKER_00: ", "SPEAKER_01: "]
    assert outputs["transcript.ass"].decode().count("\nDialogue: ") == len(cues)
    assert outputs["transcript.vtt"].decode().count("<v SPEAKER_0") > 4
    assert len(outputs["transcript.tsv"].decode().splitlines()) > 4
    assert outputs["transcript.txt"].decode().startswith("SPEAKER_00: Hello")


def test_silence_succeeds_and_no_secret_or_speech_reaches_the_log(
    world: World, daemon: DaemonProcess, tmp_path: Path
) -> None:
    world.upload("silence.mp3", make_audio(tmp_path / "silence.mp3", silence(8)))
    world.publish("silence", "silence.mp3")
    world.wait_for("silence", "job.completed")
    world.upload("call.wav", sample_call())
    secret = "metadata-is-the-customer's"
    world.publish(
        "call",
        "call.wav",
        metadata={"note": secret},
        options={"hotwords": "Yankee", "formats": ["json", "srt", "vtt", "ass", "tsv", "txt"]},
    )
    world.wait_for("call", "job.completed")
    wait_for(
        lambda: len([line for line in daemon.log_entries("job finished") if line["job_id"] == "call"]) == 1, "logged"
    )
    lines = list(daemon.log_entries())
    log = daemon.log_path.read_text()
    assert [line for line in lines if line["event"] == "unstructured"] == [], "libraries must not write into the log"
    for line in lines:
        jsonschema.validate(line, json_schema())
    text = " ".join(segment["text"] for segment in json.loads(world.outputs("call")["transcript.json"])["segments"])
    assert "Yankee" in text
    check_subtitles(world.outputs("call"), text)
    for planted in (
        SECRET,
        SECRET.removeprefix("whsec_"),
        "hf_planted",
        secret,
        "Yankee",
        "New Jersey",
        "embedded-secret",
    ):
        assert planted not in log
    transcript = json.loads(world.outputs("silence")["transcript.json"])
    assert transcript["segments"] == transcript["speakers"] == []
    assert transcript["duration_seconds"] == pytest.approx(8, abs=0.1)
    assert world.dead_letters() == []


@pytest.mark.usefixtures("daemon")
def test_channels_of_a_stereo_call_are_its_speakers(world: World, tmp_path: Path) -> None:
    call = np.stack([speech(0, 8), speech(16, 8)], axis=1)
    tracks = [np.zeros_like(call), call]
    world.upload("stereo.mov", make_tracks(tmp_path / "a.mov", tracks, "pcm_s16le", layout="stereo"))
    world.publish("stereo", "stereo.mov", options={"channels": "split", "audio_track": 1})
    world.wait_for("stereo", "job.completed")
    outputs = world.outputs("stereo")
    segments = json.loads(outputs["transcript.json"])["segments"]
    said = {name: " ".join(each["text"] for each in segments if each["speaker"] == name) for name in CHANNELS}
    assert "Hello" in said["CHANNEL_00"]
    assert "Chicago" in said["CHANNEL_01"]
    assert "Chicago" not in said["CHANNEL_00"]
    assert b"**CHANNEL_01:**" in outputs["transcript.md"]
    options = json.loads(outputs["manifest.json"])["options"]
    assert (options["channels"], options["audio_track"], options["diarize"]) == ("split", 1, False)
