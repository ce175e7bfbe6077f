"""`python -m bench.poller`: compare the poller's cost per job with a minimal loop of the AWS calls that any worker
needs.

The pipeline has no model, which leaves the daemon itself. The peer receives, downloads, puts as many objects as the job
has outputs and a manifest, and deletes the message, one job after the other, with aioboto3 like the daemon. It decodes
nothing, guarantees nothing and sends no webhooks. Both run in separate processes against one AWS in this process.
"""

import argparse
import asyncio
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import aioboto3

from bench.usage import running
from bench.world import World, open_world
from daemon.demo.process import DaemonProcess
from daemon.demo.recordings import sample_call

KEY = "call.wav"
OBJECTS = ("transcript.json", "transcript.md", "manifest.json")
WARM_JOBS = 10


class Cost(NamedTuple):
    cpu_seconds: float  # of one job, in user and kernel mode
    wall_seconds: float


def ticks(pid: int, *, with_children: bool) -> float:
    """Return the processor seconds of a process and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_children else 13])) / os.sysconf("SC_CLK_TCK")


def run_daemon(world: World, jobs: int) -> tuple[Cost, float]:
    """Return the poller's cost per job, with one job at a time, and the processor seconds of decoding."""
    with world.daemon(max_jobs_in_flight="1") as daemon:
        _publish(world, "warm", WARM_JOBS)
        _finish(world, daemon, WARM_JOBS)
        (decoders,) = running("daemon.media.fork_server", daemon.process.pid)
        before = ticks(daemon.process.pid, with_children=False), ticks(decoders, with_children=True)
        _publish(world, "job", jobs)
        entries = _finish(world, daemon, WARM_JOBS + jobs)[WARM_JOBS:]
        cpu, decoding = ticks(daemon.process.pid, with_children=False), ticks(decoders, with_children=True)
    cost = Cost((cpu - before[0]) / jobs, median(entry["duration_seconds"] for entry in entries))
    return cost, (decoding - before[1]) / jobs


def _publish(world: World, name: str, jobs: int) -> None:
    for number in range(jobs):
        world.publish(f"{name}-{number}", KEY)


def _finish(world: World, daemon: DaemonProcess, jobs: int) -> list[dict[str, Any]]:
    world.wait_until_counted(daemon, jobs)
    return list(daemon.log_entries("job finished"))


async def bare_loop(environment: dict[str, str], folder: Path, jobs: int) -> Cost:
    session, times = aioboto3.Session(), []
    queue_url, bucket = environment["TRANSCRIPTD_QUEUE_URL"], environment["TRANSCRIPTD_OUTPUT_BUCKET"]
    async with session.client("sqs") as sqs, session.client("s3") as s3:
        for number in range(WARM_JOBS + jobs):
            if number == WARM_JOBS:
                cpu = time.process_time()
            (message,) = (await sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=1))["Messages"]
            began = time.perf_counter()
            job = json.loads(message["Body"])
            found = await s3.get_object(Bucket=job["input"]["bucket"], Key=job["input"]["key"])
            await asyncio.to_thread((folder / "input").write_bytes, await found["Body"].read())
            for name in OBJECTS:
                await s3.put_object(Bucket=bucket, Key=f"bare/{job['job_id']}/{name}", Body=b"x" * 2000)
            await sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
            times.append(time.perf_counter() - began)
        return Cost((time.process_time() - cpu) / jobs, median(times[WARM_JOBS:]))


def _run_peer(environment: dict[str, str], folder: Path, jobs: int) -> Cost:
    os.environ.update(environment)
    return asyncio.run(bare_loop(environment, folder, jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100, help="jobs per peer")
    jobs = parser.parse_args().jobs
    with open_world() as world:
        world.upload(KEY, sample_call())
        daemon, decoding = run_daemon(world, jobs)
        _publish(world, "bare", WARM_JOBS + jobs)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            bare = pool.submit(_run_peer, world.aws.environment, world.folder, jobs).result()
    print(f"{jobs} jobs each, load {os.getloadavg()[0]:.1f}          CPU ms/job   wall ms/job, median")
    print(f"bare aioboto3 loop                  {bare.cpu_seconds * 1e3:8.1f}   {bare.wall_seconds * 1e3:8.1f}")
    print(f"transcriptd, poller                 {daemon.cpu_seconds * 1e3:8.1f}   {daemon.wall_seconds * 1e3:8.1f}")
    print(
        f"  ratio                             {daemon.cpu_seconds / bare.cpu_seconds:8.1f} × {daemon.wall_seconds / bare.wall_seconds:8.1f} ×"
    )
    print(f"transcriptd, decoders               {decoding * 1e3:8.1f}   (within the above)")


if __name__ == "__main__":
    main()
