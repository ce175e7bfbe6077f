"""whisperx and faster-whisper as libraries, with models that stay loaded. To be called in a process of their own."""

import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from bench.corpus import Sound
from bench.setup import BATCH_SIZE, BEAM_SIZE, MAX_SPEAKERS, MIN_SPEAKERS, Setup
from daemon.pipeline.pieces import Turn
from daemon.pipeline.quiet import prepare_environment, quiet_loggers, quietly


class LibraryTranscript(NamedTuple):
    segments: list[Any]  # as whisperx has them: text, start, end, and the speaker if there is one
    turns: list[Turn]  # of the diarization itself, if there was one
    stages: dict[str, float]  # seconds


# To be given writable float32 at 16 kHz (torch warns otherwise). The first call loads models.
Transcribe = Callable[[Sound, Setup], LibraryTranscript]


def transcribe_whisperx(audio: Sound, setup: Setup) -> LibraryTranscript:
    """All but word times: whisperx needs weights from a hub for these."""
    transcriber, diarizer = _transcriber(setup), _diarizer(setup)
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
    return LibraryTranscript(segments, [Turn(row.start, row.end, row.speaker) for row in found.itertuples()], stages)


def transcribe_faster_whisper(audio: Sound, setup: Setup) -> LibraryTranscript:
    """Its batched pipeline with its own voice activity detection, Silero's; no speakers, no word times."""
    pipeline = _batched(setup)
    with quietly():
        began = time.monotonic()
        segments, _ = pipeline.transcribe(audio, batch_size=BATCH_SIZE, beam_size=BEAM_SIZE)
        heard = [{"text": segment.text, "start": segment.start, "end": segment.end} for segment in segments]
        seconds = time.monotonic() - began
    return LibraryTranscript(heard, [], {"transcribe": seconds})


@cache
def _transcriber(setup: Setup) -> Any:
    _prepare(setup.threads)
    import whisperx

    with quietly():
        return whisperx.load_model(
            setup.model,
            device=setup.device,
            compute_type=setup.compute_type,
            threads=setup.threads,
            asr_options={"beam_size": BEAM_SIZE},
        )


@cache
def _diarizer(setup: Setup) -> Any:
    """whisperx's diarizer around the pipeline that the daemon uses, in place of one from the hub."""
    _prepare(setup.threads)
    import torch
    from pyannote.audio import Model
    from whisperx.diarize import DiarizationPipeline

    from daemon.embedded.diarization import embedded_pipeline

    diarizer = object.__new__(DiarizationPipeline)  # its constructor would ask the hub
    with quietly():
        segmentation = Model.from_pretrained(Path(str(files("whisperx"))) / "assets" / "pytorch_model.bin")
        diarizer.model = embedded_pipeline(segmentation).to(torch.device(setup.device))
    return diarizer


@cache
def _batched(setup: Setup) -> Any:
    _prepare(setup.threads)
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    with quietly():
        return BatchedInferencePipeline(
            WhisperModel(setup.model, device=setup.device, compute_type=setup.compute_type, cpu_threads=setup.threads)
        )


@cache
def _prepare(threads: int) -> None:
    """The libraries imported without their noise, and told their threads."""
    prepare_environment(None)
    with quietly():
        import torch

        import_module("whisperx.diarize")  # with pyannote and lightning, which set their loggers' levels themselves
    quiet_loggers()
    torch.set_num_threads(threads)
