"""What the daemon is measured against: whisperx as a library whose models stay loaded, and as a command per file.

Both get the daemon's clip, weights, beam and threads. Neither aligns words: whisperx needs weights from a hub for that.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg  # type: ignore[import-untyped]  # ships no types
import numpy as np

from bench.accuracy import Accuracy, accuracy
from daemon.embedded.models import whisper_base, whisper_tiny_en
from daemon.embedded.recordings import sample_call
from daemon.pipeline.pieces import Turn
from daemon.pipeline.quiet import prepare_environment, quiet_loggers, quietly
from tests.integration.pipeline_fixture import sample_audio

BATCH_SIZE = 16
BEAM_SIZE = 5
MIN_SPEAKERS, MAX_SPEAKERS = 2, 6


class ApiRun(NamedTuple):
    stages: dict[str, float]  # seconds
    accuracy: Accuracy  # DER of the segments, which are as long as 30 s and have one speaker each
    turns_der: float | None  # of the diarization itself

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())


class CliRun(NamedTuple):
    seconds: float
    accuracy: Accuracy


class ApiTranscript(NamedTuple):
    segments: list[Any]  # whisperx's: text, start, end, and the speaker if there is one
    turns: list[Turn]  # of the diarization itself
    stages: dict[str, float]  # seconds


def run_api(threads: int) -> ApiRun:
    """One call on the sample, which is decoded already. To be run in a process of its own; its first call loads models."""
    segments, turns, stages = transcribe_api(sample_audio().copy(), "base", threads)
    text = " ".join(segment["text"] for segment in segments)
    spoken = [Turn(segment["start"], segment["end"], segment["speaker"]) for segment in segments]
    return ApiRun(stages, accuracy(text, spoken), accuracy(text, turns).der)


def transcribe_api(audio: np.ndarray, model: str, threads: int) -> ApiTranscript:
    """Float32 at 16 kHz, writable (torch warns otherwise). `model` is `base` or `tiny.en`."""
    transcriber, diarizer = _transcriber(model, threads), _diarizer(threads)
    from whisperx.diarize import assign_word_speakers

    with quietly():
        began = time.monotonic()
        result = transcriber.transcribe(audio, batch_size=BATCH_SIZE)
        transcribed = time.monotonic()
        found = diarizer(audio, min_speakers=MIN_SPEAKERS, max_speakers=MAX_SPEAKERS)
        diarized = time.monotonic()
        segments = assign_word_speakers(found, result)["segments"]
        assigned = time.monotonic()
    stages = {"transcribe": transcribed - began, "diarize": diarized - transcribed, "assign": assigned - diarized}
    return ApiTranscript(segments, [Turn(row.start, row.end, row.speaker) for row in found.itertuples()], stages)


@cache
def _transcriber(model: str, threads: int) -> Any:
    _prepare(threads)
    import whisperx

    source = {"base": whisper_base, "tiny.en": whisper_tiny_en}[model]()
    with quietly():
        return whisperx.load_model(str(source), device="cpu", compute_type="int8", threads=threads)


@cache
def _diarizer(threads: int) -> Any:
    """whisperx's diarizer around the pipeline that the daemon uses, in place of one from the hub."""
    _prepare(threads)
    from pyannote.audio import Model
    from whisperx.diarize import DiarizationPipeline

    from daemon.embedded.diarization import embedded_pipeline

    diarizer = object.__new__(DiarizationPipeline)  # its constructor would ask the hub
    with quietly():
        segmentation = Model.from_pretrained(Path(str(files("whisperx"))) / "assets" / "pytorch_model.bin")
        diarizer.model = embedded_pipeline(segmentation)
    return diarizer


@cache
def _prepare(threads: int) -> None:
    """The libraries imported without their noise, and told their threads."""
    prepare_environment(None)
    with quietly():
        import torch

        import_module("whisperx.diarize")  # with pyannote and lightning, which set their loggers' levels themselves
    quiet_loggers()
    torch.set_num_threads(threads)


def run_cli(threads: int) -> CliRun:
    """One process for one file, without diarization: its model would have to come from a hub."""
    clip = sample_call()
    with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
        folder = Path(name)
        (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())  # whisperx reads files through this command
        environment = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "HF_HUB_OFFLINE": "1",
            "PYANNOTE_METRICS_ENABLED": "0",
        }
        command = [
            *(sys.executable, "-m", "whisperx", str(clip)),
            *("--model", str(whisper_base()), "--device", "cpu", "--compute_type", "int8"),
            *("--batch_size", str(BATCH_SIZE), "--beam_size", str(BEAM_SIZE), "--threads", str(threads)),
            *("--no_align", "--language", "en", "--output_format", "json", "--output_dir", str(folder)),
        ]
        began = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - began
        if done.returncode != 0:
            raise RuntimeError(f"the whisperx command failed with status {done.returncode}: {done.stderr[-2000:]}")
        segments = json.loads((folder / f"{clip.stem}.json").read_text())["segments"]
    return CliRun(seconds, accuracy(" ".join(segment["text"] for segment in segments), None))
