"""`python -m bench.throughput`: compare transcriptd, through its real queue, with other peers in one run on the same
recordings.

All peers get the same weights, precision, beam, batch size and threads. One works at a time, and they alternate within
each repetition, so that the machine's noise affects all of them. The command asserts nothing; it measures and prints.
docs/performance.md explains the rows.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.corpora import CORPORA
from bench.corpus import Recording
from bench.gpu_watch import gpu_name, watching
from bench.overhead import OneJob, measure_overhead, overhead_table
from bench.peers import PEERS
from bench.report import machine, write_measured
from bench.run import Row
from bench.setup import Setup, find_model
from bench.throughput_table import comparisons, table

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
COMMAND = 'make bench ARGS="--full --write"'

SHORT_SECONDS = 31.0
LONGEST_LOADING_SECONDS = 15 * 60.0  # loading models for longer files than this makes no difference
FULL = {"corpora": list(CORPORA), "repeat": 5, "scale": 1.0}


def subset(recordings: Sequence[Recording], count: int) -> list[Recording]:
    """Select files for a peer that loads its models for each file: `count` of the short ones, evenly spread.

    If none is short, the first file alone, and none at all if it is very long.
    """
    short = [recording for recording in recordings if recording.duration <= SHORT_SECONDS]
    if not short:
        return [recording for recording in recordings[:1] if recording.duration <= LONGEST_LOADING_SECONDS]
    count = min(count, len(short))
    return [short[index * len(short) // count] for index in range(count)]


def measure(
    corpora: dict[str, list[Recording]],
    peers: Sequence[str],
    setup: Setup,
    *,
    repeat: int,
    subset_files: int,
    nvml: Any = None,
) -> Iterator[Row]:
    """Yield rows as they are measured, with a different peer first in each repetition. With NVML the GPU is watched,
    too."""
    for repetition in range(repeat):
        for corpus, recordings in corpora.items():
            for name in peers if repetition % 2 == 0 else reversed(peers):
                peer = PEERS[name]
                given = subset(recordings, subset_files) if peer.is_slow else recordings
                if not given:
                    continue
                with watching(nvml) as gpu:
                    run = peer.run(given, setup)
                use = gpu.use(run.began, run.began + run.wall_seconds) if gpu else None
                yield Row(corpus, len(recordings), repetition, name, run, use)


def report(rows: Sequence[Row], jobs: Sequence[OneJob], setup: Setup, scale: float, nvml: Any = None) -> str:
    """Format everything as Markdown."""
    repeat = 1 + max((row.repetition for row in rows), default=0)
    lasting = {row.corpus: row.run.audio_seconds for row in rows if len(row.run.files) == row.files}
    corpora = ", ".join(f"{corpus} {seconds / 60:.0f} min" for corpus, seconds in lasting.items())
    head = machine(setup.threads, gpu_name(nvml)).replace("\n", "; ")
    parts = [f"{head}. {setup}.\nMedians (min–max) of n = {repeat}; scale {scale:g}: {corpora}.\n", table(rows)]
    parts += [compared] if (compared := comparisons(rows)) else []
    parts += [overhead_table(jobs)] if jobs else []
    return "\n".join(parts)


def run(
    arguments: argparse.Namespace, setup: Setup, console: Console, nvml: Any = None
) -> tuple[list[Row], list[OneJob]]:
    """Measure what the arguments request and print each row when it is measured."""
    corpora = {name: CORPORA[name](arguments.scale) for name in arguments.corpora}
    rows: list[Row] = []
    options = {"repeat": arguments.repeat, "subset_files": arguments.subset}
    for row in measure(corpora, arguments.peers, setup, nvml=nvml, **options):
        rows.append(row)
        console.print(
            f"{row.repetition + 1}/{arguments.repeat} {row.corpus}, {PEERS[row.peer].title}: {row.run.speed:.2f} audio s/s, "
            f"{row.run.audio_seconds:.0f} s of audio in {row.run.wall_seconds:.1f} s, WER {row.run.wer:.3f}",
            soft_wrap=True,
        )
        if arguments.json:  # after each row, so that an interruption loses no measurements
            write_json(arguments.json, rows, [])
    jobs = measure_overhead(setup, arguments.overhead_jobs) if arguments.overhead_jobs else []
    if arguments.json:
        write_json(arguments.json, rows, jobs)
    return rows, jobs


def write_json(path: Path, rows: Sequence[Row], jobs: Sequence[OneJob], **more: Any) -> None:
    found = {"rows": [asdict(row) for row in rows], "overhead": [asdict(job) for job in jobs], **more}
    path.write_text(json.dumps(found, indent=2) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select the measurements, shared with bench.gpu."""
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=["clips", "mix"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeat", type=_positive, default=3, help="runs per peer and corpus")
    parser.add_argument("--scale", type=_scale, default=0.2, help="below 1: fewer clips and shorter recordings")
    parser.add_argument(
        "--subset", type=_positive, default=2, help="number of files for peers that load models for each file"
    )
    parser.add_argument(
        "--overhead-jobs", type=int, default=5, help="jobs of the overhead measurement, one at a time; 0 skips it"
    )
    parser.add_argument("--full", action="store_true", help="five runs of everything, about eight hours")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=_setting,
        help="a setting of transcriptd, as in max_jobs_in_flight=8",
    )
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    parser.add_argument("--write", action="store_true", help="write the tables to docs/performance.md")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    arguments = parser.parse_args()
    if arguments.full:
        vars(arguments).update(FULL)
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _scale(text: str) -> float:
    scale = float(text)
    if not scale > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return scale


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("must be NAME=VALUE")
    return name, value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nWithout arguments it takes about 35 minutes on 2 idle cores.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="base", help="base, tiny.en, a folder, or a model name of faster-whisper")
    add_arguments(parser)
    arguments = parse(parser)
    setup = Setup(find_model(arguments.model), daemon_settings=tuple(arguments.settings))
    rows, jobs = run(arguments, setup, Console(stderr=True, highlight=False))
    measured = report(rows, jobs, setup, arguments.scale)
    print(measured)
    if arguments.write:
        write_measured(PAGE, COMMAND, measured)
    return 0


if __name__ == "__main__":
    sys.exit(main())
