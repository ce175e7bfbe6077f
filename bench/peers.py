"""The measured peers, each as a function from recordings and a set-up to a Run. Starting and loading are not timed,
except for peers that do them for every file."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import imageio_ffmpeg  # type: ignore[import-untyped]  # ships no types

from bench.corpus import Recording, call, write_wav
from bench.daemon_jobs import open_daemon
from bench.hypothesis import Hypothesis
from bench.libraries import LibraryTranscript, Transcribe, transcribe_faster_whisper, transcribe_whisperx
from bench.run import Run
from bench.setup import BATCH_SIZE, BEAM_SIZE, Setup
from bench.usage import ProcessWatch

Recordings = Sequence[Recording]


@dataclass(frozen=True, slots=True)
class Peer:
    title: str
    run: Callable[[Recordings, Setup], Run]
    is_slow: bool = False  # loads for each file: measured on a few files of a corpus


def whisperx_resident(recordings: Recordings, setup: Setup) -> Run:
    """Run whisperx's Python API in one process, file after file."""
    return _resident(transcribe_whisperx, recordings, setup, tells_speakers=True)


def faster_whisper_batched(recordings: Recordings, setup: Setup) -> Run:
    """Run faster-whisper's batched pipeline in one process, file after file."""
    return _resident(transcribe_faster_whisper, recordings, setup, tells_speakers=False)


def whisperx_loading(recordings: Recordings, setup: Setup) -> Run:
    """Run a process for every file, which loads the models first, as most deployments do."""
    found: list[LibraryTranscript] = []
    watches: list[ProcessWatch] = []
    file_seconds: list[float] = []
    began = time.monotonic()
    for recording in recordings:
        file_began = time.monotonic()
        with _process() as process, ProcessWatch(process.submit(os.getpid).result(), since_start=True) as watch:
            found.append(process.submit(transcribe_whisperx, recording.audio, setup).result())
        watches.append(watch)
        file_seconds.append(time.monotonic() - file_began)
    return _sequential(recordings, found, watches, began, file_seconds, setup, tells_speakers=True)


def whisperx_command(recordings: Recordings, setup: Setup) -> Run:
    """Run the whisperx command for every file, without diarization, whose model would come from a hub."""
    hypotheses: list[Hypothesis] = []
    watches: list[ProcessWatch] = []
    file_seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
        folder = Path(name)
        (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())  # whisperx reads files with this command
        files = [write_wav(folder / f"{index}.wav", recording.audio) for index, recording in enumerate(recordings)]
        began = time.monotonic()
        for file in files:
            file_began = time.monotonic()
            watches.append(_run_command(file, setup))
            file_seconds.append(time.monotonic() - file_began)
            segments = json.loads(file.with_suffix(".json").read_text())["segments"]
            hypotheses.append(Hypothesis.of_library(segments))
    return Run.of(
        recordings,
        hypotheses,
        watches,
        began=began,
        wall_seconds=sum(file_seconds),
        threads=setup.threads,
        file_seconds=file_seconds,
        tells_speakers=False,
    )


def transcriptd(recordings: Recordings, setup: Setup) -> Run:
    """Publish all files at once and wait until the last is completed. Download, decoding and publishing are
    included."""
    with open_daemon(setup) as daemon:
        daemon.run(daemon.upload([call()]))
        job_ids = daemon.upload(recordings)
        busy_before = daemon.busy_seconds
        with ExitStack() as watching, ProcessWatch(daemon.pid) as watch:
            runners = [watching.enter_context(ProcessWatch(pid)) for pid in daemon.runner_pids]
            began = time.monotonic()
            wall_seconds = daemon.run(job_ids)
        jobs = [daemon.result(job_id) for job_id in job_ids]
        busy_seconds = daemon.busy_seconds - busy_before
    return Run.of(
        recordings,
        [Hypothesis.of_daemon(job.transcript) for job in jobs],
        [watch],
        began=began,
        wall_seconds=wall_seconds,
        threads=setup.threads,
        busy_seconds=busy_seconds,
        stages=[job.pipeline_stages for job in jobs],
        model_watches=runners,
    )


# By command-line name. The first one is the baseline of the comparison.
PEERS = {
    "resident": Peer("whisperx API, resident", whisperx_resident),
    "transcriptd": Peer("transcriptd", transcriptd),
    "batched": Peer("faster-whisper batched, no diarization", faster_whisper_batched),
    "loading": Peer("whisperx API, models loaded per file", whisperx_loading, is_slow=True),
    "command": Peer("whisperx command, no diarization", whisperx_command, is_slow=True),
}


def _resident(transcribe: Transcribe, recordings: Recordings, setup: Setup, *, tells_speakers: bool) -> Run:
    found: list[LibraryTranscript] = []
    file_seconds: list[float] = []
    with _process() as process:
        process.submit(transcribe, call().audio, setup).result()  # loads the models
        with ProcessWatch(process.submit(os.getpid).result()) as watch:
            began = time.monotonic()
            for recording in recordings:
                file_began = time.monotonic()
                found.append(process.submit(transcribe, recording.audio, setup).result())
                file_seconds.append(time.monotonic() - file_began)
    return _sequential(recordings, found, [watch], began, file_seconds, setup, tells_speakers=tells_speakers)


def _sequential(
    recordings: Recordings,
    found: Sequence[LibraryTranscript],
    watches: Sequence[ProcessWatch],
    began: float,
    file_seconds: Sequence[float],
    setup: Setup,
    *,
    tells_speakers: bool,
) -> Run:
    """Build the run of a library that processes one file after the other: all its stages are in the models."""
    return Run.of(
        recordings,
        [Hypothesis.of_library(each.segments) for each in found],
        watches,
        began=began,
        wall_seconds=sum(file_seconds),
        threads=setup.threads,
        file_seconds=file_seconds,
        busy_seconds=sum(sum(each.stages.values()) for each in found),
        stages=[each.stages for each in found],
        tells_speakers=tells_speakers,
    )


@contextmanager
def _process() -> Iterator[ProcessPoolExecutor]:
    """Open a new process that runs what is submitted to it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


def _run_command(file: Path, setup: Setup) -> ProcessWatch:
    """Run a command that writes a JSON file next to the recording. Raises RuntimeError if the command fails."""
    environment = {
        **os.environ,
        "PATH": f"{file.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "PYANNOTE_METRICS_ENABLED": "0",
    }
    command = [
        *(sys.executable, "-m", "whisperx", str(file)),
        *("--model", setup.model, "--device", setup.device, "--compute_type", setup.compute_type),
        *("--batch_size", str(BATCH_SIZE), "--beam_size", str(BEAM_SIZE), "--threads", str(setup.threads)),
        *("--no_align", "--output_format", "json", "--output_dir", str(file.parent)),
    ]
    with (
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        ProcessWatch(process.pid, since_start=True) as watch,
    ):
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the whisperx command failed with status {process.returncode}: {output[-2000:]}")
    return watch
