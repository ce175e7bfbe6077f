"""Memory of the poller process over many jobs: the real daemon with a pipeline without a model; everything else is
real."""

import argparse
import time

import numpy as np

from bench.corpus import write_wav
from bench.memory import status_bytes
from bench.usage import counted
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.pipeline.types import SAMPLE_RATE

WARM_JOBS_SHARE = 0.2  # caches and pools fill up first; after that, memory must be constant


def finished(daemon: DaemonProcess) -> int:
    return round(counted(daemon, "transcriptd_deliveries_total"))


def soak(world: World, jobs: int) -> list[tuple[int, int]]:
    """Return pairs of finished jobs and the poller's resident bytes over time."""
    samples: list[tuple[int, int]] = []
    with world.daemon(max_jobs_in_flight="4") as daemon:
        if not daemon.wait_until_ready(60):
            raise RuntimeError("\n".join(daemon.log_tail()))
        for number in range(jobs):
            world.publish(f"soak-{number}", "short.wav")
        while (done := finished(daemon)) < jobs:
            if not samples or done >= samples[-1][0] + jobs // 20:
                samples.append((done, status_bytes(daemon.process.pid, "VmRSS")))
            time.sleep(0.5)
        samples.append((done, status_bytes(daemon.process.pid, "VmRSS")))
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    jobs = parser.parse_args().jobs
    with open_world() as world:
        world.upload("short.wav", write_wav(world.folder / "short.wav", np.zeros(SAMPLE_RATE, np.float32)))
        started_at = time.monotonic()
        samples = soak(world, jobs)
    for done, size in samples:
        print(f"{done:6} jobs  {size / 2**20:7.1f} MiB")
    warm = next(size for done, size in samples if done >= jobs * WARM_JOBS_SHARE)
    growth = samples[-1][1] - warm
    print(
        f"{jobs} jobs in {time.monotonic() - started_at:.0f} s; growth after the first {WARM_JOBS_SHARE:.0%}: {growth / 2**20:+.1f} MiB"
    )


if __name__ == "__main__":
    main()
