"""`python bench/jobs.py`: the daemon's overhead, and its speed against whisperx, on one clip in one run.

One peer works at a time, so that none takes the CPU from another, and they take turns, so that the machine's noise
meets all of them. Nothing is asserted: it measures and prints. docs/performance.md says what the rows mean.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console

from bench.daemon_jobs import DaemonPeer, JobRun, open_daemon
from bench.peers import ApiRun, CliRun, run_api, run_cli
from bench.report import Measured, header, table

# OpenMP's threads spin for a while after their work: 0.2 s in CTranslate2.
SETTLE_SECONDS = 0.5

TABLE_WIDTH = 90


def main() -> None:
    arguments = _arguments()
    console = Console(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    threads = len(os.sched_getaffinity(0))
    with console.status("loading models…") as status, open_daemon(threads) as daemon:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as api:
            daemon.run_job()
            api.submit(run_api, threads).result()
            status.update("one warm job at a time: daemon and whisperx API in turns…")
            jobs, api_runs = _take_turns(daemon, api, threads, arguments.repeat)
        status.update("many jobs at once, and a whisperx command per file…")
        cli_runs = _run_clis(threads, (arguments.cli_runs + 1) // 2)
        batch = daemon.run_jobs(arguments.jobs, language="en")
        cli_runs += _run_clis(threads, arguments.cli_runs // 2)
        measured = Measured(header(threads), jobs, api_runs, batch, cli_runs)
    console.print(measured.header, soft_wrap=True)
    console.print(table(measured))
    if arguments.json:
        arguments.json.write_text(json.dumps(measured.as_json(), indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the daemon's overhead, and its speed against whisperx.")
    parser.add_argument("--repeat", type=_positive, default=5, help="warm jobs, one at a time, of each peer")
    parser.add_argument("--jobs", type=_positive, default=5, help="jobs published at once")
    parser.add_argument("--cli-runs", type=_positive, default=2, help="files given to the whisperx command")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _take_turns(
    daemon: DaemonPeer, api: ProcessPoolExecutor, threads: int, repeat: int
) -> tuple[list[JobRun], list[ApiRun]]:
    """Each peer so many times; who begins alternates."""
    jobs: list[JobRun] = []
    api_runs: list[ApiRun] = []

    def run_daemon() -> None:
        jobs.append(daemon.run_job())

    def run_peer() -> None:
        api_runs.append(api.submit(run_api, threads).result())

    for number in range(repeat):
        for run in (run_daemon, run_peer) if number % 2 == 0 else (run_peer, run_daemon):
            time.sleep(SETTLE_SECONDS)
            run()
    return jobs, api_runs


def _run_clis(threads: int, number: int) -> list[CliRun]:
    return [run_cli(threads) for _ in range(number)]


if __name__ == "__main__":
    main()
