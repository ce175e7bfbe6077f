"""whisperx and faster-whisper as libraries with models that stay loaded. Each is called in a separate process."""

import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from bench.corpus import Sound
from bench.setup import BATCH_SIZE, BEAM_SIZE, MAX_SPEAKERS, MIN_SPEAKERS, Setup
from daemon.pipeline.runtime.library_output import prepare_environment, quiet_loggers, suppress_library_output
from daemon.pipeline.types import Turn


class LibraryTranscript(NamedTuple):
    segments: list[Any]  # as in whisperx: text, start, end, and the speaker if there is one
    turns: list[Turn]  # of the diarization itself, if it ran
    stages: dict[str, float]  # seconds


# The audio must be writable float32 at 16 kHz (torch warns otherwise). The first call loads the models.
Transcribe = Callable[[Sound, Setup], LibraryTranscript]


def transcribe_whisperx(
    audio: Sound,
    setup: Setup,
    *,
    language: str | None = None,
    diarize: bool = True,
    speaker_bounds: tuple[int | None, int | None] = (MIN_SPEAKERS, MAX_SPEAKERS),
) -> LibraryTranscript:
    """Run whisperx without word times, which would need weights from a hub."""
    transcriber = _transcriber(setup)
    diarizer = _diarizer(setup) if diarize else None
    from whisperx.diarize import assign_word_speakers

    with suppress_library_output():
        began = time.monotonic()
        result = transcriber.transcribe(audio, batch_size=BATCH_SIZE, language=language)
        transcribed = time.monotonic()
        if diarizer is None:
            return LibraryTranscript(result["segments"], [], {"transcribe": transcribed - began})
        minimum, maximum = speaker_bounds
        found = diarizer(audio, min_speakers=minimum, max_speakers=maximum)
        diarized = time.monotonic()
        segments = assign_word_speakers(found, result)["segments"]
        assigned = time.monotonic()
    stages = {"transcribe": transcribed - began, "diarize": diarized - transcribed, "assign": assigned - diarized}
    return LibraryTranscript(segments, [Turn(row.start, row.end, row.speaker) for row in found.itertuples()], stages)


def transcribe_faster_whisper(audio: Sound, setup: Setup) -> LibraryTranscript:
    """Run the batched pipeline with its own voice activity detection, Silero; no speakers, no word times."""
    pipeline = _batched(setup)
    with suppress_library_output():
        began = time.monotonic()
        segments, _ = pipeline.transcribe(audio, batch_size=BATCH_SIZE, beam_size=BEAM_SIZE)
        heard = [{"text": segment.text, "start": segment.start, "end": segment.end} for segment in segments]
        seconds = time.monotonic() - began
    return LibraryTranscript(heard, [], {"transcribe": seconds})


def transcribe_faster_whisper_plain(audio: Sound, setup: Setup, *, language: str | None = None) -> LibraryTranscript:
    """Run WhisperModel.transcribe, one window after the other, with its voice activity detection and word times."""
    model = _whisper_model(setup)
    with suppress_library_output():
        began = time.monotonic()
        segments, _ = model.transcribe(
            audio, language=language, beam_size=BEAM_SIZE, vad_filter=True, word_timestamps=True
        )
        heard = [
            {
                "text": segment.text,
                "start": segment.start,
                "end": segment.end,
                "words": [{"word": word.word.strip(), "start": word.start} for word in segment.words],
            }
            for segment in segments
        ]
        seconds = time.monotonic() - began
    return LibraryTranscript(heard, [], {"transcribe": seconds})


@cache
def _transcriber(setup: Setup) -> Any:
    _prepare(setup.threads)
    import whisperx

    with suppress_library_output():
        return whisperx.load_model(
            setup.model,
            device=setup.device,
            compute_type=setup.compute_type,
            threads=setup.threads,
            asr_options={"beam_size": BEAM_SIZE},
        )


@cache
def _diarizer(setup: Setup) -> Any:
    """Return whisperx's diarizer with the daemon's pipeline instead of one from the hub."""
    _prepare(setup.threads)
    import torch
    from pyannote.audio import Model
    from whisperx.diarize import DiarizationPipeline

    from daemon.pipeline.pyannote_adapter.packaged import embedded_pipeline

    diarizer = object.__new__(DiarizationPipeline)  # its constructor would contact the hub
    with suppress_library_output():
        segmentation = Model.from_pretrained(Path(str(files("whisperx"))) / "assets" / "pytorch_model.bin")
        diarizer.model = embedded_pipeline(segmentation).to(torch.device(setup.device))
    return diarizer


@cache
def _batched(setup: Setup) -> Any:
    from faster_whisper import BatchedInferencePipeline

    return BatchedInferencePipeline(_whisper_model(setup))


@cache
def _whisper_model(setup: Setup) -> Any:
    _prepare(setup.threads)
    from faster_whisper import WhisperModel

    with suppress_library_output():
        return WhisperModel(
            setup.model, device=setup.device, compute_type=setup.compute_type, cpu_threads=setup.threads
        )


@cache
def _prepare(threads: int) -> None:
    """Import the libraries without their output and set their threads."""
    prepare_environment(None)
    with suppress_library_output():
        import torch

        from daemon.pipeline.runtime.plain_weights import allow_pyannote_checkpoints

        import_module("whisperx.diarize")  # with pyannote and lightning, which set their loggers' levels themselves
    quiet_loggers()
    allow_pyannote_checkpoints()  # as the daemon, whose process environment forbids others
    torch.set_num_threads(threads)
