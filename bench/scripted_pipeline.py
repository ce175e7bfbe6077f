"""Pipelines without a model that fail on purpose. A job selects the behaviour in its `initial_prompt`; the set-up
classes always fail."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from daemon.errors import DeviceFault, ModelUnavailable
from daemon.pipeline.checkpoints.store import Checkpoints
from daemon.pipeline.runtime.reporter import Reporter
from daemon.protocol.events import STAGES, BatchDecoded, ChunksFiltered, Progress, StageDone
from daemon.protocol.messages import Ready
from daemon.protocol.runner_settings import RunnerSettings
from daemon.schema.options import JobOptions
from daemon.schema.transcript import SCHEMA_VERSION, Models, Segment, Transcript, TranscriptWarning, Word

WORK_SHARES = {"vad": 0.05, "asr": 0.6, "align": 0.1, "diarize": 0.25}


class ScriptedPipeline:
    """A pipeline that transcribes everything as "hello there".

    Prompts: sleep SECONDS, until FILE (exists), work SECONDS (in stages), resume SECONDS (sleeps only without a
    checkpoint), vary SECONDS (says a random word and the digest of the audio), say TEXT, leak BYTES, spawn FILE (starts
    a process that outlives the job and writes its PID to the file), hang, once FILE (hangs unless FILE exists, and
    creates it first), sigkill and cuda (after SECONDS, if given), segv, exit, raise TEXT, warn, chatter
    TEXT (through every channel on which a library can print or log).
    """

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings

    def load(self) -> Ready:
        return Ready("cpu", "scripted", "none", {"asr": "scripted"}, 0.01, fingerprint="scripted")

    def run(
        self,
        job_id: str,
        audio: Sequence[np.ndarray],
        options: JobOptions,
        reporter: Reporter,
        checkpoints: Checkpoints,
    ) -> Transcript:
        reporter.emit(Progress("vad", 0.0))
        command, _, argument = (options.initial_prompt or "").partition(" ")
        match command:
            case "sleep" | "vary":
                sleep(float(argument), reporter)
            case "until":
                while not Path(argument).exists():
                    sleep(0.05, reporter)
            case "leak":
                self._leaked = b"x" * int(argument)
            case "resume":
                if checkpoints.load("asr-00000.json") != ["kept"]:
                    checkpoints.save("asr-00000.json", ["kept"])
                    sleep(float(argument), reporter)
            case "spawn":
                Path(argument).write_text(str(subprocess.Popen(["sleep", "3600"]).pid))
            case "hang":
                time.sleep(3600)
            case "once" if not Path(argument).exists():
                Path(argument).touch()
                time.sleep(3600)
            case "sigkill":
                time.sleep(float(argument or 0))
                os.kill(os.getpid(), signal.SIGKILL)
            case "segv":
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)  # another thread may be the one that receives it
            case "exit":
                os._exit(3)
            case "raise":
                raise ValueError(f"scripted failure {argument}".strip())
            case "chatter":
                _chatter(argument)
            case "cuda":
                time.sleep(float(argument or 0))
                raise DeviceFault("CUDA error: an illegal memory access was encountered")
        for stage in STAGES:
            seconds = float(argument) * WORK_SHARES[stage] if command == "work" else 0.001
            if command == "work":
                sleep(seconds, reporter)
            reporter.emit(Progress(stage, 1.0))
            reporter.emit(StageDone(stage, seconds))
        reporter.emit(BatchDecoded(chunks=4, capacity=16))
        reporter.emit(ChunksFiltered(chunks=4, rejected=1, rescan_rejected=0))
        duration = len(audio[0]) / 16_000
        speaker = "SPEAKER_00" if options.diarize else None
        # As with a real model, whose timings differ, no two runs of a "vary" job have the same outputs.
        said: tuple[str, ...] = ("hello", "there")
        if command == "vary":
            said = ("hello", uuid.uuid4().hex, hashlib.sha256(audio[0].tobytes()).hexdigest())
        if command == "say":
            said = tuple(argument.split())
        words = [Word(word=word, start=0.0, end=0.1, score=0.9, speaker=speaker, overlap=None) for word in said]
        return Transcript(
            schema_version=SCHEMA_VERSION,
            job_id=job_id,
            task=options.task,
            language="en",
            language_probability=None,
            language_probabilities={},
            start_seconds=0.0,
            duration_seconds=duration,
            speakers=[speaker] if speaker else [],
            speaker_embeddings=None,
            segments=[
                Segment(
                    start=0.0,
                    end=0.1,
                    text=" ".join(said),
                    speaker=speaker,
                    overlap=None,
                    confidence=0.9,
                    language="en",
                    avg_logprob=-0.1,
                    words=words,
                )
            ],
            models=Models(
                asr="scripted", vad="none", alignment=None, diarization=None, device="cpu", compute_type="none"
            ),
            timings_seconds=dict.fromkeys(STAGES, 0.001),
            redactions={},
            warnings=[TranscriptWarning(code="scripted", stage="asr", message="asked for")]
            if command == "warn"
            else [],
        )

    def diarize_again(
        self,
        job_id: str,
        _audio: Sequence[np.ndarray],
        earlier: Transcript,
        options: JobOptions,
        reporter: Reporter,
        _checkpoints: Checkpoints,
    ) -> Transcript:
        """Give the words in turn to as many speakers as the job names. Prompts of the earlier job have no effect."""
        count = options.num_speakers or 1
        reporter.emit(Progress("diarize", 1.0))
        reporter.emit(StageDone("diarize", 0.001))
        segments = [
            segment.model_copy(
                update={
                    "speaker": "SPEAKER_00",
                    "words": [
                        word.model_copy(update={"speaker": f"SPEAKER_{number % count:02}"})
                        for number, word in enumerate(segment.words)
                    ],
                }
            )
            for segment in earlier.segments
        ]
        return earlier.model_copy(
            update={
                "job_id": job_id,
                "segments": segments,
                "speakers": [f"SPEAKER_{number:02}" for number in range(count)],
                "timings_seconds": {"diarize": 0.001},
            }
        )


def _chatter(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)
    logging.getLogger("a.library").warning(text)
    logging.getLogger("a.library").error("heard %s", text)
    warnings.warn(text, stacklevel=1)
    os.write(1, b"native output\n")

    def fail() -> None:
        raise ValueError(text)

    thread = threading.Thread(target=fail, name="chatter")
    thread.start()
    thread.join()


def sleep(seconds: float, reporter: Reporter) -> None:
    """Sleep as a model works: report progress until the job is cancelled."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reporter.check_cancelled()
        reporter.emit(Progress("asr", 0.5))
        time.sleep(0.05)


class RaisesInSetup(ScriptedPipeline):
    def load(self) -> Ready:
        raise RuntimeError("no such model")


class LacksWeights(ScriptedPipeline):
    def load(self) -> Ready:
        raise ModelUnavailable("cannot load the Whisper model base: check the network")


class ExitsInSetup(ScriptedPipeline):
    def load(self) -> Ready:
        os._exit(5)


class HangsInSetup(ScriptedPipeline):
    def load(self) -> Ready:
        time.sleep(3600)
        return super().load()


class BreaksWithItsGpu(ScriptedPipeline):
    """A pipeline that cannot load on the GPUs in BROKEN_GPUS, separated by commas; it takes LOAD_SECONDS on the
    others."""

    def load(self) -> Ready:
        if os.environ["CUDA_VISIBLE_DEVICES"] in os.environ.get("BROKEN_GPUS", "").split(","):
            raise RuntimeError("no such device")
        time.sleep(float(os.environ.get("LOAD_SECONDS", "0")))
        return super().load()
