"""Jobs through the real daemon: a process of its own beside an AWS in this one."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from scipy.io import wavfile

from bench.accuracy import Accuracy, accuracy
from bench.corpus import Recording
from bench.memory import status_bytes
from bench.peers import BATCH_SIZE, MAX_SPEAKERS, MIN_SPEAKERS
from daemon.embedded.models import whisper_base
from daemon.embedded.process import DaemonProcess
from daemon.embedded.recordings import sample_call
from daemon.pipeline.pieces import SAMPLE_RATE, Turn
from daemon.transcript import Transcript
from tests.acceptance.world import World, open_world

START_TIMEOUT_SECONDS = 180
JOB_TIMEOUT_SECONDS = 300
MIX_TIMEOUT_SECONDS = 3600
PIPELINE_STAGES = ("vad", "asr", "align", "diarize")  # what the runner times
DAEMON_STAGES = ("download", "decode", "wait", "publish")
KEY = "call.wav"


class JobRun(NamedTuple):
    seconds: float  # from receive to outcome, as the daemon logs it
    customer_seconds: float  # from SendMessage to job.completed, which follows the manifest
    stages: dict[str, float]
    accuracy: Accuracy

    @property
    def pipeline_seconds(self) -> float:
        return sum(self.stages[stage] for stage in PIPELINE_STAGES)

    @property
    def overhead_seconds(self) -> float:
        return self.seconds - self.pipeline_seconds

    @property
    def overhead(self) -> dict[str, float]:
        parts = {stage: self.stages[stage] for stage in DAEMON_STAGES}
        return {**parts, "rest": self.overhead_seconds - sum(parts.values())}


class BatchRun(NamedTuple):
    seconds: float  # from the first SendMessage to the last job.completed
    jobs: list[JobRun]

    @property
    def seconds_per_file(self) -> float:
        return self.seconds / len(self.jobs)


class DaemonPeer:
    """A daemon with its models loaded, and the world it works in."""

    def __init__(self, world: World, daemon: DaemonProcess) -> None:
        self._world = world
        self._daemon = daemon
        self._ids = (f"bench-{number}" for number in count())

    def run_job(self) -> JobRun:
        return self.run_jobs(1).jobs[0]

    def run_jobs(self, number: int, language: str | None = None) -> BatchRun:
        """Publish so many jobs at once and wait for all. Without a language it is detected."""
        job_ids = [next(self._ids) for _ in range(number)]
        published: dict[str, float] = {}
        completed: dict[str, float] = {}
        for job_id in job_ids:
            published[job_id] = time.monotonic()
            self._world.publish(job_id, KEY, options={"align": "attention", "language": language})
        for job_id in job_ids:
            self._world.wait_for(job_id, "job.completed", JOB_TIMEOUT_SECONDS)
            completed[job_id] = time.monotonic()
        runs = [self._job_run(job_id, completed[job_id] - published[job_id]) for job_id in job_ids]
        return BatchRun(max(completed.values()) - min(published.values()), runs)

    def run_recordings(
        self, recordings: Sequence[Recording]
    ) -> tuple[float, list[Transcript], list[dict[str, float]], int]:
        """All of them at once: seconds until the last is told, transcripts, stages' seconds, the runner's peak memory."""
        job_ids = [next(self._ids) for _ in recordings]
        with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
            for job_id, recording in zip(job_ids, recordings, strict=True):
                file = Path(name) / f"{job_id}.wav"
                wavfile.write(file, SAMPLE_RATE, recording.audio)
                self._world.upload(f"{job_id}.wav", file)
        began = time.monotonic()
        for job_id in job_ids:
            self._world.publish(job_id, f"{job_id}.wav", options={"align": "attention"})
        for job_id in job_ids:
            self._world.wait_for(job_id, "job.completed", MIX_TIMEOUT_SECONDS)
        seconds = time.monotonic() - began
        stages = [self._finished(job_id)["stages_seconds"] for job_id in job_ids]
        outputs = [self._world.outputs(job_id)["transcript.json"] for job_id in job_ids]
        transcripts = [Transcript.model_validate_json(output) for output in outputs]
        return seconds, transcripts, stages, status_bytes(self._runner_pid(), "VmHWM")

    def _runner_pid(self) -> int:
        starts = self._daemon.log_entries("runner starting")
        return int(list(starts)[-1]["runner_pid"])

    def _job_run(self, job_id: str, customer_seconds: float) -> JobRun:
        entry = self._finished(job_id)
        outputs = self._world.outputs(job_id)
        if entry["reason"] != "published" or "manifest.json" not in outputs:
            raise RuntimeError(f"{job_id} was not published: {entry}")
        segments = json.loads(outputs["transcript.json"])["segments"]
        turns = [Turn(segment["start"], segment["end"], segment["speaker"]) for segment in segments]
        return JobRun(
            seconds=entry["duration_seconds"],
            customer_seconds=customer_seconds,
            stages=entry["stages_seconds"],
            accuracy=accuracy(" ".join(segment["text"] for segment in segments), turns),
        )

    def _finished(self, job_id: str) -> dict[str, Any]:
        """The log's last line of the job; the webhook may be a moment ahead of it."""
        deadline = time.monotonic() + JOB_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for entry in self._daemon.log_entries("job finished"):
                if entry["job_id"] == job_id:
                    return dict(entry)
            time.sleep(0.01)
        raise RuntimeError(f"the daemon logged no end of {job_id}")


@contextmanager
def open_daemon(threads: int, **changes: str) -> Iterator[DaemonPeer]:
    settings: dict[str, Any] = {
        "pipeline": "daemon.pipeline.whisperx_pipeline:WhisperXPipeline",
        "model": str(whisper_base()),
        "models": "base",
        "devices": "cpu",
        "compute_type": "int8",
        "batch_size": str(BATCH_SIZE),
        "cpu_threads": str(threads),
        "diarization_model": "embedded",
        "min_speakers": str(MIN_SPEAKERS),
        "max_speakers": str(MAX_SPEAKERS),
        **changes,
    }
    with open_world(**settings) as world, world.daemon() as daemon:
        if not daemon.wait_until_ready(START_TIMEOUT_SECONDS):
            raise RuntimeError("the daemon did not become ready:\n" + "\n".join(daemon.log_tail()))
        world.upload(KEY, sample_call())
        yield DaemonPeer(world, daemon)
