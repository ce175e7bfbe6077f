"""Run jobs through the real daemon, in a separate process, with an AWS in this one."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from bench.corpus import Recording, write_wav
from bench.setup import BATCH_SIZE, MAX_SPEAKERS, MIN_SPEAKERS, Setup
from bench.usage import counted, running
from bench.waiting import wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.protocol.events import STAGES
from daemon.schema.transcript import Transcript

START_TIMEOUT_SECONDS = 900
JOBS_TIMEOUT_SECONDS = 4 * 3600
LOG_TIMEOUT_SECONDS = 60
DAEMON_STAGES = ("download", "decode", "publish")


class Job(NamedTuple):
    seconds: float  # from receive to outcome, from the daemon's log
    runner_seconds: float  # part of it, from sending the job to the runner until its response
    stages: dict[str, float]  # of the runner and the daemon
    transcript: Transcript

    @property
    def pipeline_stages(self) -> dict[str, float]:
        return {stage: self.stages.get(stage, 0.0) for stage in STAGES}

    @property
    def overhead_seconds(self) -> float:
        return self.seconds - self.runner_seconds

    @property
    def overhead(self) -> dict[str, float]:
        parts = {stage: self.stages.get(stage, 0.0) for stage in DAEMON_STAGES}
        return {**parts, "rest": self.overhead_seconds - sum(parts.values())}


class DaemonPeer:
    """A daemon with loaded models, and the world it works in."""

    def __init__(self, world: World, daemon: DaemonProcess) -> None:
        self._world = world
        self._daemon = daemon
        self._ids = (f"bench-{number}" for number in count())

    @property
    def pid(self) -> int:
        return self._daemon.process.pid

    @property
    def runner_pids(self) -> list[int]:
        return running("daemon.pipeline", self.pid)

    @property
    def busy_seconds(self) -> float:
        """Return the seconds in which runners had a job so far, added up over several runners."""
        return counted(self._daemon, "transcriptd_runner_busy_seconds_total")

    def upload(self, recordings: Sequence[Recording]) -> list[str]:
        """Upload the recordings as inputs and return the new jobs' IDs."""
        job_ids = [next(self._ids) for _ in recordings]
        with tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as name:
            for job_id, recording in zip(job_ids, recordings, strict=True):
                self._world.upload(job_id, write_wav(Path(name) / "recording.wav", recording.audio))
        return job_ids

    def run(self, job_ids: Sequence[str]) -> float:
        """Publish all jobs at once and return the seconds from the first SendMessage until the last `job.completed`."""
        began = time.monotonic()
        for job_id in job_ids:
            self._world.publish(job_id, job_id, options={"align": "attention"})
        for job_id in job_ids:
            self._world.wait_for(job_id, "job.completed", JOBS_TIMEOUT_SECONDS)
        return time.monotonic() - began

    def result(self, job_id: str) -> Job:
        """Return a job whose webhook reported completion.

        Raises RuntimeError if it published nothing, TimeoutError if its log line is missing.
        """
        entries: list[dict[str, Any]] = []

        def logged() -> bool:  # the webhook may arrive just before the log line
            entries[:] = [e for e in self._daemon.log_entries("job finished") if e["job_id"] == job_id]
            return bool(entries)

        wait_for(logged, f"the daemon has logged the end of {job_id}", LOG_TIMEOUT_SECONDS)
        entry, outputs = entries[-1], self._world.outputs(job_id)
        if entry["reason"] != "published" or "manifest.json" not in outputs:
            raise RuntimeError(f"{job_id} was not published: {entry}")
        transcript = Transcript.model_validate_json(outputs["transcript.json"])
        return Job(entry["duration_seconds"], entry["runner_seconds"], entry["stages_seconds"], transcript)


def daemon_settings(setup: Setup) -> dict[str, Any]:
    """Return the settings of a daemon with the peers' configuration."""
    return {
        "pipeline": "daemon.pipeline.whisperx_pipeline:WhisperXPipeline",
        "model": setup.model,
        "models": Path(setup.model).name,
        "devices": "cuda:0" if setup.device == "cuda" else setup.device,
        "compute_type": setup.compute_type,
        "batch_size": str(BATCH_SIZE),
        "cpu_threads": str(setup.threads),
        "diarization_model": "embedded",
        "min_speakers": str(MIN_SPEAKERS),
        "max_speakers": str(MAX_SPEAKERS),
        **dict(setup.daemon_settings),
    }


@contextmanager
def open_daemon(setup: Setup) -> Iterator[DaemonPeer]:
    """Start a daemon. Raises RuntimeError if it does not become ready."""
    with open_world(**daemon_settings(setup)) as world, world.daemon() as daemon:
        if not daemon.wait_until_ready(START_TIMEOUT_SECONDS):
            raise RuntimeError("the daemon did not become ready:\n" + "\n".join(daemon.log_tail()))
        yield DaemonPeer(world, daemon)
