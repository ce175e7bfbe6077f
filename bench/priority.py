"""`make bench-priority`: how long an interactive job takes under a full batch queue, compared with an idle daemon.

A real daemon with real models receives from two queues, in strict order. Interactive jobs, a call of 30 s each, come one
after the other: first alone, then while long recordings of the batch queue fill the daemon. The ratio of the medians
should be at most 2. The last line shows the price: how fast the batch jobs were during that time.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.corpus import call, write_wav
from bench.daemon_jobs import JOBS_TIMEOUT_SECONDS, START_TIMEOUT_SECONDS, daemon_settings
from bench.report import machine, spread
from bench.setup import Setup, cores, find_model
from bench.waiting import wait_for
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess

QUEUES = ("interactive", "batch")
SHORT, LONG = "call.wav", "long.wav"
BACKLOG = 8
OPTIONS = {"align": "attention"}


class Peer:
    """A daemon with two queues."""

    def __init__(self, world: World, daemon: DaemonProcess, queue_urls: dict[str, str]) -> None:
        self._world = world
        self._daemon = daemon
        self._queue_urls = queue_urls

    def publish(self, queue: str, job_id: str, key: str) -> None:
        body = {"job_id": job_id, "input": {"bucket": self._world.aws.input_bucket, "key": key}, "options": OPTIONS}
        self._world.aws.sqs.send_message(QueueUrl=self._queue_urls[queue], MessageBody=json.dumps(body))

    def time(self, job_id: str) -> float:
        """Return the seconds from the send of an interactive job until its `job.completed`."""
        began = time.monotonic()
        self.publish("interactive", job_id, SHORT)
        self._world.wait_for(job_id, "job.completed", JOBS_TIMEOUT_SECONDS)
        return time.monotonic() - began

    def fill(self) -> None:
        """Publish the backlog, and wait until a job of it is being transcribed."""
        for number in range(BACKLOG):
            self.publish("batch", f"batch-{number}", LONG)
        wait_for(lambda: self.batch_fraction() > 0, "a batch job has started", JOBS_TIMEOUT_SECONDS)

    def batch_fraction(self) -> float:
        """Return the progress of the batch jobs, added up."""
        held: list[dict[str, Any]] = json.loads(self._daemon.get("/status.json"))["jobs"]
        return sum(float(job["overall_fraction"]) for job in held if job["queue"] == "batch")


@contextmanager
def open_peer(setup: Setup, long_minutes: float) -> Iterator[Peer]:
    settings = {**daemon_settings(setup), "drain_timeout_seconds": "0", "checkpoint_after_seconds": "36000"}
    with open_world(**settings) as world, tempfile.TemporaryDirectory(prefix="transcriptd-bench-") as folder:
        short = call().audio
        recordings = {SHORT: short, LONG: np.tile(short, round(long_minutes * 60 / call().duration))}
        for name, audio in recordings.items():
            world.upload(name, write_wav(Path(folder) / name, audio))
        queues = world.add_queues(*QUEUES)
        with world.daemon() as daemon:
            if not daemon.wait_until_ready(START_TIMEOUT_SECONDS):
                raise RuntimeError("the daemon did not become ready:\n" + "\n".join(daemon.log_tail()))
            yield Peer(world, daemon, {name: url for name, (url, _) in queues.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="base", help="base, tiny.en, a folder or a name of faster-whisper")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compute-type", default="int8", help="CTranslate2 type")
    parser.add_argument("--jobs", type=int, default=5, help="interactive jobs of each phase")
    parser.add_argument("--long-minutes", type=float, default=60, help="length of the recordings of the batch queue")
    arguments = parser.parse_args()
    setup = Setup(find_model(arguments.model), arguments.device, arguments.compute_type)
    with open_peer(setup, arguments.long_minutes) as peer:
        peer.time("warm-up")
        idle = [peer.time(f"idle-{number}") for number in range(arguments.jobs)]
        peer.fill()
        before, began = peer.batch_fraction(), time.monotonic()
        busy = [peer.time(f"busy-{number}") for number in range(arguments.jobs)]
        progress, seconds = peer.batch_fraction() - before, time.monotonic() - began
    print(machine(cores(), arguments.device))
    print(f"{setup}; interactive: 30 s, batch: {BACKLOG} × {arguments.long_minutes:g} min")
    print(f"idle daemon         {spread(idle)} s")
    print(f"full batch queue    {spread(busy)} s")
    print(f"ratio               {median(busy) / median(idle):.2f} (target: ≤ 2)")
    print(f"batch in that time  {progress * arguments.long_minutes * 60 / seconds:.1f} s of audio a second")


if __name__ == "__main__":
    main()
